"""Warnings: ours are one line, others keep their place in the code."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, warnings
from synbb.cli import app
def command():
    warnings.warn("synbb: on-rates differ little [yet]")
    warnings.warn("of another library")
app.app = command
app.main()
"""


def test_our_warnings_are_one_line() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, *others = ended.stderr.splitlines()
    assert first == "synbb: on-rates differ little [yet]"
    assert "UserWarning: of another library" in others[0]
