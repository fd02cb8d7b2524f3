"""What a person wants to know of a volume at first sight, from a bounded number of reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synbb.volumes.box import Box, triple
from synbb.volumes.statistics import CELL_VOXELS, GreySample, sample_greys

if TYPE_CHECKING:
    from synbb.volumes.volume import Volume

SAMPLE_VOXELS = 2**24
SPOTS = 3  # by 3 places in the plane where sections of large volumes are looked at
SPOT = 64
DECODED_VOXELS = 2**31


@dataclass(frozen=True)
class BlankSections:
    """Sections of one constant grey value.

    Attributes:
        found: their numbers.
        looked_at: how many sections were looked at.
        total: how many there are.
        whole: whether sections were looked at whole, not in a few places only.
    """

    found: tuple[int, ...]
    looked_at: int
    total: int
    whole: bool


@dataclass(frozen=True)
class Inspection:
    """Grey values and blank sections of a volume."""

    greys: GreySample
    blank: BlankSections


def inspect_volume(volume: Volume, *, max_voxels: int = SAMPLE_VOXELS) -> Inspection:
    """Look at every voxel of a small volume, at pieces of a large one.

    Raises:
        SynbbError: a chunk is truncated or unreadable.
    """
    return Inspection(sample_greys(volume, max_voxels=max_voxels), find_blank_sections(volume, max_voxels=max_voxels))


def find_blank_sections(volume: Volume, *, max_voxels: int = SAMPLE_VOXELS) -> BlankSections:
    """Find sections that are constant: whole sections in small volumes, nine places of each in large ones.

    Where even that would decode too much, groups of sections spread evenly are looked at.
    """
    depth, rows, columns = volume.shape
    whole = volume.box.size <= max_voxels
    spots = [Box((0, 0, 0), (1, rows, columns))] if whole else _spots(rows, columns)
    deep = max(1, min(volume.chunks[0], CELL_VOXELS // max(spot.size for spot in spots)))
    slabs = list(Box((0, 0, 0), (depth, 1, 1)).blocks((deep, 1, 1)))
    if not whole:
        affordable = max(1, DECODED_VOXELS // (len(spots) * int(np.prod(volume.chunks))))
        slabs = [slabs[i] for i in np.unique(np.linspace(0, len(slabs) - 1, min(affordable, len(slabs))).astype(int))]
    found: list[int] = []
    for slab in slabs:
        constant = np.ones(slab.shape[0], bool)
        for spot in spots:
            block = volume.read(Box((slab.start[0], *spot.start[1:]), (slab.stop[0], *spot.stop[1:])))
            flat = block.reshape(block.shape[0], -1)
            constant &= flat.max(axis=1) == flat.min(axis=1)
        found.extend(int(z) + slab.start[0] for z in np.flatnonzero(constant))
    return BlankSections(tuple(found), sum(slab.shape[0] for slab in slabs), depth, whole)


def _spots(rows: int, columns: int) -> list[Box]:
    """Places on an even grid, away from the border."""
    spots = []
    for i in range(SPOTS):
        for j in range(SPOTS):
            y = max(0, min(rows - SPOT, rows * (2 * i + 1) // (2 * SPOTS) - SPOT // 2))
            x = max(0, min(columns - SPOT, columns * (2 * j + 1) // (2 * SPOTS) - SPOT // 2))
            spots.append(Box((0, y, x), triple([1, min(y + SPOT, rows), min(x + SPOT, columns)])))
    return spots
