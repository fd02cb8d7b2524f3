"""The one exception class that a user is meant to see.

Everything else is a defect and keeps its traceback.
"""

from __future__ import annotations


class SynbbError(Exception):
    """A user's mistake: the message names the thing, its value and the remedy.

    The command line prints the message alone and exits with :attr:`exit_status`.
    """

    exit_status = 2


class RunEnded(SynbbError):
    """A run that was well asked for but had to end (NaN loss, full disk, failed blocks)."""

    exit_status = 3
