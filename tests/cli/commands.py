"""Running ``synbb`` as its entry point does, and what every refusal has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    error: str


Cli = Callable[..., Ended]


def assert_refused(ended: Ended, output: Path, *parts: str, status: int = 2) -> None:
    """One message that holds all ``parts``, no traceback, nothing left beside ``output``."""
    assert ended.status == status, ended.error
    assert ended.error.startswith("synbb: ")
    assert "Traceback" not in ended.error
    for part in parts:
        assert part in ended.error, ended.error
    assert not list(output.parent.iterdir())
