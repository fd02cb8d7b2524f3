"""What a prediction will take, before it is begun."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import get_extra
from synbb.inference.allocator import takes_memory_from_glibc
from synbb.inference.pipeline import threads_beside
from synbb.inference.sizes import output_grid
from synbb.volumes import stores

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch

    from synbb.inference.block_work import BlockWork
    from synbb.inference.network import Network

LOOKED_AT = 5
"""Batches that are read in search of one with data."""

ALLOCATOR_HINT = "with tcmalloc preloaded a CPU predicts up to 1.5 times as fast: docs/tutorial_large_volume.md, step 4"
TENSORSTORE_HINT = f"zarr is read five times as fast with tensorstore; {get_extra('remote')}"


def estimate(work: BlockWork, network: Network, dtype: np.dtype[Any], finished: Collection[int] = ()) -> list[str]:
    """Lines for people: files, disk and time, the last from one batch that is computed twice (the first warms up).

    The time is that of the blocks that are not among the ``finished`` ones, by number.

    A hint may follow: of an allocator on a CPU (:func:`takes_memory_from_glibc`), of tensorstore beside a GPU.

    Reading, the network, and making voxels of logits go on at the same time, so the slowest of the three counts: beside
    a GPU often one of the others. Compressing and writing are not timed, as nothing is written.
    """
    plan = work.plan
    chunks, shards = output_grid(plan.region, plan.write_block)
    files = math.prod(-(-n // unit) for n, unit in zip(plan.region.shape, shards or chunks, strict=True))
    disk = plan.region.size * dtype.itemsize
    grid = " x ".join(map(str, shards or chunks))
    lines = [f"{files:,} file{'s' * (files != 1)} of {grid} voxels, at most {_bytes(disk)} ({dtype})"]
    done = f"{len(finished):,} of {len(plan):,} blocks are finished already"
    if len(finished) == len(plan):
        return [*lines, f"{done}, nothing is left to compute"]
    if finished:
        lines.append(done)
    left = plan.region.size - sum(plan.block(index).write.size for index in finished)
    batches = list(plan.batches(network.batch))
    for batch in batches[len(batches) // 2 :][:LOOKED_AT]:
        began = time.perf_counter()
        inputs = [work.read(block, for_card=network.on_card) for block in batch]
        reading = time.perf_counter() - began
        if all(each.array is None for each in inputs):
            continue
        with network:
            work.logits(network, batch, inputs)
            network.finish()
            began = time.perf_counter()
            logits = work.logits(network, batch, inputs)
            network.finish()
            computing = time.perf_counter() - began
        began = time.perf_counter()
        for block, given, each in zip(batch, inputs, logits, strict=True):
            work.voxels(each, block, given.no_data, dtype)()
        making = time.perf_counter() - began
        threads = threads_beside(network.device)
        pace = max(computing, reading / threads.readers, making / threads.writers)
        voxels = sum(block.write.size for block in batch)
        how = (
            f"{len(batch)} block{'s' * (len(batch) != 1)}: network {computing:.2f} s; "
            f"beside it reading {reading:.2f} s, threads {threads.readers}, "
            f"and making voxels {making:.2f} s, threads {threads.writers}"
        )
        seconds = pace * left / voxels
        lines.append(f"about {_duration(seconds)} at {voxels / pace / 1e6:.2f} Mvox/s written ({how})")
        return lines + hints(network.device)
    return [*lines, f"no time can be told: {min(LOOKED_AT, len(batches))} batches in the middle hold no data"]


def hints(device: torch.device) -> list[str]:
    """What would make prediction faster beside a network on ``device``: at most one line."""
    if device.type == "cpu":
        return [ALLOCATOR_HINT] if takes_memory_from_glibc() else []
    return [] if stores.installed() else [TENSORSTORE_HINT]


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("the loop ends at TB")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
