"""A study from its settings to its table: what is done is skipped, what is missing is run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import synbb
from synbb.errors import RunEnded, SynbbError, disk_errors
from synbb.experiments.child import SCORED
from synbb.experiments.config import StudySettings
from synbb.experiments.plan import PlannedRun
from synbb.experiments.runner import Resources, Say, run_all
from synbb.locks import try_lock
from synbb.pruning.rows import Row, RunTable
from synbb.training.checkpoint import read_json


class StudyIncomplete(RunEnded):
    """Runs failed; the others are in the table."""


@dataclass(frozen=True)
class Progress:
    """What there is of a study.

    Attributes:
        done: runs with a row.
        todo: runs to do, each after the one whose masks it needs; some of them have a row and lost their masks.
        other: rows of the study's cells with other settings, which do not count.
    """

    done: list[PlannedRun]
    todo: list[PlannedRun]
    other: list[Row]

    def seconds(self, table: RunTable) -> float | None:
        """Time that the missing runs will take one after the other, from rows of this study; None without any."""
        known = [float(row["seconds"]) for row in self._rows(table) if row.get("seconds")]
        return len(self.todo) * sum(known) / len(known) if known else None

    def _rows(self, table: RunTable) -> list[Row]:
        found = [table.find(each.cell, each.config_hash) for each in self.done]
        return [row for row in found if row is not None]


def table_of(study: StudySettings, output: Path) -> RunTable:
    """The table of a study.

    Raises:
        SynbbError: the file is no table of runs.
    """
    return RunTable(Path(study.table) if study.table else output / "runs.csv")


def look(planned: list[PlannedRun], table: RunTable) -> Progress:
    """Compare the plan with the table."""
    known = {each.cell: each for each in planned}
    done = [each for each in planned if table.find(each.cell, each.config_hash) is not None]
    needed = {each.cell for each in planned} - {each.cell for each in done}
    for each in reversed(planned):  # a run comes after the one that it needs
        if each.cell in needed and each.after is not None and not _has_masks(known[each.after]):
            needed.add(each.after)
    other = [row for each in planned for row in table.others(each.cell, each.config_hash)]
    return Progress(done, [each for each in planned if each.cell in needed], other)


def run_study(
    study: StudySettings, planned: list[PlannedRun], output: Path, *, resources: Resources, say: Say
) -> RunTable:
    """Do what is missing.

    Args:
        study: the settings.
        planned: its runs.
        output: its folder.
        resources: processes, threads, GPUs.
        say: prints a line.

    Returns:
        The table with all rows.

    Raises:
        StudyIncomplete: runs failed.
        StudyStopped: a signal came; here, too, rows that were finished are in the table.
        SynbbError: another process works on the same folder.
    """
    table = table_of(study, output)
    with _alone(output):
        progress = look(planned, table)
        if progress.done:
            say(f"{len(progress.done)} of {len(planned)} runs have a row in {table.path} already")
        if progress.other:
            say(f"{len(progress.other)} rows of {table.path} were made with other settings and are passed over")
        total, count, began = len(planned), len(planned) - len(progress.todo), time.perf_counter()
        about = {"synbb": synbb.__version__, "commit": commit()}

        def finished(run: PlannedRun, scored: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            row = table.append(run.cell, run.config_hash, {**about, **scored["row"]})
            each = (time.perf_counter() - began) / (count - total + len(progress.todo))
            left = f", about {(total - count) * each / 60:.0f} min left" if count < total else ""
            say(f"{count}/{total} {run.cell}: {row['main']} {row[row['main']]}{left}")

        missing = []
        for run in progress.todo:  # scored, but stopped before its row was written
            scored = scored_of(run)
            if scored is not None and table.find(run.cell, run.config_hash) is None:
                finished(run, scored)
            elif scored is None or not run.masks_file.is_file():
                missing.append(run)
        problems = run_all(missing, resources, study.keep, output / "logs", finished, say)
    if problems:
        raise StudyIncomplete(
            f"{len(problems)} of {total} runs failed or could not be begun; the same call tries them again"
        )
    return table


def _has_masks(run: PlannedRun) -> bool:
    """Whether its masks are there, and not those of a run with other settings at the same place."""
    return run.masks_file.is_file() and scored_of(run) is not None


def scored_of(run: PlannedRun) -> dict[str, Any] | None:
    """What a run left when it was scored; None when it was not, or when another run lies at its place.

    Raises:
        SynbbError: the file is damaged.
    """
    file = run.folder / SCORED
    if not file.is_file():
        return None
    scored = read_json(file)
    return scored if scored.get("config_hash") == run.config_hash else None


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep a second study out of the folder, where its file system has locks."""
    with disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        handle = (output / ".lock").open("w")
    with handle:
        if try_lock(handle) is False:
            raise SynbbError(f"{output}: another synbb compare is at work there; wait for it or stop it")
        yield


def commit() -> str:
    """Short commit of the checkout that this package lies in, + if it was changed since; empty outside of one."""
    package = Path(synbb.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short", "HEAD")
        return head + "+" if head and git("status", "--porcelain", "--", ".") else head
    except FileNotFoundError:  # no git here
        return ""
