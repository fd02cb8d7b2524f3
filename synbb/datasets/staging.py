"""Folders that appear under their name only when they are whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from synbb.errors import SynbbError, disk_errors, make_folder
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
    with _alone(target, place) as alone:
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


@contextmanager
def _alone(target: Path, place: Path) -> Iterator[bool]:
    """Keep other processes from making ``place`` meanwhile.

    The system takes the lock back when its process ends, however that ends.

    Yields:
        Whether this process is the only one for sure, which cannot be known where the file system has no locks.
    """
    lock = place.with_name(f".{place.name}.lock")
    file, alone = _locked(target, lock)
    with file:
        try:
            yield alone
        finally:
            lock.unlink(missing_ok=True)


def _locked(target: Path, lock: Path) -> tuple[IO[str], bool]:
    """The open lock, and whether it holds."""
    while True:
        with disk_errors(target):
            file = lock.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise SynbbError(
                f"{target}: another process is making it at this moment ({lock.name} is locked); wait for it to end"
            ) from None
        except OSError:
            return file, False
        if _is_at(lock, file):
            return file, True
        file.close()  # its owner removed it after we had opened it


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
