"""Zarr read and written block by block: through the zarr library, and through tensorstore as beside a GPU.

    python scripts/bench/reading_and_writing.py [--shape 64,1024,1536] [--threads 2] [--rounds 3]

A volume of noise is read in the read boxes of a plan (blocks of 32 x 256 x 256, halo 4 x 19 x 19), each chunk thus
several times over, and probabilities are written in its write boxes. Both ways take turns in this process, each turn on
a copy of its own, so that nothing is kept from the turn before. Told are megavoxels written a second of wall time, and
a second of processor time.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import volumes
from devices import sizes

from synbb.inference import BlockPlan
from synbb.volumes import Box, create_volume, open_volume
from synbb.volumes.box import triple
from synbb.volumes.quick import quickly, written_quickly

BLOCK, HALO, STRIDE = (32, 256, 256), (4, 19, 19), (1, 4, 4)
SIZE = (50.0, 9.2, 9.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=sizes, default=(64, 1024, 1536))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    shape = triple(options.shape)
    with tempfile.TemporaryDirectory() as folder:
        raw = create_volume(Path(folder) / "raw.zarr", shape=shape, dtype=np.uint8, voxel_size=SIZE)
        generator = np.random.default_rng(0)
        for box in raw.box.blocks(raw.unit):
            raw.write(box, generator.integers(0, 256, box.shape, np.uint8))
        plan = BlockPlan(raw.box, BLOCK, shape, HALO, STRIDE)
        reads = [block.read.intersect(raw.box) for block in plan]
        values = {block.write: volumes.probabilities(block.write) for block in plan}
        taken: dict[str, list[tuple[float, float]]] = {}
        for turn in range(options.rounds):
            plain = open_volume(shutil.copytree(raw.path, Path(folder) / f"raw-{turn}.zarr"))
            ways = {"read, zarr": plain.read, "read, tensorstore": quickly(plain).read}
            outputs = {}
            for name in ("zarr", "tensorstore"):
                path = Path(folder) / f"{name}-{turn}.zarr"
                output = create_volume(path, shape=shape, dtype=np.uint8, voxel_size=SIZE)
                outputs[f"write, {name}"] = output if name == "zarr" else written_quickly(output, empty_chunks=True)
            for name, read in ways.items():
                taken.setdefault(name, []).append(_timed(read, reads, options.threads))
            for name, output in outputs.items():
                put = partial(_put, output, values)
                taken.setdefault(name, []).append(_timed(put, values, options.threads))
    print(f"{' x '.join(map(str, shape))} voxels, {plan}")
    print(
        f"{options.threads} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {options.rounds} rounds"
    )
    for name, found in taken.items():
        wall, processor = (math.prod(shape) / statistics.median(each) / 1e6 for each in zip(*found, strict=True))
        print(f"{name:18s} {wall:5.0f} Mvox/s, {processor:5.0f} a second of processor")


def _put(output: Any, values: dict[Box, Any], box: Box) -> None:
    output.write(box, values[box])


def _timed(function: Callable[[Any], Any], items: Iterable[Any], threads: int) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(function, items):
            pass
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
