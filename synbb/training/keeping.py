"""What a run keeps as it goes: validation scores, weights to predict with, checkpoints to continue from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from synbb.errors import RunEnded, SynbbError
from synbb.pruning import trace
from synbb.pruning.diagnostics import PruningReport, report, report_dense
from synbb.pruning.probe import probe
from synbb.tasks.base import Inputs, Validation, arguments
from synbb.training.checkpoint import load_checkpoint, save_checkpoint, write_json
from synbb.training.events import EventFile
from synbb.training.session import Session

HELD_OUT_SAMPLES = 16
"""Validation samples on which the coding of a network is measured, the same ones at every validation."""


def validate(session: Session, done: int) -> str | None:
    """Score on the validation split, store the weights, and remember the best among those with final masks.

    Returns:
        A line for a person, None where there is nothing to say.
    """
    patches = session.config.training.calibration_patches
    recalibrate(session.net, session.task.calibration_batches(patches), session.fabric.device)
    session.net.eval()
    if not session.fabric.is_global_zero:
        return None
    found = session.task.validate(session.net, session.fabric.device)
    _check(found, session.config.task)
    _keep_weights(session, done, found)
    summary = diagnose(session, done)
    if summary is not None:
        write_json(session.run.path / "pruning.json", summary.to_dict())
        session.record("pruning", done, **summary.scalars())
    if found is None:
        return None
    session.record("validation", done, **found.scores, density=session.density, final=session.final)
    figures = ", ".join(f"{name.replace('_', '-')} {value:.3f}" for name, value in found.scores.items())
    return (
        f"step {done}: validation {figures} at density {session.density:.3f}"
        f"{'' if session.final else ' (masks not final)'}"
    )


def _check(found: object, task: str) -> None:
    """Refuse what a task of somebody's own should not have returned."""
    if found is None:
        return
    if not isinstance(found, Validation):
        raise SynbbError(f"task {task}: validate() returned {type(found).__name__}, no synbb.tasks.base.Validation")
    if found.main not in found.scores:
        raise SynbbError(f"task {task}: the main score {found.main!r} is none of {', '.join(found.scores)}")


def diagnose(session: Session, done: int) -> PruningReport | None:
    """What pruning did to the network and how it codes held-out data; of dense networks too, for comparison.

    Returns:
        None for a dense network in which no units can be found.
    """
    net, pruner, device = session.net, session.pruner, session.fabric.device
    try:
        wiring = pruner.wiring if pruner is not None else trace(net, arguments(session.task.example_inputs(), device))
    except SynbbError:
        return None  # nothing is to be pruned: the run needs no units
    statistic = pruner.activity.statistic if pruner is not None else "sign"
    batches = (arguments(inputs, device) for inputs in session.task.held_out_batches(HELD_OUT_SAMPLES))
    found = probe(net, wiring, batches, statistic=statistic)
    held_out = found if found.inputs else None
    if pruner is None:
        return report_dense(wiring, net, held_out, steps=done)
    return report(pruner, net, held_out)


def _keep_weights(session: Session, done: int, found: Validation | None) -> None:
    """Weights ``last`` always, ``best`` where no earlier ones with final masks scored as high."""
    steps = session.config.training.steps
    about: dict[str, Any] = {"step": done, "steps": steps, "final": session.final, "density": session.density}
    if found is not None:
        about |= {"validation": found.scores, "selected_by": found.main, "decision": found.decision}
    session.run.store_weights("last", session.net, about)
    if session.pruner is not None:
        session.run.store_masks(session.pruner)
    if found is not None and session.final and found.scores[found.main] > session.best:
        session.best = found.scores[found.main]
        session.run.store_weights("best", session.net, about)


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterator[Inputs], device: Any) -> None:
    """Estimate batch-norm statistics anew as plain averages over ``batches``; other norms have none."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    net.train()
    for inputs in batches:
        net(*arguments(inputs, device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def check_weights(session: Session, done: int) -> None:
    """Refuse to keep weights that are not finite.

    Raises:
        RunEnded: one of them is not; earlier checkpoints are untouched.
    """
    for name, tensor in session.net.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise RunEnded(f"{name} is not finite after step {done}; {last_good(session)}")


def last_good(session: Session) -> str:
    """What is left to a run whose loss or weights are not finite, and what may help."""
    file = session.run.checkpoint_file
    kept = f"the last good checkpoint is kept in {file}" if file.is_file() else "no checkpoint was written yet"
    return f"{kept}. Lower training.learning_rate, or look for extreme grey values in the data"


def checkpoint(session: Session, done: int) -> None:
    """Write all that a resumed run needs to go on bit by bit as if it had not stopped; every process calls this."""
    random = _random_states(session)
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
        "random": random,
    }
    save_checkpoint(session.run.checkpoint_file, state)


def restore(session: Session) -> int:
    """Put back the last checkpoint, if one was written; the steps that were done by then.

    Raises:
        SynbbError: the checkpoint is damaged or does not fit.
    """
    file = session.run.checkpoint_file
    done, random = 0, None
    if file.is_file():  # a run may be stopped before its first one, and then begins again
        state = load_checkpoint(file)
        try:
            session.net.load_state_dict(state["model"])
        except RuntimeError as error:
            what = " ".join(str(error).split())
            raise SynbbError(f"{file} does not fit the network of the config ({what}); start a new run") from None
        session.optimizer.load_state_dict(state["optimizer"])
        session.scheduler.load_state_dict(state["scheduler"])
        if session.pruner is not None:
            session.pruner.load_state_dict(state["pruner"])
        session.best = float(state["best"])
        done = int(state["step"])
        random = state.get("random")
    _set_random(session, random, done)
    session.events = EventFile(session.run.path / "tensorboard", done)
    if session.fabric.is_global_zero:
        session.run.drop_metrics_after(done)
    return done


def _random_states(session: Session) -> dict[str, Tensor]:
    """State of torch's own generators (dropout draws from them) in each process, shape (processes, bytes)."""
    fabric = session.fabric
    own = {"cpu": torch.get_rng_state()}
    if fabric.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(fabric.device)
    if fabric.world_size == 1:
        return {kind: each[None] for kind, each in own.items()}
    return {kind: fabric.all_gather(each.to(fabric.device)).cpu() for kind, each in own.items()}


def seed_generators(session: Session, done: int) -> None:
    """Seed the generators of this process so that they draw other numbers from step ``done`` on than before it."""
    seed = session.config.seed + session.fabric.global_rank + 1_000_003 * done
    session.fabric.seed_everything(seed % 2**32, verbose=False)  # numpy's takes 32 bits


def _set_random(session: Session, states: dict[str, Tensor] | None, done: int) -> None:
    """Put back what :func:`_random_states` told; all else draws numbers that it had not drawn before ``done``."""
    fabric = session.fabric
    seed_generators(session, done)
    # Checkpoints of before 2026-11-28 hold no states, and those of other devices fit none of ours.
    if states is None or states.keys() != {"cpu", fabric.device.type} or len(states["cpu"]) != fabric.world_size:
        return
    own = {kind: each[fabric.global_rank].clone() for kind, each in states.items()}  # torch crashes on views of rows
    torch.set_rng_state(own["cpu"])
    if "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"], fabric.device)
