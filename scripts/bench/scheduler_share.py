"""The scheduler's share of time: many blocks on many workers that only wait.

    python scripts/bench/scheduler_share.py [--blocks 10000] [--workers 64] [--seconds 1.0]

The driver of ``cluster.py`` gives out blocks of a plan to workers that are threads of this process, each of which
sleeps in place of a network and gives a mark back; the driver marks in a real ledger on disk. With no cost at all the
run would take blocks x seconds / workers; what it takes longer is the share of scheduler, driver and ledger. They all
run in this process, on one core at most: the share is an upper bound for what a machine of its own would need.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from distributed import Client, LocalCluster

import synbb.inference.cluster as cluster
from synbb.inference.block_work import BlockWork
from synbb.inference.blocks import Block, BlockPlan
from synbb.inference.cluster_start import Connection
from synbb.inference.cluster_worker import Done
from synbb.inference.drivers import Prediction
from synbb.inference.ledger import Ledger
from synbb.inference.ledger_lines import Mark
from synbb.inference.network import Network
from synbb.volumes.box import Box
from synbb.volumes.opening import open_volume
from synbb.volumes.resample import WorkingView
from synbb.volumes.statistics import Normalisation
from synbb.volumes.writing import create_volume

SECONDS = 1.0


def wait(_name: str, batch: Sequence[Block], missing: frozenset[int]) -> Done:
    """In place of ``compute_batch``."""
    time.sleep(SECONDS)
    nothing = np.zeros((1, 1, 1), np.uint8)
    marks = [Mark.of(block.index, block.write, nothing) for block in batch if block.index in missing]
    return Done("", tuple(marks), ())


def main() -> None:
    global SECONDS
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--blocks", type=int, default=10_000)
    options.add_argument("--workers", type=int, default=64)
    options.add_argument("--seconds", type=float, default=1.0, help="that a block takes")
    given = options.parse_args()
    SECONDS = given.seconds
    cluster.compute_batch = wait
    with tempfile.TemporaryDirectory() as folder:
        shape = (1, 1, given.blocks)
        made = create_volume(Path(folder) / "raw.zarr", shape=shape, dtype="uint8", voxel_size=(50, 9, 9))
        view = WorkingView(open_volume(made.path), (50, 9, 9))
        plan = BlockPlan(Box.of_shape(shape), (1, 1, 1), view.shape, (0, 0, 0), (1, 1, 1))
        network = Network(torch.nn.Identity(), stride=(1, 1, 1), halo=(0, 0, 0), device="cpu", batch=1)
        work = BlockWork(view, plan, Normalisation(0.0, 255.0))
        where = str(Path(folder) / "out.zarr")
        prediction = Prediction(work, network, where, "uint8", {})
        with (
            LocalCluster(
                n_workers=given.workers, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address=None
            ) as local,
            Client(local) as client,
            Ledger(where, plan.fields()) as ledger,
        ):
            opened = nullcontext(Connection(client, given.workers))
            began, processor = time.perf_counter(), time.process_time()
            cluster.ClusterDriver(lambda: opened).compute(prediction, made, ledger)
            taken, processor = time.perf_counter() - began, time.process_time() - processor
    least = given.blocks * given.seconds / given.workers
    print(
        f"{given.blocks} blocks of {given.seconds:g} s, {given.workers} workers: {taken:.1f} s, at least {least:.1f} s"
    )
    print(f"share of scheduler, driver and ledger: {1 - least / taken:.1%}")
    print(f"processor time of this process: {processor:.1f} s, {1000 * processor / given.blocks:.2f} ms a block")
    print("load", *(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
