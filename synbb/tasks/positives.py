"""The foreground voxels that training patches are drawn around: indexed once, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

MAX_POSITIVES = 4_000_000
BLOCK_VOXELS = 2**23
"""Raw voxels looked at together."""

Index = tuple["NDArray[np.int32]", "NDArray[np.int32]"]


def index_positives(
    regions: Sequence[Box],
    scale: Sequence[float],
    foreground: Callable[[Box], NDArray[np.bool_]],
    *,
    most: int = MAX_POSITIVES,
) -> Index:
    """Coordinates of foreground voxels in ``regions``, and the number of the region of each.

    Where there are more than ``most``, each stays with the same probability: 1/2, 1/4, ..., as often as needed.

    Args:
        regions: boxes, working voxels.
        scale: raw voxels in a working voxel, z y x; decides how much is looked at together.
        foreground: the foreground mask of a working box.
        most: bound of what is returned; twice as many are held for a moment.

    Returns:
        int32 arrays of shapes (n, 3) and (n,).
    """
    rng = np.random.default_rng(0)
    share = 1.0
    held = np.zeros((0, 4), dtype=np.int32)  # region, z, y, x
    for number, block in _blocks(regions, scale):
        found = np.argwhere(foreground(block)).astype(np.int32) + np.array(block.start, dtype=np.int32)
        rows = np.column_stack([np.full(len(found), number, dtype=np.int32), found])
        if share < 1:
            rows = rows[rng.random(len(rows)) < share]
        held = np.concatenate([held, rows])
        while len(held) > most:
            share /= 2
            held = held[rng.random(len(held)) < 0.5]
    return held[:, 1:], held[:, 0]


def _blocks(regions: Sequence[Box], scale: Sequence[float]) -> Iterator[tuple[int, Box]]:
    shape = _block_shape(scale)
    for number, region in enumerate(regions):
        for block in region.blocks(shape):
            yield number, block


def _block_shape(scale: Sequence[float]) -> Triple:
    """Sections of 512 x 512 raw voxels or so, as many as fit."""
    plane = [max(1, round(512 / max(f, 1.0))) for f in scale[1:]]
    raw_plane = float(np.prod([p * max(f, 1.0) for p, f in zip(plane, scale[1:], strict=True)]))
    return triple([max(1, int(BLOCK_VOXELS / raw_plane / max(scale[0], 1.0))), *plane])
