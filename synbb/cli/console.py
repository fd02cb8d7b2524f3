"""Where the commands print: one console, and progress bars that are quiet when nobody watches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class Report(Protocol):
    """What a long step calls: done, total, and perhaps a word on how it goes."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Move the bar."""


class LeftColumn(ProgressColumn):
    """The time that is left, once there is a rate to tell it from."""

    def render(self, task: Task) -> Text:
        """``about 0:02:10 left``, or nothing."""
        left = task.time_remaining
        if not left or task.finished:
            return Text("")
        minutes, seconds = divmod(int(left), 60)
        return Text(f"about {minutes // 60}:{minutes % 60:02}:{seconds:02} left")


class RateColumn(ProgressColumn):
    """How much is done in a second, or how long one takes."""

    def render(self, task: Task) -> Text:
        """The rate over the last half minute."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


PIPE_WIDTH = 120
"""Columns of tables in pipes and log files, which have no width of their own; names stay whole."""

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = PIPE_WIDTH
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
        TextColumn("{task.fields[count]}"),
        RateColumn(),
        TimeElapsedColumn(),
        LeftColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=None, count="", note="")

        def report(done: int, total: int, note: str = "") -> None:
            if bar.tasks[task].total is None:
                bar.reset(task, total=total, completed=done)  # what an earlier call did is no part of the rate
            bar.update(task, completed=done, total=total, count=f"{done:,}/{total:,} {unit}", note=note)

        yield report
