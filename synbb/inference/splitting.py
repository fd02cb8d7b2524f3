"""Touching synapses, told apart: each object is shared out among its seeds by a watershed.

Everything happens on an object's own bounding box, with zeros where its voxels end, so neither the blocks nor the
neighbours change what becomes of it. ``docs/stitching.md`` says why the seeds are maxima of p.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as label_plateaus
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from synbb.evaluation.components import Components, ComponentTable, find_components, measure
from synbb.evaluation.runs import Runs
from synbb.evaluation.thresholds import as_probability
from synbb.evaluation.window import BLOCK_VOXELS
from synbb.volumes.box import BlockGrid, Box, triple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from synbb.evaluation.labels import Mask
    from synbb.inference.rules import ObjectRules
    from synbb.volumes.volume import Volume

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

LARGEST_BOX = BLOCK_VOXELS
"""Voxels of the largest bounding box in which an object is split; objects of a larger one stay whole."""
SHARPNESS = 3.0
"""The blur before maxima are looked for: its standard deviation is the seeds' least distance over this."""
DIP = 0.02
"""How far the smoothed p must fall between two maxima: smaller dips are noise, not the gap of two synapses."""


def smoothed(p: Floats, inside: Mask, voxel_size: Sequence[float], distance_nm: float) -> Floats:
    """P of one object, 0 outside of it, blurred by a Gaussian.

    Saturated p has plateaus and 8-bit p has steps; blurred, with 0 around the object, it is highest where the object
    is both sure and broad, and falls at necks as well as at dips of p.
    """
    sigma = [distance_nm / SHARPNESS / size for size in voxel_size]
    return np.asarray(ndimage.gaussian_filter(np.where(inside, p, 0.0), sigma, mode="constant"), np.float64)


def find_seeds(height: Floats, sure: Mask, voxel_size: Sequence[float], distance_nm: float) -> NDArray[np.int32]:
    """Seeds of one object: maxima of ``height`` that are sure, highest first, each at least the distance from others.

    A maximum stands out by more than :data:`DIP` from the saddle to any higher one. One that spreads over several
    voxels is one seed, and has its distance from its highest voxel (the first one among equals).

    Args:
        height: (z, y, x) 0 where the object is not.
        sure: where a seed may have its highest voxel: p >= threshold.
        voxel_size: nm.
        distance_nm: least distance of two seeds.

    Returns:
        Seeds 1 to n on their voxels, 0 elsewhere.
    """
    tops, count = _tops(height)
    if count > 1:  # most objects have one top, and the next line is the dear one
        tops, count = _tops(reconstruction(height - DIP, height, footprint=np.ones((3, 3, 3))))
    at = np.flatnonzero(tops)
    order = np.lexsort((at, -height.reshape(-1)[at]))
    names, first = np.unique(tops.reshape(-1)[at][order], return_index=True)
    peaks = at[order][first]  # of each top, its highest voxel
    taken: list[int] = []
    places = np.stack(np.unravel_index(peaks, height.shape), axis=1) * np.asarray(voxel_size)
    for i in np.lexsort((peaks, -height.reshape(-1)[peaks])):
        apart = np.linalg.norm(places[taken] - places[i], axis=1)
        if sure.reshape(-1)[peaks[i]] and (apart >= distance_nm).all():
            taken.append(int(i))
    number = np.zeros(count + 1, np.int32)
    number[names[taken]] = np.arange(1, len(taken) + 1)
    return np.asarray(number[tops], np.int32)


def _tops(height: Floats) -> tuple[NDArray[np.int64], int]:
    """Maxima, numbered, however many voxels each has, and how many they are."""
    tops, count = label_plateaus(local_maxima(height, connectivity=3), connectivity=3, return_num=True)
    return tops, int(count)


def cut_object(
    p: Floats,
    inside: Mask,
    sure: Mask,
    voxel_size: Sequence[float],
    distance_nm: float,
    connectivity: int,
    bridges: Sequence[tuple[int, int]] = (),
) -> NDArray[np.int32]:
    """Share the voxels of one object out among its seeds.

    Args:
        p: (z, y, x) probabilities.
        inside: the object's voxels.
        sure: where p >= threshold.
        voxel_size: nm.
        distance_nm: least distance of seeds.
        connectivity: 6, 18 or 26, as the object's.
        bridges: pairs of sections over which the object hangs together.

    Returns:
        Pieces 1 to n on the object's voxels, 0 elsewhere; none at all (all 0) where there are not two seeds.
    """
    filled, probability = inside.copy(), p
    for top, bottom in bridges:  # a gap is no dip: there p is what it is on both sides, in the middle between them
        both = inside[top] & inside[bottom]
        filled[top + 1 : bottom] |= both
        probability = probability.copy()
        probability[top + 1 : bottom][:, both] = (p[top][both] + p[bottom][both]) / 2
    height = smoothed(probability, filled, voxel_size, distance_nm)
    seeds = find_seeds(np.where(filled, height, 0.0), sure & inside, voxel_size, distance_nm)
    if seeds.max() < 2:
        return np.zeros(p.shape, np.int32)
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    pieces = watershed(-height, seeds, mask=filled, connectivity=ndimage.generate_binary_structure(3, reach))
    return np.where(inside, pieces, 0).astype(np.int32)


