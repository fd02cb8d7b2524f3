"""What a dask cluster adds to the time of prediction: two workers of one thread against two plain processes.

    python scripts/bench/cluster_overhead.py [--blocks 8] [--rounds 5]

Both sides compute the same blocks of the same volume of noise with the default U-Net, half of them each: workers of a
LocalCluster through ``ClusterDriver``, and two plain processes with ``LocalDriver`` and a region each. Processes are
started, and have computed blocks once, before any time is taken. The sides take turns, in an order that alternates, so
that another job on the machine slows both; printed is the ratio of each pair, and their median.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synbb.inference import predict_volume
from synbb.inference.cluster import ClusterDriver
from synbb.inference.cluster_start import connected
from synbb.models.unet import build_unet, total_stride
from synbb.volumes.box import Box
from synbb.volumes.opening import open_volume
from synbb.volumes.statistics import Normalisation
from synbb.volumes.writing import create_volume

VOXEL = (50.0, 9.2, 9.2)
BLOCK = (16, 128, 128)
HALO = (4, 19, 19)  # the default network's, which takes long to find
WORKERS = 2


def volume(path: Path, blocks: int) -> Path:
    """Noise of so many blocks in a row."""
    shape = (BLOCK[0], BLOCK[1], BLOCK[2] * blocks)
    made = create_volume(path, shape=shape, dtype="uint8", voxel_size=VOXEL, chunks=BLOCK)
    made.write(made.box, np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8))
    return path


def predict(raw: str, output: str, **changed: Any) -> float:
    """Seconds of the blocks, without planning."""
    shutil.rmtree(output, ignore_errors=True)
    torch.manual_seed(0)
    net = build_unet(VOXEL)
    stride = total_stride(net)
    summary = predict_volume(
        net,
        open_volume(raw),
        output,
        working_voxel_size=VOXEL,
        normalisation=Normalisation(0.0, 255.0),
        stride=stride,
        halo=HALO,
        write_block=BLOCK,
        batch=1,
        attributes={},
        model_sha256="0" * 64,
        run_id="bench",
        **changed,
    )
    return summary.seconds


def plain(raw: str, output: str, region: Box, begin: Any, ended: Any) -> None:
    """A plain process: at each go, predicts once."""
    torch.set_num_threads(1)
    while begin.get():
        predict(raw, output, region=region)
        ended.put(None)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--blocks", type=int, default=8, help="of both workers together")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp())
    whole = str(volume(folder / "whole.zarr", given.blocks))
    share = (BLOCK[0], BLOCK[1], BLOCK[2] * (given.blocks // WORKERS))
    parts = [Box.of_shape(share, (0, 0, number * share[2])) for number in range(WORKERS)]
    context = multiprocessing.get_context("spawn")
    ended = context.Queue()
    goes = [context.Queue() for _ in range(WORKERS)]  # one each, so that none takes two turns
    others = [
        context.Process(target=plain, args=(whole, str(folder / f"plain-{number}.zarr"), part, goes[number], ended))
        for number, part in enumerate(parts)
    ]
    for process in others:
        process.start()

    def plainly() -> float:
        began = time.perf_counter()
        for go in goes:
            go.put(True)
        for _ in others:
            ended.get()
        return time.perf_counter() - began

    with connected(f"local:{WORKERS}") as connection:
        opened = nullcontext(connection)

        def clustered() -> float:
            began = time.perf_counter()
            predict(whole, str(folder / "cluster.zarr"), driver=ClusterDriver(lambda: opened))
            return time.perf_counter() - began

        sides = [("plain", plainly), ("cluster", clustered)]
        taken: dict[str, list[float]] = {"plain": [], "cluster": []}
        for _, side in sides:
            side()
        for number in range(given.rounds):
            for name, side in sides if number % 2 == 0 else reversed(sides):
                taken[name].append(side())
            print(*(f"{name} {seconds[-1]:.2f} s" for name, seconds in taken.items()), sep=", ", flush=True)
    for go in goes:
        go.put(False)
    for process in others:
        process.join()
    shutil.rmtree(folder)
    ratios = [c / p for c, p in zip(taken["cluster"], taken["plain"], strict=True)]
    print("ratios", *(f"{ratio:.3f}" for ratio in ratios))
    print(f"median ratio {statistics.median(ratios):.3f} (cluster / plain, {given.blocks} blocks, {WORKERS} workers)")
    print("load", *(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
