"""The training loop: plain and short, so that the order of an optimiser step can be seen.

    batch → network → loss → backward → clip → optimiser → schedule → pruner

It knows a Task and a Pruner only. Lightning Fabric places model and data and handles precision and processes.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING

import torch

from synbb.errors import RunEnded
from synbb.pruning import BudgetedBroadcast, Pruner
from synbb.pruning.degrees import decided_fit, directions
from synbb.tasks.base import Batch, Task
from synbb.training.checkpoint import remove_temporary
from synbb.training.config import RunConfig
from synbb.training.keeping import check_weights, checkpoint, last_good, restore, seed_generators, validate
from synbb.training.loader import Prefetcher
from synbb.training.run import RunFolder
from synbb.training.session import Session, make_fabric, make_session

if TYPE_CHECKING:
    from synbb.pruning.observing import Valid

STOPPED_BY_SIGNAL = 75
"""Exit status of a run that a signal ended: checkpointed, to be continued with ``--resume`` (EX_TEMPFAIL)."""

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
RECORD_EVERY = 10

Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]


class StoppedBySignal(RunEnded):
    """SIGTERM, SIGUSR1 or Ctrl-C came: the step was finished and checkpointed."""

    exit_status = STOPPED_BY_SIGNAL


def train(
    config: RunConfig, task: Task, run: RunFolder, *, resume: bool, say: Say, progress: Progress | None = None
) -> None:
    """Train ``task`` as ``config`` says into ``run``.

    Args:
        config: the settings of the run.
        task: prepared.
        run: its folder.
        resume: continue from the folder's checkpoint.
        say: prints a line for a person.
        progress: called after each step with (steps done, steps in all, note).

    Raises:
        RunEnded: NaN loss, full disk, or a signal (:class:`StoppedBySignal`).
        SynbbError: the checkpoint, the devices or the pruning settings do not fit.
    """
    settings = config.training
    with _signals() as received:
        fabric = make_fabric(settings)
        fabric.launch()
        session = make_session(config, task, run, fabric)
        seed_generators(session, 0)
        first = 0
        if resume:
            if fabric.is_global_zero:
                remove_temporary(run.path)
            first = restore(session)
            say(f"resuming after step {first} of {settings.steps}" if first < settings.steps else "trained already")
        loader = Prefetcher(
            task,
            first,
            settings.steps,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            threads=settings.loader_threads,
            ahead=settings.prefetch,
        )
        try:
            _steps(session, loader, received, say, progress)
        finally:
            loader.close()
            session.events.close()


def _steps(session: Session, loader: Prefetcher, received: list[int], say: Say, progress: Progress | None) -> None:
    settings = session.config.training
    began, count = time.perf_counter(), 0
    for step, cpu_batch in loader:
        loss = _step(session, step, cpu_batch)
        done, count = step + 1, count + 1
        last = done == settings.steps
        rate = count / (time.perf_counter() - began)
        if progress is not None:
            progress(done, settings.steps, f"loss {loss:.3f}")
        if done % RECORD_EVERY == 0 or last:
            session.record(
                "train", done, loss=loss, learning_rate=session.learning_rate, steps_per_second=round(rate, 4)
            )
        stop = _signal(session, received)
        due = done % settings.validate_every == 0 or last
        if due or done % settings.checkpoint_every == 0 or stop:
            check_weights(session, done)
        if due:
            line = validate(session, done)
            if line is not None:
                say(line)
        if due or done % settings.checkpoint_every == 0 or stop:
            checkpoint(session, done)
        if stop and not last:
            raise StoppedBySignal(
                f"{signal.Signals(stop).name} after step {done} of {settings.steps}: checkpoint written, "
                "continue with --resume"
            )


def _step(session: Session, step: int, cpu_batch: Batch) -> float:
    """One optimiser step; returns its loss, averaged over the processes.

    Raises:
        RunEnded: loss or gradient is not finite; the weights are still those of the step before.
    """
    fabric, model, optimizer = session.fabric, session.model, session.optimizer
    model.train()
    batch = cpu_batch.to(fabric.device)
    with _valid(session, batch.valid):
        loss = session.task.loss(model(*batch.inputs), batch)
    value = float(fabric.all_reduce(loss.detach()))
    if not math.isfinite(value):
        raise RunEnded(f"the loss is {value} at step {step + 1}; {last_good(session)}")
    fabric.backward(loss)
    limit = session.config.training.gradient_clip or math.inf
    norm = fabric.clip_gradients(model, optimizer, max_norm=limit, error_if_nonfinite=False)
    if norm is not None and not bool(torch.isfinite(norm)):
        raise RunEnded(f"the gradient is {float(norm)} at step {step + 1}; {last_good(session)}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    session.scheduler.step()
    if session.pruner is not None and session.pruner.step():
        session.record("refresh", step + 1, **_refreshed(session.pruner))
    return value


def _refreshed(pruner: Pruner) -> dict[str, float]:
    """What a refresh did: realised density, churn, and how well degrees meet the law on the on-rates it used."""
    values = {"density": pruner.density(), "churn": pruner.churn, "spread": pruner.spread()}
    if isinstance(pruner, BudgetedBroadcast):
        values["beta"] = pruner.beta
        for direction in directions(pruner):
            fit = decided_fit(pruner, direction)
            if not math.isnan(fit.r_squared):
                values |= {f"{direction}_r_squared": fit.r_squared, f"{direction}_clipped": fit.clipped_share}
    return values


def _valid(session: Session, mask: Valid) -> AbstractContextManager[None]:
    """Leave ignored voxels and padding out of the on-rates."""
    return nullcontext() if session.pruner is None else session.pruner.valid(mask)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect signals instead of dying of them; the loop looks after each step. A second Ctrl-C ends it at once."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, remember) for number in STOPPING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(session: Session, received: list[int]) -> int:
    """The signal that came, 0 for none; all processes agree, so that all end after the same step."""
    mine = received[0] if received else 0
    if session.fabric.world_size == 1:
        return mine
    return int(session.fabric.all_reduce(torch.tensor(mine, device=session.fabric.device), reduce_op="max"))
