"""Folders that appear under their name only when they are whole."""

from __future__ import annotations

import shutil
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from synbb.errors import SynbbError, disk_errors, make_folder
from synbb.locks import alone_at
from synbb.volumes.writing import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def staged_folder(target: Path, may_replace: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A folder beside ``target`` to write into; put in its place at the end, removed when anything goes wrong.

    Where ``target`` is a link, its place is where the link leads. One process at a time makes it; what a killed one
    left is cleared by the next.

    Args:
        target: to create; it may be there when it is empty.
        may_replace: is given the place when something is there, and raises :class:`SynbbError` unless that may be
            replaced; without it nothing is. What was there stays until the new folder stands in its place.

    Raises:
        SynbbError: something is there that may not be replaced, another process makes the same folder, or the place
            cannot be written to.
        RunEnded: the disk is full.
    """
    place = target.resolve()
    _refuse_standing(target, place)
    make_folder(place.parent)
    busy = f"{target}: another process is making it at this moment; wait for it to end"
    with alone_at(place, busy) as alone:
        _refuse_taken(target, place, may_replace)
        stage = place.with_name(f".{place.name}.partial" if alone else f".{place.name}.{uuid.uuid4().hex}.partial")
        try:
            with disk_errors(target):
                shutil.rmtree(stage, ignore_errors=True)
                stage.mkdir()
            yield stage
            _refuse_taken(target, place, may_replace)  # something may have been put there meanwhile
            publish(stage, place)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _refuse_standing(target: Path, place: Path) -> None:
    """Folders that stay where they are: another one cannot take their place, or not without harm."""
    if place.is_mount():
        raise SynbbError(f"{target}: is the top of a file system, which cannot be replaced; name a folder below it")
    if place.is_dir() and place.samefile("."):
        raise SynbbError(
            f"{target}: is the folder you are in, and a new one would take its place; go elsewhere and give its path"
        )


def _refuse_taken(target: Path, place: Path, may_replace: Callable[[Path], None] | None) -> None:
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if may_replace is None:
        raise SynbbError(f"{target}: exists already; remove it, or choose another folder")
    may_replace(place)
