"""Where the commands print: one console, and progress bars that are quiet when nobody watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Report(Protocol):
    """What a long step calls: done, total, and perhaps a word on how it goes."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Move the bar."""


console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def progress(label: str, unit: str = "") -> Iterator[Report]:
    """A progress bar with rate and time left, for functions that report ``(done, total)``.

    Args:
        label: what is going on.
        unit: what is counted ("blocks", "steps").
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit + "{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=1, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=f"  {note}" if note else "")

        yield report
