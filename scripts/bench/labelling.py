"""How fast blockwise labelling is beside cc3d on the same array in memory.

    python scripts/bench/labelling.py [--voxels 134217728] [--rounds 5]

Both take uint8 probabilities to labels: cc3d thresholds and labels the whole array at once; synbb finds the objects
block by block (with their table), then labels every block again with their ids, as ``synbb segment`` does, without
reading or writing files. Turn by turn in one process, processor time, medians. Asked for: at least half as fast.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import product

import cc3d
import numpy as np
from volumes import cube, probabilities

from synbb.evaluation.components import find_components
from synbb.evaluation.thresholds import foreground
from synbb.evaluation.window import grow_block
from synbb.volumes import Box
from synbb.volumes.storage import default_grid, default_shards

THRESHOLD = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=2**27)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shape = cube(options.voxels)
    box = Box.of_shape(shape)
    array = np.empty(shape, np.uint8)
    for part in box.blocks((64, 256, 256)):
        array[part.slices] = probabilities(part)
    block = grow_block(default_shards(shape, default_grid(shape)[0]), shape, split=False)

    def read(part: Box) -> tuple[np.ndarray, np.ndarray]:
        values = array[part.slices]
        return foreground(values, THRESHOLD), values

    def blockwise() -> int:
        found = find_components(read, box, block)
        for part in found.blocks:
            found.labels(part, read(part)[0], np.uint32)
        return len(found)

    def whole() -> int:
        mask = foreground(array, THRESHOLD).view(np.uint8)
        return int(cc3d.connected_components(mask, connectivity=26, return_N=True)[1])

    taken: dict[str, list[float]] = {"cc3d": [], "synbb": []}
    counts = set()
    for number, (name, function) in product(range(-1, options.rounds), (("cc3d", whole), ("synbb", blockwise))):
        seconds, count = timed(function)
        counts.add(count)
        if number >= 0:  # one round to warm up
            taken[name].append(seconds)
    assert len(counts) == 1, f"the two find different numbers of objects: {counts}"
    share = np.count_nonzero(foreground(array, THRESHOLD)) / array.size
    medians = {name: statistics.median(each) for name, each in taken.items()}
    print(f"{'x'.join(map(str, shape))} voxels, {share:.2%} foreground, {counts.pop():,} objects, blocks {block}")
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(", ".join(f"{name} {array.size / each / 1e6:.0f} Mvox/s" for name, each in medians.items()))
    print(f"speed of synbb / speed of cc3d: {medians['cc3d'] / medians['synbb']:.2f}")


def timed(function: Callable[[], int]) -> tuple[float, int]:
    start = time.process_time()
    count = function()
    return time.process_time() - start, count


if __name__ == "__main__":
    main()
