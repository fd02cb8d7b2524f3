"""Voxels of which nothing can be said: absent chunks, blank sections and padding, what lies outside of a mask.

A place is blank where an in-plane tile of the working grid has one grey value, as where the normalisation finds no
tissue (:func:`synbb.volumes.statistics.tissue_mask`). Tiles are counted from the volume's corner, so that what is blank
does not depend on the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from synbb.errors import SynbbError
from synbb.volumes.box import Box, triple
from synbb.volumes.statistics import TILE, tissue_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.volumes.resample import WorkingView
    from synbb.volumes.storage import Voxels
    from synbb.volumes.volume import Volume

Where = npt.NDArray[np.bool_]

PROBES = ((0, 5), (5, 0), (7, 11), (11, 7), (15, 15))
"""Rows and columns from the corner of a tile at which voxels are compared before all are."""


@dataclass(frozen=True)
class Tissue:
    """A mask of the places that are to be predicted, at any voxel size and place.

    Attributes:
        mask: nonzero inside; beyond its borders lies nothing to predict.
        volume: the volume to be predicted.
    """

    mask: Volume
    volume: Volume

    def inside(self, box: Box) -> Where:
        """Whether each voxel of ``box`` (voxels of the volume) is inside: the mask's voxel that holds its centre."""
        index = [self._nearest(axis, box) for axis in range(3)]
        found = np.zeros(box.shape, bool)
        within = [(i >= 0) & (i < n) for i, n in zip(index, self.mask.shape, strict=True)]
        if all(each.any() for each in within):
            picked = [i[ok] for i, ok in zip(index, within, strict=True)]
            start = triple([int(i.min()) for i in picked])
            stored = self.mask.read(Box(start, triple([int(i.max()) + 1 for i in picked])))
            local = np.ix_(*[i - s for i, s in zip(picked, start, strict=True)])
            found[np.ix_(*within)] = stored[local] != 0
        return found

    def _nearest(self, axis: int, box: Box) -> npt.NDArray[np.int64]:
        at = np.arange(box.start[axis], box.stop[axis])
        world = self.volume.offset[axis] + at * self.volume.voxel_size[axis]
        place = (world - self.mask.offset[axis]) / self.mask.voxel_size[axis]
        index: npt.NDArray[np.int64] = np.floor(place + 0.5 + 1e-6).astype(np.int64)
        return index


def whole_tiles(box: Box, within: Box) -> Box:
    """``box`` grown in the plane to whole tiles of the grid, clipped to ``within``."""
    start = [box.start[0], *(a // TILE * TILE for a in box.start[1:])]
    stop = [box.stop[0], *(-(-b // TILE) * TILE for b in box.stop[1:])]
    grown = Box(triple(start), triple(stop)).intersect(within)
    assert grown is not None, "a box inside the volume stays inside"
    return grown


def blank(values: Voxels, core: Box, read: Box, tolerance: float) -> Where:
    """Which voxels of ``core`` lie in blank tiles.

    Args:
        values: grey values of ``read``, which holds all tiles of ``core`` whole.
        core: working voxels.
        read: working voxels.
        tolerance: grey values that differ by no more are one: what averaging in floats leaves of equal ones.
    """
    tiles = whole_tiles(core, read)
    given = values[tiles.relative_to(read.start).slices]
    found = np.zeros(core.shape, bool)
    suspects = np.flatnonzero(_may_be_blank(given, tolerance))
    if len(suspects):
        rows, columns = core.relative_to(tiles.start).slices[1:]
        found[suspects] = ~tissue_mask(given[suspects], tolerance=tolerance)[:, rows, columns]
    return found


def may_be_blank(stored: Voxels, box: Box, core: Box, factor: Sequence[int], tolerance: float) -> bool:
    """Whether working tiles of ``core`` may be blank, from the voxels that they are averages of.

    Args:
        stored: grey values that the working voxels of ``box`` are made of, ``factor`` along each axis in one.
        box: working voxels; holds all tiles of ``core`` whole.
        core: working voxels.
        factor: whole numbers.
        tolerance: grey values that differ by no more are one.
    """
    one_of_each = stored[tuple(slice(None, None, step) for step in factor)]
    return bool(_may_be_blank(one_of_each[whole_tiles(core, box).relative_to(box.start).slices], tolerance).any())


def _may_be_blank(given: Voxels, tolerance: float) -> Where:
    """Which sections have a tile of which a few voxels agree: a look at every voxel of each block would cost time."""
    last = [n - 1 for n in given.shape[1:]]
    rows, columns = (np.arange(0, n, TILE) for n in given.shape[1:])
    corners = given[:, rows[:, None], columns].astype(np.float32)  # differences of whole numbers would wrap round
    alike = np.ones(corners.shape, bool)
    for down, across in PROBES:
        others = given[:, np.minimum(rows + down, last[0])[:, None], np.minimum(columns + across, last[1])]
        alike &= np.abs(others - corners) <= tolerance
    found: Where = np.any(alike, axis=(1, 2))
    return found


def absent(view: WorkingView, core: Box) -> Where:
    """Which voxels of ``core`` (working voxels) are made of chunks that the input does not have.

    Stores where each chunk would have to be asked for are left alone: what is absent reads as one value, and is found
    as blank.
    """
    found = np.zeros(core.shape, bool)
    for box in view.volume.absent(view.level_box(core), at_any_cost=False):
        start = [int(np.floor(a / f)) for a, f in zip(box.start, view.factor, strict=True)]
        stop = [int(np.ceil(b / f)) for b, f in zip(box.stop, view.factor, strict=True)]
        part = Box(triple(start), triple(stop)).intersect(core)
        if part is not None:
            found[part.relative_to(core.start).slices] = True
    return found


def at_source(found: Where, core: Box, write: Box, scale: Sequence[float]) -> Where:
    """``found`` of the working voxels of ``core`` at the level-0 voxels of ``write``, each as the one that holds it."""
    if core == write:
        return found
    if not found.any():
        return np.zeros(write.shape, bool)
    index = [
        np.clip(np.floor((np.arange(a, b) + 0.5) / f).astype(np.int64) - first, 0, count - 1)
        for a, b, f, first, count in zip(write.start, write.stop, scale, core.start, core.shape, strict=True)
    ]
    return found[np.ix_(*index)]


def check_missing(value: str) -> str:
    """``error`` or ``skip``.

    Raises:
        SynbbError: something else.
    """
    if value not in ("error", "skip"):
        raise SynbbError(f"--missing {value!r} is not one of error, skip")
    return value
