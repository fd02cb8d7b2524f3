"""Folders that appear under their name only when they are whole."""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from synbb.errors import RunEnded, SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPEC_FILE = "phantom.yaml"
"""What a phantom was made from; a folder without it was not made by us."""


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` to write into; renamed to it at the end, removed when anything goes wrong.

    What a killed process left is cleared by the next one.

    Raises:
        SynbbError: the place cannot be written to.
        RunEnded: the disk is full.
    """
    stage = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        yield stage
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        stage.rename(target)
    except OSError as error:
        kind = RunEnded if error.errno in (errno.ENOSPC, errno.EDQUOT) else SynbbError
        raise kind(f"{target}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def phantom_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """As :func:`staged_folder`, for a phantom, which may take the place of another one.

    Args:
        target: to create.
        overwrite: replace a phantom that is there. Nothing else is ever replaced; the old one goes when the new one
            is whole.

    Raises:
        SynbbError: there is something, and it may not be replaced; or the place cannot be written to.
        RunEnded: the disk is full.
    """
    there = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if there and not overwrite:
        raise SynbbError(
            f"{target}: exists already; choose another folder, remove it, or ask to overwrite it (--overwrite)"
        )
    if there and not (target / SPEC_FILE).is_file():
        raise SynbbError(f"{target}: exists and is not a phantom, so it is not overwritten; remove it yourself")
    with staged_folder(target) as stage:
        yield stage
        if there:
            shutil.rmtree(target)
