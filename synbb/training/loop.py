"""The training loop: plain and short, so that the order of an optimiser step can be seen.

    batch → network → loss → backward → clip → optimiser → schedule → pruner

It knows a Task and a Pruner only. Lightning Fabric places model and data and handles precision and processes.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from synbb.errors import RunEnded, SynbbError
from synbb.pruning import BudgetedBroadcast, Magnitude, Pruner, RandomMask, report
from synbb.tasks.base import Task, Validation
from synbb.training.checkpoint import load_checkpoint, save_checkpoint, save_weights, write_json
from synbb.training.config import PruningSettings, RunConfig, TrainingSettings
from synbb.training.loader import Prefetcher
from synbb.training.run import RunFolder

STOPPED_BY_SIGNAL = 75
"""Exit status of a run that SIGTERM or SIGUSR1 ended: checkpointed, to be continued with ``--resume`` (EX_TEMPFAIL)."""

RECORD_EVERY = 10

Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]


class StoppedBySignal(RunEnded):
    """SIGTERM or SIGUSR1 came: the step was finished and checkpointed."""

    exit_status = STOPPED_BY_SIGNAL


@dataclass
class Session:
    """Everything that lives while a run trains."""

    config: RunConfig
    task: Task
    run: RunFolder
    fabric: Fabric
    model: nn.Module  # what is called: Fabric's wrapper
    net: nn.Module  # the network itself
    optimizer: Any
    scheduler: torch.optim.lr_scheduler.LRScheduler
    pruner: Pruner | None
    best: float = -math.inf


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
        progress: called with (steps done, steps in all, note).

    Raises:
        RunEnded: NaN loss, full disk, or a signal (:class:`StoppedBySignal`).
        SynbbError: the checkpoint does not fit.
    """
    fabric = _fabric(config.training, run)
    fabric.launch()
    if config.training.batch_size % fabric.world_size:
        raise SynbbError(
            f"training.batch_size {config.training.batch_size} must be a multiple of the {fabric.world_size} devices"
        )
    session = _session(config, task, run, fabric)
    first = _restore(session) if resume else 0
    if resume:
        say(f"resuming after step {first} of {config.training.steps}")
    fabric.seed_everything(config.seed + fabric.global_rank + 1_000_003 * first, verbose=False)
    loader = Prefetcher(
        task,
        first,
        config.training.steps,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        threads=config.training.loader_threads,
        ahead=config.training.prefetch,
    )
    try:
        with _signals() as stop:
            _steps(session, loader, stop, say, progress)
    finally:
        loader.close()


def _steps(session: Session, loader: Prefetcher, stop: list[int], say: Say, progress: Progress | None) -> None:
    settings = session.config.training
    began, began_at = time.perf_counter(), None
    for step, cpu_batch in loader:
        began_at = step if began_at is None else began_at
        loss = _step(session, step, cpu_batch)
        done = step + 1
        last = done == settings.steps
        if done % RECORD_EVERY == 0 or last:
            rate = (done - began_at) / (time.perf_counter() - began)
            _record(session, "train", done, loss=loss, learning_rate=_learning_rate(session), steps_per_second=rate)
            if progress is not None:
                progress(done, settings.steps, f"loss {loss:.3f}, {rate:.2f} steps/s")
        if done % settings.validate_every == 0 or last:
            _validate(session, done, say)
        if done % settings.checkpoint_every == 0 or done % settings.validate_every == 0 or last or stop:
            _checkpoint(session, done)
        if stop and not last:
            name = signal.Signals(stop[0]).name
            raise StoppedBySignal(
                f"{name} after step {done} of {settings.steps}: checkpoint written, continue with --resume"
            )


def _step(session: Session, step: int, cpu_batch: Any) -> float:
    """One optimiser step; returns its loss.

    Raises:
        RunEnded: the loss is not finite; weights and checkpoint are still those of the step before.
    """
    settings = session.config.training
    session.model.train()
    batch = cpu_batch.to(session.fabric.device)
    with _valid(session.pruner, batch.valid):
        loss = session.task.loss(session.model(batch.inputs), batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RunEnded(
            f"the loss is {value} at step {step + 1}; the last good checkpoint is kept in {session.run.checkpoint_file}. "
            "Lower training.learning_rate, or look for extreme grey values in the data"
        )
    session.fabric.backward(loss)
    if settings.gradient_clip:
        session.fabric.clip_gradients(session.model, session.optimizer, max_norm=settings.gradient_clip)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    session.scheduler.step()
    if session.pruner is not None and session.pruner.step():
        _record(session, "refresh", step + 1, density=session.pruner.density(), churn=session.pruner.churn)
    return value


# ---- making ----


def _fabric(settings: TrainingSettings, run: RunFolder) -> Fabric:
    cuda = torch.cuda.is_available() and settings.accelerator != "cpu"
    if settings.accelerator == "cuda" and not cuda:
        raise SynbbError("training.accelerator=cuda, but torch sees no GPU; use accelerator=auto or cpu")
    devices = settings.devices if settings.devices != "auto" else ("auto" if cuda else 1)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true"
    logger = TensorBoardLogger(root_dir=run.path, name="tensorboard", version="")
    return Fabric(accelerator="cuda" if cuda else "cpu", devices=devices, precision=precision, loggers=logger)


def _session(config: RunConfig, task: Task, run: RunFolder, fabric: Fabric) -> Session:
    settings = config.training
    # Weights are a function of the seed alone, the same on every rank and for every pruning method.
    torch.manual_seed(config.seed)
    net = task.build_model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, settings.steps, pct_start=settings.warmup, cycle_momentum=False
    )
    model, wrapped = fabric.setup(net, optimizer)
    pruner = make_pruner(config.pruning, settings.steps, config.seed)
    if pruner is not None:
        pruner.attach(net, task.example_inputs().to(fabric.device), optimizer=optimizer)
    return Session(config, task, run, fabric, model, net, wrapped, scheduler, pruner)


