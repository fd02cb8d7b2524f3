"""Train with two processes; each notes its masks and weights: ``two_processes.py CONFIG RUN NOTES``."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import torch

from synbb.errors import RunEnded
from synbb.training import loop, start

config, run, notes = map(Path, sys.argv[1:4])
rank = int(os.environ.get("LOCAL_RANK", "0"))
checkpoint, step = loop.checkpoint, loop._step


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """One hash of many tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(tensors[name].detach().numpy().tobytes())
    return found.hexdigest()[:16]


def note_and_checkpoint(session: loop.Session, done: int) -> None:
    """Note what this rank holds."""
    parameters = dict(session.net.named_parameters())
    with (notes / f"rank{rank}.txt").open("a") as file:
        print(done, digest(session.pruner.masks), digest(parameters), session.fabric.world_size, file=file)
    checkpoint(session, done)


def step_and_signal(session: loop.Session, number: int, batch: object) -> float:
    """Only the first process is told to stop."""
    if number == 7 and rank == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(session, number, batch)


loop.checkpoint, loop._step = note_and_checkpoint, step_and_signal
try:
    start(config, [], output=run, resume=False, say=print)
except RunEnded as error:
    print(error)
    sys.exit(error.exit_status)
