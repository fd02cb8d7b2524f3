"""Locks of files, which the system takes back when their process ends, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from synbb.errors import SynbbError, disk_errors


def try_lock(file: IO[Any], kind: int = fcntl.LOCK_EX) -> bool | None:
    """Lock ``file`` as ``kind`` says: False where another process has it, None where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # Lustre and NFS, as they may be mounted, each with an error number of its own
        return None
    return True


@contextmanager
def alone_at(place: Path, busy: str | None) -> Iterator[bool]:
    """Keep other processes that ask likewise from ``place``, by a file ``.NAME.lock`` beside it, removed at the end.

    Args:
        place: in a folder that is there.
        busy: what to say where another process is at it; None waits for that one to end.

    Yields:
        Whether this process is the only one for sure, which cannot be known where the file system has no locks.

    Raises:
        SynbbError: another process is at it, or the lock cannot be made there.
        RunEnded: the disk is full.
    """
    lock = place.with_name(f".{place.name}.lock")
    file, held = _locked(place, lock, busy)
    with file:
        try:
            yield held
        finally:
            lock.unlink(missing_ok=True)


def _locked(place: Path, lock: Path, busy: str | None) -> tuple[IO[bytes], bool]:
    while True:
        with disk_errors(place):
            file = lock.open("ab")
        held = try_lock(file)
        if held is False:
            if busy is not None:
                file.close()
                raise SynbbError(busy)
            fcntl.flock(file, fcntl.LOCK_EX)
        if held is None:
            return file, False
        if _is_at(lock, file):
            return file, True
        file.close()  # its owner removed it after it was opened here, and the next one locks another file


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
