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


def _rate(task: Task) -> float:
    """Units a second since the first report of this call; 0 while none is done.

    Rich's own estimate looks at the last half minute: blocks of a minute would have none, and the first two, which come
    together, one that is much too high.
    """
    done = task.completed - task.fields["before"]
    return done / task.elapsed if done > 0 and task.elapsed else 0.0


class RateColumn(ProgressColumn):
    """How much is done in a second, or how long one takes."""

    def render(self, task: Task) -> Text:
        """``3.1/s``, or ``12.0 s each``."""
        rate = _rate(task)
        if not rate:
            return Text("")
        return Text(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")


class LeftColumn(ProgressColumn):
    """The time that is left, once there is a rate to tell it from."""

    def render(self, task: Task) -> Text:
        """``about 0:02:10 left``, or nothing."""
        rate = _rate(task)
        if not rate or task.total is None or task.completed >= task.total:
            return Text("")
        minutes, seconds = divmod(round((task.total - task.completed) / rate), 60)
        return Text(f"about {minutes // 60}:{minutes % 60:02}:{seconds:02} left")


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
        task = bar.add_task(label, total=None, count="", note="", before=0)

        def report(done: int, total: int, note: str = "") -> None:
            if bar.tasks[task].total is None:
                bar.reset(task, total=total, completed=done)
                bar.update(task, before=done)  # what an earlier call did is no part of the rate
            bar.update(task, completed=done, total=total, count=f"{done:,}/{total:,} {unit}", note=note)

        yield report
