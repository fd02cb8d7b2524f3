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
