"""Connected components of a volume that is only ever read block by block.

Each block is labelled alone. What joins components of different blocks are pairs of adjacent foreground voxels on the
two sides of a block border: of each finished block the foreground voxels of its far faces are kept, sparsely, until
the blocks after it have been compared with them. Pairs → connected components of the graph of provisional labels →
final ids, numbered by the first voxel of each object in raster order. ``docs/stitching.md`` draws it.

The blocks are labelled a second time when the ids are written: labelling is deterministic, and cheaper than storing
provisional labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from synbb.errors import SynbbError
from synbb.evaluation.labels import Mask
from synbb.evaluation.runs import Integers, Runs, label_runs
from synbb.volumes.box import BlockGrid, Box, Triple, triple

Progress = Callable[[int, int], None]
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


def bridges_over(blank: Sequence[int], depth: int, most: int) -> list[tuple[int, int]]:
    """The sections on both sides of each gap: runs of at most ``most`` sections without data, inside the volume.

    Args:
        blank: z of the sections without data.
        depth: sections of the volume.
        most: longest gap.
    """
    with_data = sorted(set(range(depth)) - set(blank))
    return [(top, bottom) for top, bottom in pairwise(with_data) if 1 < bottom - top <= most + 1]


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

    @classmethod
    def concatenate(cls, tables: Sequence[ComponentTable]) -> ComponentTable:
        """The rows of several tables, one after the other."""
        return cls(*(np.concatenate([getattr(table, name) for table in tables]) for name in cls.__dataclass_fields__))

    def merged(self, groups: Integers, count: int) -> ComponentTable:
        """Rows of one group (0 to ``count`` - 1, none empty) made one."""
        return ComponentTable(*(_reduced(how, getattr(self, name), groups, count) for name, how in _REDUCTIONS.items()))


_REDUCTIONS = {
    "first": np.minimum,
    "voxels": np.add,
    "sums": np.add,
    "start": np.minimum,
    "stop": np.maximum,
    "value_sum": np.add,
    "value_max": np.maximum,
}
"""How each column of rows that become one is reduced, in the order of the columns."""


def _reduced(how: np.ufunc, values: NDArray[Any], groups: Integers, count: int) -> NDArray[Any]:
    """A row for each of ``count`` groups, none empty, of the rows of a column."""
    if how is np.add:
        reduced = np.zeros((count, *values.shape[1:]), values.dtype)
    else:
        reduced = np.empty((count, *values.shape[1:]), values.dtype)
        reduced[groups] = values  # any row of the group, to begin with
    how.at(reduced, groups, values)
    return reduced


@dataclass(frozen=True)
class Components:
    """The components of a box, and the ids that the components of each block have in it.

    Attributes:
        blocks: the blocks in which they were found, over the voxels that were labelled.
        connectivity: 6, 18 or 26.
        table: one row a component; row i has id i + 1.
    """

    blocks: BlockGrid
    connectivity: int
    table: ComponentTable
    _ids: Integers = field(repr=False)  # provisional label → id, 0 when left out
    _spans: Integers = field(repr=False)  # first provisional label of each block, then the number of all

    def __len__(self) -> int:
        return len(self.table)

    def keep(self, rows: Mask) -> Components:
        """Only the components where ``rows`` is True, numbered anew from 1 in the same order."""
        if rows.all():
            return self
        renumbered = np.concatenate([[0], np.where(rows, np.cumsum(rows), 0)])
        return replace(self, table=self.table.take(rows), _ids=renumbered[self._ids])

    def labels(self, block: Box, mask: Mask, dtype: Any = np.int64) -> NDArray[Any]:
        """Ids of the voxels of one of the blocks, 0 for background.

        Args:
            block: one of :attr:`blocks`.
            mask: its foreground, exactly as it was read the first time.
            dtype: type of the result, wide enough for the ids.

        Raises:
            SynbbError: the foreground has changed in between.
        """
        runs, labels, count = label_runs(mask, self.connectivity)
        number = self.blocks.number(block)
        first, last = self._spans[number : number + 2].tolist()
        if count != last - first:
            raise SynbbError(f"block {block} changed while it was read: it had {last - first} components, now {count}")
        return runs.fill(self._ids[first:last][labels].astype(dtype))


def measure(
    runs: Runs,
    labels: Integers,
    count: int,
    origin: Sequence[int],
    extent: Sequence[int],
    values: NDArray[Any] | None = None,
) -> ComponentTable:
    """Measure the components of one block.

    Args:
        runs: of the block's foreground.
        labels: (n,) component of each run, 0 to ``count`` - 1, none of them without a run.
        count: number of components.
        origin: index of the block's first voxel in the labelled box.
        extent: shape of the labelled box, for raster indices.
        values: (z, y, x) values of the block, summed over each component.
    """
    lengths, index = runs.lengths, runs.index + np.asarray(origin, np.int64)[:, None]
    z, y, x = index
    total, highest = np.zeros(len(runs)), np.zeros(len(runs))
    if values is not None and len(runs):
        inside, first = values.reshape(-1)[runs.voxels()].astype(np.float64), np.cumsum(lengths) - lengths
        total, highest = np.add.reduceat(inside, first), np.maximum.reduceat(inside, first)
    of_run = ComponentTable(
        first=(z * extent[1] + y) * extent[2] + x,
        voxels=lengths,
        sums=np.stack([z * lengths, y * lengths, (2 * x + lengths - 1) * lengths // 2], axis=1),
        start=index.T,
        stop=np.stack([z + 1, y + 1, x + lengths], axis=1),
        value_sum=total,
        value_max=highest,
    )
    return of_run.merged(labels, count)


@dataclass(frozen=True)
class _Voxels:
    """Foreground voxels of a finished block that later ones may touch, and their provisional labels."""

    index: NDArray[np.int32]  # (3, n), in the volume
    labels: Integers

    @classmethod
    def of(cls, block: Box, runs: Runs, labels: Integers) -> _Voxels:
        """All voxels of some runs."""
        index = np.stack(np.unravel_index(runs.voxels(), runs.shape)) + np.asarray(block.start)[:, None]
        return cls(index.astype(np.int32), np.repeat(labels, runs.lengths))

    @classmethod
    def far_faces(cls, block: Box, runs: Runs, labels: Integers) -> _Voxels:
        """The voxels on the last section, the last row and the last column: later blocks touch no others."""
        z, y, x = runs.index
        depth, height, width = runs.shape
        whole = (z == depth - 1) | (y == height - 1)
        ends = ~whole & (x + runs.lengths == width)
        kept = runs.take(whole)
        tips = Runs(runs.shape, runs.stop[ends] - 1, runs.stop[ends])
        both = Runs(runs.shape, np.concatenate([kept.start, tips.start]), np.concatenate([kept.stop, tips.stop]))
        return cls.of(block, both, np.concatenate([labels[whole], labels[ends]]))

    def pairs(self, block: Box, runs: Runs, labels: Integers, steps: Sequence[Triple]) -> Integers:
        """Provisional labels (n, 2) of one of these voxels and one of ``block`` a step further, each pair once."""
        local = self.index - np.asarray(block.start)[:, None]
        at = local[:, None, :] + np.asarray(steps, np.int64).T[:, :, None]  # (3, steps, n)
        shape = np.asarray(runs.shape)[:, None, None]
        inside = np.all((at >= 0) & (at < shape), axis=0)
        z, y, x = at[:, inside]
        run = runs.at((z * runs.shape[1] + y) * runs.shape[2] + x)
        theirs, ours = np.broadcast_to(self.labels, inside.shape)[inside][run >= 0], labels[run[run >= 0]]
        base = int(labels.max(initial=0)) + 1  # as one number: numpy sorts rows by comparing them field by field
        return np.stack(np.divmod(np.unique(theirs * base + ours), base), axis=1)

    def of_section(self, z: int) -> _Voxels:
        """Those in one section."""
        there = self.index[0] == z
        return _Voxels(self.index[:, there], self.labels[there])


def _towards(direction: Triple, steps: list[Triple]) -> list[Triple]:
    """The steps that lead from the block that lies in ``direction`` into this one."""
    return [s for s in steps if all(d == 0 or t == -d for d, t in zip(direction, s, strict=True))]


def find_components(
    read: Read,
    box: Box,
    block_shape: Sequence[int],
    connectivity: int = 26,
    *,
    anchor: Sequence[int] | None = None,
    bridges: Sequence[tuple[int, int]] = (),
    progress: Progress | None = None,
) -> Components:
    """Find the connected components of a foreground that is read block by block.

    Each block is read once. In memory are one block, the rows of all provisional components (up to 160 bytes each while
    they are joined, 112 after it) and the foreground voxels on the last section of one layer of blocks (and of the
    section before a bridge), 20 bytes each.

    Args:
        read: box → (foreground, values or None), both of the box's shape.
        box: the voxels to label.
        block_shape: voxels of a block; the result does not depend on it.
        connectivity: 6, 18 or 26.
        anchor: a corner of the grid of blocks, for blocks that follow storage chunks; the box's start when None.
        bridges: pairs of sections, z of the box's coordinates, ascending: foreground at the same y, x of both belongs
            to one component, whatever lies between.
        progress: called with (done, total) blocks.

    Raises:
        SynbbError: unknown connectivity.
    """
    steps = neighbour_offsets(connectivity)
    blocks = BlockGrid(box, triple(block_shape), box.start if anchor is None else triple(anchor))
    towards = {direction: _towards(direction, steps) for direction in _EARLIER}
    layers: list[ComponentTable] = []  # the rows of whole layers of blocks; those of the present one are in tables
    tables: list[ComponentTable] = []
    pairs, spans = [np.empty((0, 2), np.int64)], [0]
    faces: dict[Triple, _Voxels] = {}  # by place in the grid of blocks
    before_gap: dict[tuple[int, int, int], _Voxels] = {}  # by bridge, and y, x of the place
    layer = 0
    for done, block in enumerate(blocks, 1):
        mask, values = read(block)
        runs, labels, count = label_runs(mask, connectivity)
        labels += spans[-1]
        place = blocks.place(block)
        if place[0] > layer:  # of the layer before, only its last section touches what comes
            layer = place[0]
            faces = {at: face.of_section(block.start[0] - 1) for at, face in faces.items() if at[0] == layer - 1}
            # Thousands of small arrays, each between what is freed again, would keep the memory around them.
            if tables:
                layers.append(ComponentTable.concatenate(tables))
            tables, pairs = [], [np.concatenate(pairs)]
        if count:
            tables.append(
                measure(runs, labels - spans[-1], count, block.relative_to(box.start).start, box.shape, values)
            )
            for direction in _EARLIER:
                face = faces.get(triple([p + s for p, s in zip(place, direction, strict=True)]))
                if face is not None and towards[direction]:
                    pairs.append(face.pairs(block, runs, labels, towards[direction]))
            faces[place] = _Voxels.far_faces(block, runs, labels)
        # No block to come touches the one diagonally before this one but below its last section, nor the one above it.
        behind, above = ((z, place[1] - 1, place[2] - 1) for z in (layer, layer - 1))
        faces.pop(above, None)
        if behind in faces:
            faces[behind] = faces[behind].of_section(block.stop[0] - 1)
        for number, (top, bottom) in enumerate(bridges):
            if block.start[0] <= top < block.stop[0]:
                there = runs.index[0] == top - block.start[0]
                before_gap[number, *place[1:]] = _Voxels.of(block, runs.take(there), labels[there])
            if block.start[0] <= bottom < block.stop[0]:
                over = before_gap.pop((number, *place[1:]))
                pairs.append(over.pairs(block, runs, labels, [(bottom - top, 0, 0)]))
        spans.append(spans[-1] + count)
        if progress is not None:
            progress(done, len(blocks))
    layers.extend(tables)
    tables.clear()
    table, ids = _join(layers, np.concatenate(pairs), spans[-1])
    return Components(blocks, connectivity, table, ids, np.asarray(spans, np.int64))


def _join(tables: list[ComponentTable], pairs: Integers, total: int) -> tuple[ComponentTable, Integers]:
    """Final table, ordered by first voxel, and the id of each provisional label.

    Column by column, and ``tables`` is emptied: no more than one column is there twice.
    """
    if not total:
        none, triples = np.empty(0, np.int64), np.empty((0, 3), np.int64)
        return ComponentTable(none, none, triples, triples, triples, np.empty(0), np.empty(0)), none
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(total, total))
    count, group = connected_components(graph, directed=False)
    columns = {name: [getattr(table, name) for table in tables] for name in _REDUCTIONS}
    tables.clear()
    order = np.argsort(_reduced(np.minimum, np.concatenate(columns["first"]), group, count))
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    row = rank[group]
    table = ComponentTable(
        *(_reduced(how, np.concatenate(columns.pop(name)), row, count) for name, how in _REDUCTIONS.items())
    )
    return table, row + 1