def make_pruner(settings: PruningSettings, steps: int, seed: int) -> Pruner | None:
    """The pruner that the settings ask for; None for method ``none``."""
    options: dict[str, Any] = {
        "warmup": round(settings.warmup * steps),
        "ramp": round(settings.ramp * steps),
        "refresh": settings.refresh,
        "connection": settings.connection,
        "scope": settings.scope,
        "exclude": settings.exclude,
    }
    if settings.method == "bb":
        return BudgetedBroadcast(
            settings.density, actuator=settings.actuator, beta=settings.beta, minimum=settings.minimum, **options
        )
    if settings.method == "magnitude":
        return Magnitude(settings.density, **options)
    if settings.method == "random":
        return RandomMask(settings.density, seed=seed, **options)
    return None


# ---- validating, recording, checkpointing ----


def _validate(session: Session, done: int, say: Say) -> None:
    """Score on the validation split, store the weights, and remember the best among those with final masks."""
    settings, run = session.config.training, session.run
    recalibrate(session.net, session.task.calibration_batches(settings.calibration_patches), session.fabric.device)
    session.net.eval()
    found: Validation | None = None
    if session.fabric.is_global_zero:
        found = session.task.validate(session.net, session.fabric.device)
    final = session.pruner is None or session.pruner.final
    density = 1.0 if session.pruner is None else session.pruner.density()
    if found is not None:
        _record(session, "validation", done, **found.scores, density=density, final=final)
        figures = ", ".join(f"{name} {value:.3f}" for name, value in found.scores.items())
        say(f"step {done}: validation {figures} at density {density:.3f}{'' if final else ' (masks not final)'}")
    if not session.fabric.is_global_zero:
        return
    about: dict[str, Any] = {"step": done, "steps": settings.steps, "final": final, "density": density}
    if found is not None:
        about |= {"validation": found.scores, "selected_by": found.main, "decision": found.decision}
    _store_weights(run, "last", session.net, about)
    if session.pruner is not None:
        summary = report(session.pruner, session.net)
        write_json(run.path / "pruning.json", summary.to_dict())
        _record(session, "pruning", done, entropy=summary.entropy, traffic=summary.traffic, dead=summary.dead)
    if found is not None and final and found.scores[found.main] > session.best:
        session.best = found.scores[found.main]
        _store_weights(run, "best", session.net, about)


def _store_weights(run: RunFolder, which: str, net: nn.Module, about: dict[str, Any]) -> None:
    save_weights(run.weights_file(which), net)
    write_json(run.weights_file(which).with_suffix(".json"), about)


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterator[Tensor], device: Any) -> None:
    """Estimate batch-norm statistics anew as plain averages over ``batches`` (METHOD §2); other norms have none."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    net.train()
    for inputs in batches:
        net(inputs.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _learning_rate(session: Session) -> float:
    return float(session.scheduler.get_last_lr()[0])


def _record(session: Session, kind: str, step: int, **values: Any) -> None:
    if not session.fabric.is_global_zero:
        return
    session.run.record(kind=kind, step=step, **values)
    session.fabric.log_dict({f"{kind}/{key}": float(value) for key, value in values.items()}, step=step)


def _checkpoint(session: Session, done: int) -> None:
    if not session.fabric.is_global_zero:
        return
    state = {
        "step": done,
        "config": session.config.plain(),
        "model": session.net.state_dict(),
        "optimizer": session.optimizer.state_dict(),
        "scheduler": session.scheduler.state_dict(),
        "pruner": None if session.pruner is None else session.pruner.state_dict(),
        "best": session.best,
    }
    save_checkpoint(session.run.checkpoint_file, state)


def _restore(session: Session) -> int:
    state = load_checkpoint(session.run.checkpoint_file)
    session.net.load_state_dict(state["model"])
    session.optimizer.load_state_dict(state["optimizer"])
    session.scheduler.load_state_dict(state["scheduler"])
    if session.pruner is not None:
        session.pruner.load_state_dict(state["pruner"])
    session.best = float(state["best"])
    done = int(state["step"])
    if session.fabric.is_global_zero:
        session.run.drop_metrics_after(done)
    return done


@contextmanager
def _valid(pruner: Pruner | None, mask: Tensor | None) -> Iterator[None]:
    if pruner is None:
        yield
        return
    with pruner.valid(mask):
        yield


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGUSR1 instead of dying of them; the loop looks after each step."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
