"""Which files lie below a folder, and the order in which those of a dataset are taken."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def natural(paths: Iterable[Path]) -> list[Path]:
    """By name, numbers in names by their value."""
    return sorted(paths, key=lambda path: (_key(path.name), path.name))


def natural_names(names: Iterable[str]) -> list[str]:
    """As :func:`natural`, of names that need not be those of files: a slash is a character as any other."""
    return sorted(names, key=lambda name: (_key(name), name))


def natural_paths(paths: Iterable[Path]) -> list[Path]:
    """By folder after folder, then name, numbers in all of them by their value."""
    return sorted(paths, key=lambda path: ([_key(part) for part in path.parts], path.parts))


def _key(name: str) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def files_below(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, through links to folders too, each folder once.

    Folders below it that are hidden are passed over: what was thrown away or is kept by another program lies there.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        found = here.stat()
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        for path in sorted(here.iterdir(), reverse=True):  # the first of several ways to a folder is taken
            if path.is_dir():
                if not path.name.startswith("."):
                    waiting.append(path)
            else:
                yield path
