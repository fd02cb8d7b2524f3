"""Where the ``synbb`` command begins: Ctrl-C ends it without a traceback, from the first moment on.

Importing torch takes seconds, and a ``KeyboardInterrupt`` raised inside an import shows pages of other people's code or
is turned into another error there. Nothing of ours is under way then, so the process ends at once. Later the
exception is raised as usual, unless a command has put a handler of its own in its place.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""Status of a command that Ctrl-C ended, as shells have it."""


def main() -> None:
    """Entry point of the console script and of ``python -m synbb``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the caller has it ignored
        signal.signal(signal.SIGINT, _interrupted)
    from synbb.cli.app import main as command

    command()


def _interrupted(number: int, frame: FrameType | None) -> None:
    outer = frame
    while outer is not None:
        if outer.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(INTERRUPTED)
        outer = outer.f_back
    signal.default_int_handler(number, frame)
