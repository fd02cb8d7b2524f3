"""Cheap stand-ins for predictions and truth of any size: discs as synapses are, the same whatever the blocks."""

from __future__ import annotations

import math

import numpy as np

from synbb.volumes import Box

CELL = (8, 64, 64)
"""Voxels for each synapse: a quarter of the cells hold one."""
VOXEL = (40.0, 8.0, 8.0)


def cube(voxels: int) -> tuple[int, int, int]:
    """As many cells along each axis, together about so many voxels."""
    side = max(1, round((voxels / math.prod(CELL)) ** (1 / 3)))
    return side * CELL[0], side * CELL[1], side * CELL[2]


def probabilities(box: Box, *, seed: int = 0, jitter: int = 0) -> np.ndarray:
    """uint8 probabilities of a box, z y x: low noise, and a disc of 3 sections somewhere in one of four cells.

    Args:
        box: the voxels.
        seed: of the places.
        jitter: voxels by which discs are moved along x, as a prediction is off.
    """
    generator = np.random.default_rng([seed, *box.start])
    values = generator.integers(0, 40, box.shape, np.uint8)
    cells = Box((0, 0, 0), tuple(-(-b // c) for b, c in zip(box.stop, CELL, strict=True)))
    first = [a // c - 1 for a, c in zip(box.start, CELL, strict=True)]
    for place in np.ndindex(*(stop - max(0, f) for stop, f in zip(cells.stop, first, strict=True))):
        cell = [max(0, f) + p for f, p in zip(first, place, strict=True)]
        draw = np.random.default_rng([seed, 1, *cell])
        if draw.random() > 0.25:
            continue
        z, y, x = (c * n + int(draw.integers(n)) for c, n in zip(cell, CELL, strict=True))
        radius, level = int(draw.integers(8, 24)), int(draw.integers(140, 256))
        disc = Box((z, y, x + jitter), (z + 3, y + 2 * radius, x + jitter + 2 * radius)).intersect(box)
        if disc is not None:
            rows, columns = (np.arange(disc.start[a], disc.stop[a]) - (y, x + jitter)[a - 1] - radius for a in (1, 2))
            inside = rows[:, None] ** 2 + columns**2 < radius**2
            values[disc.relative_to(box.start).slices][:, inside] = level
    return values
