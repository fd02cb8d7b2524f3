"""Connected components of a volume that is only ever read block by block.

Each block is labelled alone (cc3d). What joins components of different blocks are pairs of adjacent foreground voxels
on the two sides of a block border: of each finished block the foreground voxels of its outer shell are kept, sparsely,
until the blocks after it have been compared with them. Pairs → connected components of the graph of provisional
labels → final ids, numbered by the first voxel of each object in raster order. ``docs/stitching.md`` draws it.

The blocks are labelled a second time when the ids are written: cc3d is deterministic, and labelling is cheaper than
storing provisional labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from synbb.errors import SynbbError
from synbb.evaluation.labels import Mask
from synbb.volumes.box import Box, Triple, triple

Progress = Callable[[int, int], None]
Integers = NDArray[np.int64]
Read = Callable[[Box], tuple[Mask, NDArray[Any] | None]]

CONNECTIVITIES = (6, 18, 26)
_STEPS: list[Triple] = list(product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1)))
# Blocks come in raster order: of a block's 26 neighbours these 13 were labelled before it.
_EARLIER = [step for step in _STEPS if step < (0, 0, 0)]


def neighbour_offsets(connectivity: int) -> list[Triple]:
    """The steps from a voxel to its neighbours.

    Raises:
        SynbbError: the connectivity is not 6, 18 or 26.
    """
    if connectivity not in CONNECTIVITIES:
        raise SynbbError(f"connectivity {connectivity} is not 6 (faces), 18 (and edges) or 26 (and corners)")
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    return [step for step in _STEPS if 0 < sum(map(abs, step)) <= reach]


@dataclass(frozen=True)
class ComponentTable:
    """What is known of n components, one row each.

    Attributes:
        first: (n,) raster index, in the labelled box, of the first voxel.
        voxels: (n,) number of voxels.
        sums: (n, 3) sums of the z, y, x indices of the voxels.
        start: (n, 3) bounding box, inclusive.
        stop: (n, 3) bounding box, exclusive.
        value_sum: (n,) float64 sum of the values read beside the mask (zeros without).
        value_max: (n,) float64 largest of them.
    """

    first: Integers
    voxels: Integers
    sums: Integers
    start: Integers
    stop: Integers
    value_sum: NDArray[np.float64]
    value_max: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def centroids(self) -> NDArray[np.float64]:
        """(n, 3) mean z, y, x index; an index is the centre of its voxel."""
        return np.asarray(self.sums / self.voxels[:, None], np.float64)

    def take(self, rows: NDArray[Any]) -> ComponentTable:
        """The table of some rows."""
        return ComponentTable(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def merged(self, groups: Integers, count: int) -> ComponentTable:
        """Rows of one group (0 to ``count`` - 1, none empty) made one."""
        first = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(first, groups, self.first)
        voxels, sums = np.zeros(count, np.int64), np.zeros((count, 3), np.int64)
        np.add.at(voxels, groups, self.voxels)
        np.add.at(sums, groups, self.sums)
        start, stop = np.full((count, 3), np.iinfo(np.int64).max), np.zeros((count, 3), np.int64)
        np.minimum.at(start, groups, self.start)
        np.maximum.at(stop, groups, self.stop)
        value_sum, value_max = np.zeros(count), np.full(count, -np.inf)
        np.add.at(value_sum, groups, self.value_sum)
        np.maximum.at(value_max, groups, self.value_max)
        return ComponentTable(first, voxels, sums, start, stop, value_sum, value_max)


@dataclass(frozen=True)
class Components:
    """The components of a box, and the ids that the components of each block have in it.

    Attributes:
        box: the voxels that were labelled.
        block_shape: blocks are those of ``box.blocks(block_shape, anchor)``.
        anchor: a corner of the grid of blocks.
        connectivity: 6, 18 or 26.
        table: one row a component; row i has id i + 1.
    """

    box: Box
    block_shape: Triple
    anchor: Triple
    connectivity: int
    table: ComponentTable
    _ids: Integers = field(repr=False)  # provisional label - 1 → id, 0 when left out
    _spans: dict[Triple, tuple[int, int]] = field(repr=False)  # start of a block → its provisional labels, half-open

    def __len__(self) -> int:
        return len(self.table)

    @property
    def blocks(self) -> list[Box]:
        """The blocks, in raster order."""
        return list(self.box.blocks(self.block_shape, self.anchor))

    def keep(self, rows: Mask) -> Components:
        """Only the components where ``rows`` is True, numbered anew from 1 in the same order."""
        renumbered = np.concatenate([[0], np.where(rows, np.cumsum(rows), 0)])
        table = self.table.take(rows)
        return replace(self, table=table, _ids=renumbered[self._ids])

    def labels(self, block: Box, mask: Mask) -> Integers:
        """Ids of the voxels of one of the blocks, 0 for background.

        Args:
            block: one of :attr:`blocks`.
            mask: its foreground, exactly as it was read the first time.

        Raises:
            SynbbError: the foreground has changed in between.
        """
        local, count = label(mask, self.connectivity)
        first, last = self._spans[block.start]
        if count != last - first:
            raise SynbbError(f"block {block} changed while it was read: it had {last - first} components, now {count}")
        ids = np.concatenate([[0], self._ids[first:last]])
        return np.asarray(ids[local], np.int64)


def label(mask: Mask, connectivity: int) -> tuple[NDArray[Any], int]:
    """Label one array: cc3d's labels 1 to n (0 for background), and n."""
    # As uint8, not bool: cc3d 4.1 allots a binary image too few labels in some odd shapes ("maximum length exception").
    labels, count = cc3d.connected_components(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=connectivity, return_N=True
    )
    return labels, int(count)