@dataclass(frozen=True)
class Splitter:
    """Cuts the objects of a volume, read anew on their bounding boxes.

    Attributes:
        probabilities: the volume.
        rules: what its objects are.
    """

    probabilities: Volume
    rules: ObjectRules

    def may_cut(self, table: ComponentTable) -> tuple[Mask, Mask]:
        """Which objects are long enough for two seeds, and which of them have too large a box to be split."""
        sides = table.stop - table.start
        span = np.linalg.norm((sides - 1) * np.asarray(self.probabilities.voxel_size), axis=1)
        long = span >= self.rules.split_nm
        large = long & (sides.astype(np.float64).prod(axis=1) > LARGEST_BOX)
        return long & ~large, large

    def cut(self, table: ComponentTable, row: int) -> tuple[Box, NDArray[np.int32], NDArray[Any]]:
        """Bounding box of an object, its pieces there as of :func:`cut_object`, and the stored values."""
        rules, volume = self.rules, self.probabilities
        box = Box(triple(table.start[row]), triple(table.stop[row]))
        values = volume.read(box)
        bridges = [(a, b) for a, b in rules.bridges(volume.shape[0]) if box.start[0] <= a and b < box.stop[0]]
        mask = rules.mask(values)
        # An object hangs together within its box, so there, too, it is the one component with its first voxel.
        found = find_components(lambda _: (mask, None), box, box.shape, rules.connectivity, bridges=bridges)
        labels = found.labels(box, mask)
        first = np.unravel_index(int(table.first[row]), volume.shape)
        inside = labels == labels[tuple(np.subtract(first, box.start))]
        local = [(a - box.start[0], b - box.start[0]) for a, b in bridges]
        sure = inside & rules.sure(values, volume.dtype)
        p = as_probability(values)
        return (
            box,
            cut_object(p, inside, sure, volume.voxel_size, rules.split_nm, rules.connectivity, local),
            values,
        )


@dataclass(frozen=True)
class SplitComponents:
    """Components of which some were cut into pieces; to be used as :class:`Components`.

    Attributes:
        whole: before the cuts.
        table: one row an object, whole or piece, ordered by first voxel; row i has id i + 1.
        splitter: made the cuts, and makes them again where ids are asked for.
    """

    whole: Components
    table: ComponentTable
    splitter: Splitter
    _kept: Integers = field(repr=False)  # id of each component → its id now, 0 for one that was cut (and for 0)
    _pieces: dict[int, Integers] = field(repr=False)  # id of a component that was cut → ids of 0 and of its pieces

    def __len__(self) -> int:
        return len(self.table)

    @property
    def cut(self) -> int:
        """How many components were cut."""
        return len(self._pieces)

    @property
    def blocks(self) -> BlockGrid:
        """Those of the components."""
        return self.whole.blocks

    def keep(self, rows: Mask) -> SplitComponents:
        """Only the objects where ``rows`` is True, numbered anew from 1 in the same order."""
        renumbered = np.concatenate([[0], np.where(rows, np.cumsum(rows), 0)])
        pieces = {name: renumbered[ids] for name, ids in self._pieces.items()}
        return replace(self, table=self.table.take(rows), _kept=renumbered[self._kept], _pieces=pieces)

    def labels(self, block: Box, mask: Mask, dtype: Any = np.int64) -> NDArray[Any]:
        """Ids of the voxels of one block, as :meth:`Components.labels`.

        Raises:
            SynbbError: the foreground has changed in between.
        """
        before = self.whole.labels(block, mask)
        ids: NDArray[Any] = self._kept[before].astype(dtype)
        for name in np.unique(before[(before > 0) & (ids == 0)]).tolist():
            if name in self._pieces and self._pieces[name].any():
                box, pieces, _ = self.splitter.cut(self.whole.table, name - 1)
                common = box.intersect(block)
                assert common is not None, "an object lies in its box"
                here = pieces[common.relative_to(box.start).slices]
                there = ids[common.relative_to(block.start).slices]
                there[here > 0] = self._pieces[name][here[here > 0]]
        return ids


def split_components(
    whole: Components, splitter: Splitter, progress: Callable[[int, int], None] | None = None
) -> SplitComponents:
    """Cut the objects that have two seeds or more.

    Each is read once, on its box, in the order of the blocks that hold the boxes' first corners. In memory are one
    such box and the rows of all objects.

    Args:
        whole: the objects.
        splitter: how to cut them.
        progress: called with (done, total) objects that are looked at.
    """
    table, grid = whole.table, whole.blocks
    rows = np.flatnonzero(splitter.may_cut(table)[0])
    near = rows[np.lexsort((table.start[rows] // np.asarray(grid.shape)).T[::-1])]
    tables, cut = [table], []
    for done, row in enumerate(near.tolist(), 1):
        box, pieces, values = splitter.cut(table, row)
        if pieces.any():
            runs = Runs.of(pieces)
            labels = pieces.reshape(-1)[runs.start].astype(np.int64) - 1
            extent = splitter.probabilities.shape
            tables.append(measure(runs, labels, int(pieces.max()), box.start, extent, values))
            cut.append(row)
        if progress is not None:
            progress(done, len(near))
    stay = np.ones(len(table), bool)
    stay[cut] = False
    tables[0] = table.take(stay)
    joined = ComponentTable.concatenate(tables)
    order = np.argsort(joined.first)
    ids = np.empty(len(joined), np.int64)
    ids[order] = np.arange(1, len(joined) + 1)
    kept = np.zeros(len(table) + 1, np.int64)
    kept[1:][stay] = ids[: len(tables[0])]
    pieces_of, at = {}, len(tables[0])
    for row, part in zip(cut, tables[1:], strict=True):
        pieces_of[row + 1] = np.concatenate([[0], ids[at : at + len(part)]])
        at += len(part)
    return SplitComponents(whole, joined.take(order), splitter, kept, pieces_of)
