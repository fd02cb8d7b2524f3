"""Children that train the runs of a study, several at a time, and what is done when one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from synbb.errors import RunEnded
from synbb.experiments import child
from synbb.experiments.child import SCORED, Job
from synbb.experiments.plan import PlannedRun
from synbb.pruning.rows import Cell
from synbb.training.checkpoint import read_json
from synbb.training.loop import STOPPED_BY_SIGNAL, STOPPING

Say = Callable[[str], None]
Finished = Callable[[PlannedRun, dict[str, Any]], None]
LOOK_EVERY = 0.5
LAST_LINES = 12
ONE_SIGNAL = 1.0
"""Seconds in which a signal that comes again is the same one: ``timeout`` sends it to the process and to its group."""


class StudyStopped(RunEnded):
    """A signal ended the study: runs that trained have written a checkpoint, the rows done are kept."""

    exit_status = STOPPED_BY_SIGNAL


@dataclass(frozen=True)
class Resources:
    """What a study may use.

    Attributes:
        jobs: runs at a time.
        threads: of each.
        gpus: those that are seen, as CUDA_VISIBLE_DEVICES names them; runs take turns on them.
    """

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()

    @classmethod
    def of(cls, jobs: int | None, threads: int | None) -> Resources:
        """As asked for; by default one run for each GPU, else one run, and all cores shared among the runs."""
        import torch

        gpus = _gpus_named(torch.cuda.device_count())
        some = jobs or max(1, len(gpus))
        each = threads or _threads_asked_for() or max(1, len(os.sched_getaffinity(0)) // some)
        return cls(some, each, gpus)


def _threads_asked_for() -> int:
    """Of OMP_NUM_THREADS, whose first number is that of the outermost level ("4,1"); 0 where it says none."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _gpus_named(count: int) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that are seen; without it they are numbered."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if chosen is None else chosen.split(",")
    return tuple(name.strip() for name in names[:count])


@dataclass
class _Running:
    planned: PlannedRun
    process: BaseProcess
    held: Connection  # the child ends when this end is closed
    gpu: str | None


def run_all(
    todo: list[PlannedRun], resources: Resources, keep: str, logs: Path, finished: Finished, say: Say
) -> list[str]:
    """Train and score runs; those that need the masks of another one wait for it.

    Args:
        todo: runs, each after the one that it needs.
        resources: processes, threads, GPUs.
        keep: what stays of a scored run.
        logs: folder for what the runs say.
        finished: called with a run and what its ``scored.json`` holds.
        say: prints a line.

    Returns:
        One message for each run that failed or could not be begun.

    Raises:
        StudyStopped: SIGINT, SIGTERM or SIGUSR1 came.
    """
    # Fork from a process that has everything imported and no threads; CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn" if resources.gpus else "forkserver")
    if not resources.gpus:
        context.set_forkserver_preload([child.__name__])
    waiting, failed, problems = list(todo), set[Cell](), list[str]()
    running: list[_Running] = []
    with _signals() as received, _threads(resources.threads):
        if not resources.gpus:
            _start_forkserver()
        while (waiting or running) and not received:
            known = len(problems)
            _start_what_can(waiting, running, failed, problems, resources, keep, logs, context)
            for problem in problems[known:]:
                say(problem)
            wait([each.process.sentinel for each in running], timeout=LOOK_EVERY)
            if received:
                break  # it may have come to the children too: those that ended did not fail
            for each in [each for each in running if not each.process.is_alive()]:
                running.remove(each)
                each.held.close()
                ended = _ended(each, logs, finished)
                if ended is not None:
                    failed.add(each.planned.cell)
                    problems.append(ended)
                    say(ended)
        if received:
            _stop(running, logs, finished)
            name = signal.Signals(received[0]).name
            raise StudyStopped(f"{name}: the runs are stopped and what is finished is kept; the same call continues")
    return problems


def _start_forkserver() -> None:
    """Have the process that children are forked from outlive a signal to the whole group: it tells how they ended.

    Blocked, not ignored: what comes to a child before it has begun then meets it when it begins.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # the tracker's start lets go of some
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_what_can(
    waiting: list[PlannedRun],
    running: list[_Running],
    failed: set[Cell],
    problems: list[str],
    resources: Resources,
    keep: str,
    logs: Path,
    context: Any,
) -> None:
    for planned in list(waiting):
        if planned.after in failed:
            waiting.remove(planned)
            failed.add(planned.cell)
            problems.append(f"{planned.cell}: not run, as it needs the masks of {planned.after}, which failed")
            continue
        pending = {each.cell for each in waiting} | {each.planned.cell for each in running}
        if len(running) >= resources.jobs or planned.after in pending:
            continue
        waiting.remove(planned)
        used = [each.gpu for each in running]
        gpu = min(resources.gpus, key=used.count) if len(resources.gpus) > 1 else None
        job = Job(
            config=planned.config.plain(),
            config_hash=planned.config_hash,
            folder=planned.folder,
            evidence=planned.evidence,
            log=_log(logs, planned),
            keep=keep,
            threads=resources.threads,
            gpu=gpu,
        )
        ours, theirs = context.Pipe(duplex=False)[::-1]
        process = context.Process(target=child.main, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        running.append(_Running(planned, process, ours, gpu))


def _log(logs: Path, planned: PlannedRun) -> Path:
    return logs / planned.cell.fold / f"{planned.folder.name}.log"


def _ended(run: _Running, logs: Path, finished: Finished) -> str | None:
    """Pass on what a child left; a message if it failed."""
    status = run.process.exitcode
    if status == 0:
        finished(run.planned, read_json(run.planned.folder / SCORED))
        return None
    if status == STOPPED_BY_SIGNAL:
        return f"{run.planned.cell}: stopped by a signal; the same call continues it"
    log = _log(logs, run.planned)
    how = f"exit status {status}"
    if status is not None and status < 0:
        how = f"killed by {signal.Signals(-status).name}" + (" (out of memory?)" if status == -signal.SIGKILL else "")
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:] if log.exists() else []
    return "\n  ".join([f"{run.planned.cell} failed, {how}; the end of {log}:", *lines])


def _stop(running: list[_Running], logs: Path, finished: Finished) -> None:
    """End all children; what finished nevertheless counts."""
    for each in running:
        if each.process.is_alive():
            each.process.terminate()
    for each in running:
        each.process.join()
        each.held.close()
        if each.process.exitcode == 0:
            _ended(each, logs, finished)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect signals instead of dying of them; another one, a second after the first, ends the study at once."""
    received: list[int] = []
    first = 0.0

    def remember(number: int, _: FrameType | None) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
        elif time.monotonic() - first > ONE_SIGNAL:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, remember) for number in STOPPING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Have children begin with so many threads."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