def measure(
    labels: NDArray[Any], count: int, origin: Sequence[int], extent: Sequence[int], values: NDArray[Any] | None = None
) -> ComponentTable:
    """Measure the components of one block.

    Args:
        labels: (z, y, x) labels 1 to ``count``.
        count: number of components.
        origin: index of the block's first voxel in the labelled box.
        extent: shape of the labelled box, for raster indices.
        values: (z, y, x) values summed over each component.
    """
    voxels_at = np.nonzero(labels)
    row = labels[voxels_at].astype(np.int64) - 1
    index = np.stack(voxels_at, axis=1).astype(np.int64) + np.asarray(origin, np.int64)
    raster = (index[:, 0] * extent[1] + index[:, 1]) * extent[2] + index[:, 2]
    of_voxel = np.zeros(len(row)) if values is None else values[voxels_at].astype(np.float64)
    single = ComponentTable(raster, np.ones(len(row), np.int64), index, index, index + 1, of_voxel, of_voxel)
    return single.merged(row, count)


@dataclass(frozen=True)
class _Shell:
    """Foreground voxels on the six faces of a finished block, and their provisional labels."""

    index: Integers  # (n, 3), in the volume
    labels: Integers

    @classmethod
    def of(cls, block: Box, labels: NDArray[Any], offset: int) -> _Shell:
        face = np.zeros(labels.shape, bool)
        for axis in range(3):
            ends = np.moveaxis(face, axis, 0)
            ends[0] = ends[-1] = True
        at = np.nonzero(face & (labels > 0))
        return cls(np.stack(at, axis=1) + np.asarray(block.start), labels[at].astype(np.int64) + offset)


def _pairs_across(shell: _Shell, block: Box, labels: NDArray[Any], offset: int, steps: list[Triple]) -> Integers:
    """Provisional labels (n, 2) of adjacent voxels, one in the shell and one in the block, each pair once."""
    near = np.all(
        (shell.index >= np.asarray(block.start) - 1) & (shell.index <= np.asarray(block.stop)), axis=1
    )  # within one voxel of the block
    index, theirs = shell.index[near] - np.asarray(block.start), shell.labels[near]
    found = [np.empty((0, 2), np.int64)]
    for step in steps:
        at = index + np.asarray(step)
        inside = np.all((at >= 0) & (at < np.asarray(labels.shape)), axis=1)
        ours = labels[tuple(at[inside].T)].astype(np.int64)
        joined = ours > 0
        found.append(np.stack([theirs[inside][joined], ours[joined] + offset], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def find_components(
    read: Read,
    box: Box,
    block_shape: Sequence[int],
    connectivity: int = 26,
    *,
    anchor: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Components:
    """Find the connected components of a foreground that is read block by block.

    Each block is read once. In memory are one block, the rows of all provisional components (about 130 bytes each)
    and the foreground voxels on the borders of one layer of blocks.

    Args:
        read: box → (foreground, values or None), both of the box's shape.
        box: the voxels to label.
        block_shape: voxels of a block; the result does not depend on it.
        connectivity: 6, 18 or 26.
        anchor: a corner of the grid of blocks, for blocks that follow storage chunks; the box's start when None.
        progress: called with (done, total) blocks.

    Raises:
        SynbbError: unknown connectivity.
    """
    steps = neighbour_offsets(connectivity)
    shape, corner = triple(block_shape), box.start if anchor is None else triple(anchor)
    blocks = list(box.blocks(shape, corner))
    tables, pairs, spans, total = [], [np.empty((0, 2), np.int64)], {}, 0
    layer = (box.start[0] - corner[0]) // shape[0]
    shells: dict[Triple, _Shell] = {}  # by place in the grid of blocks
    for done, block in enumerate(blocks, 1):
        mask, values = read(block)
        labels, count = label(mask, connectivity)
        spans[block.start] = (total, total + count)
        origin = block.relative_to(box.start).start
        place = triple([o // s for o, s in zip(block.relative_to(corner).start, shape, strict=True)])
        if place[0] > layer:  # what lies below the previous layer touches nothing any more
            layer = place[0]
            shells = {at: shell for at, shell in shells.items() if at[0] >= layer - 1}
        if count:
            tables.append(measure(labels, count, origin, box.shape, values))
            for step in _EARLIER:
                shell = shells.get(triple([p + s for p, s in zip(place, step, strict=True)]))
                if shell is not None:
                    pairs.append(_pairs_across(shell, block, labels, total, steps))
            shells[place] = _Shell.of(block, labels, total)
        total += count
        if progress is not None:
            progress(done, len(blocks))
    table, ids = _join(tables, np.concatenate(pairs), total)
    return Components(box, shape, corner, connectivity, table, ids, spans)


def _join(tables: list[ComponentTable], pairs: Integers, total: int) -> tuple[ComponentTable, Integers]:
    """Final table, ordered by first voxel, and the id of each provisional label."""
    if not total:
        none, triples = np.empty(0, np.int64), np.empty((0, 3), np.int64)
        return ComponentTable(none, none, triples, triples, triples, np.empty(0), np.empty(0)), none
    names = ComponentTable.__dataclass_fields__
    provisional = ComponentTable(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0] - 1, pairs[:, 1] - 1)), shape=(total, total))
    count, group = connected_components(graph, directed=False)
    merged = provisional.merged(group.astype(np.int64), int(count))
    order = np.argsort(merged.first)
    rank = np.empty(int(count), np.int64)
    rank[order] = np.arange(1, int(count) + 1)
    return merged.take(order), rank[group]
