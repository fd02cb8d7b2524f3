"""Smooth random vector fields: value noise on a hashed lattice, the same at any point whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from synbb.datasets.phantom.hashing import hash_at

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def _cell_and_weight(position: Floats, wavelength: float) -> tuple[Integers, Floats]:
    """Index of the lattice node below, and the smoothstep weight of the one above."""
    scaled = position / wavelength
    below = np.floor(scaled)
    t = scaled - below
    return below.astype(np.int64), t * t * (3.0 - 2.0 * t)


@dataclass(frozen=True)
class SmoothField:
    """Three components in [-amplitude, amplitude], smooth over ``wavelength`` nm."""

    seed: int
    stream: str
    wavelength: float
    amplitude: float

    def _nodes(self, z: Integers, y: Integers, x: Integers) -> list[Floats]:
        """The three components at lattice nodes: 21 bits each of one hash."""
        bits = hash_at(self.seed, self.stream, z, y, x)
        parts = [(bits >> np.uint64(shift)) & np.uint64(0x1FFFFF) for shift in (0, 21, 42)]
        return [part.astype(np.float64) * (2.0 * self.amplitude / 0x1FFFFF) - self.amplitude for part in parts]

    def at(self, points: Floats) -> tuple[Floats, Floats]:
        """Values and slopes at points (n, 3) in nm: (n, 3), and (n, 3, 3) with [n, i, j] = d value_i / d point_j."""
        values, slopes = np.zeros((len(points), 3)), np.zeros((len(points), 3, 3))
        weights, steps, nodes = [], [], []
        for axis in range(3):
            node, weight = _cell_and_weight(points[:, axis], self.wavelength)
            t = points[:, axis] / self.wavelength - node
            nodes.append(node)
            weights.append((1.0 - weight, weight))
            steep = 6.0 * t * (1.0 - t) / self.wavelength
            steps.append((-steep, steep))
        for dz, dy, dx in product((0, 1), repeat=3):
            wz, wy, wx = weights[0][dz], weights[1][dy], weights[2][dx]
            gradient = np.stack([steps[0][dz] * wy * wx, wz * steps[1][dy] * wx, wz * wy * steps[2][dx]], axis=-1)
            corner = np.stack(self._nodes(nodes[0] + dz, nodes[1] + dy, nodes[2] + dx), axis=-1)
            values += (wz * wy * wx)[:, None] * corner
            slopes += corner[:, :, None] * gradient[:, None, :]
        return values, slopes

    def plane(self, z: float, y: Floats, x: Floats) -> NDArray[np.float32]:
        """Values at the grid of a section: array (3, len(y), len(x)); positions in nm."""
        (iz, wz) = _cell_and_weight(np.array([z]), self.wavelength)
        (iy, wy), (ix, wx) = _cell_and_weight(y, self.wavelength), _cell_and_weight(x, self.wavelength)
        node_y = np.arange(iy.min(), iy.max() + 2)
        node_x = np.arange(ix.min(), ix.max() + 2)
        result = np.empty((3, len(y), len(x)), dtype=np.float32)
        planes = [self._nodes(iz + step, node_y[:, None], node_x[None, :]) for step in (0, 1)]
        for component, (low, high) in enumerate(zip(*planes, strict=True)):
            nodes = low + (high - low) * wz
            rows = nodes[iy - node_y[0]]
            rows = (rows + (nodes[iy - node_y[0] + 1] - rows) * wy[:, None]).astype(np.float32)
            left = rows[:, ix - node_x[0]]
            result[component] = left + (rows[:, ix - node_x[0] + 1] - left) * wx.astype(np.float32)[None, :]
        return result
