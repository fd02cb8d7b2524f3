"""Checksums of pixels, files and trees of files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray


def pixel_sha256(sections: Iterable[NDArray[Any]], columns: int) -> str:
    """sha256 of the pixels of sections (y, x), uint8, in order, of the first ``columns`` columns only."""
    digest = hashlib.sha256()
    for section in sections:
        digest.update(np.ascontiguousarray(section[:, :columns], dtype=np.uint8).tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        SynbbError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SynbbError(f"{path}: cannot be read ({error.strerror}); get the file again") from error


@dataclass(frozen=True)
class Tree:
    """Files (relative to a folder, sorted), their bytes in all and the checksum of names, sizes and contents."""

    names: tuple[str, ...]
    size: int
    sha256: str


def names_in(folder: Path, pattern: str) -> list[str]:
    """Files below ``folder`` that match a pattern, relative to it, but hidden ones, as programs leave them."""
    found = [path.relative_to(folder) for path in folder.glob(pattern) if path.is_file()]
    return [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]


def tree_of(folder: Path, include: Iterable[str]) -> Tree:
    """The files below ``folder`` that match one of the patterns, see :func:`names_in`.

    The checksum is that of the lines ``name NUL size NUL sha256-of-content NEWLINE`` sorted by name, so it does not
    depend on the file system.
    """
    names = sorted({name for pattern in include for name in names_in(folder, pattern)})
    digest, total = hashlib.sha256(), 0
    for name in names:
        size = (folder / name).stat().st_size
        total += size
        line = f"{name}\0{size}\0{file_sha256(folder / name)}\n"
        digest.update(line.encode(errors="surrogateescape"))  # names are bytes on Linux, and need be no UTF-8
    return Tree(tuple(names), total, digest.hexdigest())
