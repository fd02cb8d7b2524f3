"""The one exception class that a user is meant to see.

Everything else is a defect and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NOT_ALLOWED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
)


START_AGAIN = "free some space, then start again"


class SynbbError(Exception):
    """A user's mistake: the message names the thing, its value and the remedy.

    The command line prints the message alone and exits with :attr:`exit_status`.
    """

    exit_status = 2


class RunEnded(SynbbError):
    """A run that was well asked for but had to end (NaN loss, full disk, failed blocks)."""

    exit_status = 3


def get_extra(name: str) -> str:
    """How a person comes by an extra of this project, which is in no package index: the end of a message."""
    return f"in the checkout of synbb: pip install -c constraints.txt -e '.[{name}]'"


@contextmanager
def disk_errors(path: str | Path, remedy: str = START_AGAIN) -> Iterator[None]:
    """Turn a full disk while writing ``path`` into :class:`RunEnded`, a forbidden place into :class:`SynbbError`.

    Args:
        path: what is written, for the message.
        remedy: what to do about a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise RunEnded(f"{path}: the disk (or its quota) is full: {error.strerror}; {remedy}") from error
        if error.errno in NOT_ALLOWED:
            raise SynbbError(f"{path}: cannot be written here ({error}); choose another place") from error
        raise


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it, where they are not there.

    Raises:
        SynbbError: that is not possible there.
        RunEnded: the disk is full.
    """
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise SynbbError(
                f"{folder}: this folder cannot be made ({error.strerror}); choose another place"
            ) from error
