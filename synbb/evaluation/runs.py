"""Runs: the foreground of one block as stretches of one value along x.

Objects are sparse, so a block of millions of voxels has thousands of runs. Labelling, measuring and writing go by run;
where the foreground is no longer sparse, cc3d labels the voxels instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from synbb.volumes.box import Triple, triple

if TYPE_CHECKING:
    from synbb.evaluation.labels import Mask

Integers = NDArray[np.int64]

VOXELS_PER_RUN = 64
"""With fewer voxels of the block for each run, cc3d is the faster one."""


@dataclass(frozen=True)
class Runs:
    """The runs of a block, in raster order.

    Attributes:
        shape: of the block, z, y, x.
        start: (n,) raster index in the block of each run's first voxel.
        stop: (n,) that of the voxel after its last one; a run ends where its row does.
    """

    shape: Triple
    start: Integers
    stop: Integers

    @classmethod
    def of(cls, *arrays: NDArray[Any]) -> Runs:
        """Runs of voxels on which none of the arrays (one shape, z, y, x) changes and all are other than 0."""
        shape = triple(arrays[0].shape)
        flat = [array.reshape(-1) for array in arrays]
        change = np.ones(flat[0].size, bool)
        np.not_equal(flat[0][1:], flat[0][:-1], out=change[1:])
        for other in flat[1:]:
            change[1:] |= other[1:] != other[:-1]
        change[:: shape[2]] = True  # a row's first voxel
        edges = np.append(np.flatnonzero(change), change.size)
        there = np.ones(len(edges) - 1, bool)
        for each in flat:
            there &= each[edges[:-1]] != 0
        return cls(shape, edges[:-1][there], edges[1:][there])

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> Integers:
        """(n,) voxels of each run."""
        return self.stop - self.start

    @property
    def index(self) -> Integers:
        """(3, n) z, y, x of each run's first voxel, in the block."""
        return np.stack(np.unravel_index(self.start, self.shape))

    def voxels(self) -> Integers:
        """Raster indices of the voxels of all runs, run by run."""
        lengths = self.lengths
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.start - before, lengths) + np.arange(int(lengths.sum()))

    def at(self, raster: Integers) -> Integers:
        """Number of the run that holds each voxel, -1 where none does."""
        if not len(self):
            return np.full(len(raster), -1)
        found = np.searchsorted(self.start, raster, "right") - 1
        return np.where((found >= 0) & (raster < self.stop[found]), found, -1)

    def take(self, rows: NDArray[Any]) -> Runs:
        """Some of the runs."""
        return Runs(self.shape, self.start[rows], self.stop[rows])

    def fill(self, values: NDArray[Any]) -> NDArray[Any]:
        """The block with ``values[i]`` on run i and 0 elsewhere."""
        block = np.zeros(self.shape, values.dtype)
        block.reshape(-1)[self.voxels()] = np.repeat(values, self.lengths)
        return block


def label_runs(mask: Mask, connectivity: int) -> tuple[Runs, Integers, int]:
    """Label the connected components of one block.

    Args:
        mask: (z, y, x), C-contiguous.
        connectivity: 6, 18 or 26.

    Returns:
        The runs of the foreground, the component of each (0 to n - 1), and n. The same mask gives the same numbers.
    """
    runs = Runs.of(mask)
    if len(runs) * VOXELS_PER_RUN > mask.size:
        labels, count = label(mask, connectivity)
        return runs, labels.reshape(-1)[runs.start].astype(np.int64) - 1, count
    pairs = np.concatenate([_touching(runs, row, reach) for row, reach in _earlier_rows(connectivity)], axis=1)
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(len(runs), len(runs)))
    count, labels = connected_components(graph, directed=False) if len(runs) else (0, np.empty(0))
    return runs, labels.astype(np.int64), int(count)


def label(mask: Mask, connectivity: int) -> tuple[NDArray[Any], int]:
    """Label the voxels of one array: cc3d's labels 1 to n (0 for background), and n."""
    # As uint8, not bool: cc3d 4.1 allots a binary image too few labels in some odd shapes ("maximum length exception").
    labels, count = cc3d.connected_components(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=connectivity, return_N=True
    )
    return labels, int(count)


def _earlier_rows(connectivity: int) -> list[tuple[tuple[int, int], int]]:
    """Steps (z, y) to the rows before a row that touch it, and how far beyond a run's ends they do."""
    most = {6: 1, 18: 2, 26: 3}[connectivity]  # axes along which neighbours differ
    steps = [(0, -1), (-1, 0), (-1, -1), (-1, 1)]
    return [(step, int(sum(map(abs, step)) < most)) for step in steps if sum(map(abs, step)) <= most]


def _touching(runs: Runs, step: tuple[int, int], reach: int) -> Integers:
    """Pairs (2, n) of a run and a run in the row at ``step`` from its own that touch."""
    _, height, width = runs.shape
    z, y, x = runs.index
    # Places on a line on which rows and sections are one empty voxel or row apart: a step across a border finds none.
    start = (z * (height + 1) + y) * (width + 1) + x
    stop = start + runs.lengths
    shift = (step[0] * (height + 1) + step[1]) * (width + 1)
    first = np.searchsorted(stop, start + shift - reach, "right")
    count = np.maximum(np.searchsorted(start, stop + shift + reach, "left") - first, 0)
    before = np.cumsum(count) - count
    others = np.repeat(first - before, count) + np.arange(int(count.sum()))
    return np.stack([np.repeat(np.arange(len(runs)), count), others])
