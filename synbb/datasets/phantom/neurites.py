"""Packed neurites: a warped tessellation whose cells are merged into processes of many sizes.

Seeds stand on a jittered lattice in *seed space*: z is compressed (so that processes run through the sections) and the
coordinates are displaced by a smooth field (so that membranes are curved). Seeds that share a parent, of one of two
coarser lattices, belong to one neurite, which gives small profiles beside large, non-convex ones. The distance to the
border is that to the bisecting plane between a point's own seed and the nearest seed of another neurite.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from synbb.datasets.phantom.fields import Floats, Integers, SmoothField
from synbb.datasets.phantom.hashing import hash_at, uniform_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z_COMPRESSION = 2.4
FINE, MIDDLE, COARSE = 240.0, 480.0, 1000.0  # nm between the seeds of the three lattices
CANDIDATES = 30  # seeds looked at for a tile: those around it to about 450 nm
FAR = 400.0  # nm: a point without a border among its candidates is said to be this deep
GRID = 18.0  # nm: the tessellation is computed on a grid no coarser than this, then refined
TILE = 16  # nodes of that grid along a tile that shares its candidates


def jittered_lattice(seed: int, stream: str, low: Floats, high: Floats, spacing: float) -> tuple[Integers, Floats]:
    """Cells (n, 3) of a cubic lattice that meet [low, high], and one point (n, 3) in each."""
    ranges = [np.arange(np.floor(a / spacing), np.floor(b / spacing) + 1) for a, b in zip(low, high, strict=True)]
    cells = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int64)
    offsets = np.stack([uniform_at(seed, f"{stream}{a}", *cells.T) for a in range(3)], axis=-1)
    return cells, (cells + offsets) * spacing


@dataclass(frozen=True)
class Border:
    """Where points (n) lie in the tessellation.

    Attributes:
        neurite: index into ``NeuriteMap.ids``.
        depth: distance to the border in seed space, nm.
        slope: gradient (n, 3) of the depth in the tissue, pointing inward; zeros without a border near.
    """

    neurite: NDArray[np.int32]
    depth: Floats
    slope: Floats


class NeuriteMap:
    """The neurites around one region: right for every point inside [low, high] (nm), whatever the region.

    Attributes:
        ids: hashed identity of each neurite, uint64, the same in every region.
    """

    def __init__(self, seed: int, low: Floats, high: Floats) -> None:
        self._warps = (
            SmoothField(seed, "bend", 1600.0, 300.0),
            SmoothField(seed, "wave", 420.0, 75.0),
            SmoothField(seed, "curl", 240.0, 30.0),
            SmoothField(seed, "ripple", 150.0, 18.0),
        )
        # Farthest candidate of a tile, and how far the warp can displace a point.
        margin = 900.0 + sum(warp.amplitude for warp in self._warps)
        scale = np.array([1.0 / Z_COMPRESSION, 1.0, 1.0])
        low, high = low * scale - margin, high * scale + margin
        cells, points = jittered_lattice(seed, "fine", low, high, FINE)
        identity = hash_at(seed, "fine-id", *cells.T)
        for name, spacing, share in (("middle", MIDDLE, 0.55), ("coarse", COARSE, 0.5)):
            # A point's nearest parent is at most sqrt(3) lattice steps away, in a lattice grown by two.
            parent_cells, parents = jittered_lattice(seed, name, low - 2 * spacing, high + 2 * spacing, spacing)
            nearest = cKDTree(parents).query(points)[1]
            merged = uniform_at(seed, f"{name}-merges", *parent_cells.T) < share
            parent_id = hash_at(seed, f"{name}-id", *parent_cells.T)
            identity = np.where(merged[nearest], parent_id[nearest], identity)
        self.ids, group = np.unique(identity, return_inverse=True)
        self._group = group.astype(np.int32)
        self._seeds = points
        self._tree = cKDTree(points)
        self._seed = seed

    @cached_property
    def character(self) -> dict[str, Floats]:
        """Three numbers in [0, 1) for each neurite, by name: what makes it dark, vesicle-rich, bright."""
        return {
            name: uniform_at(self._seed, name, (self.ids >> np.uint64(1)).astype(np.int64))
            for name in ("dark", "rich", "grey")
        }

    def locate(self, points: Floats) -> Border:
        """Neurite, depth and way inward of any points (n, 3), tissue nm."""
        moved = points * np.array([1.0 / Z_COMPRESSION, 1.0, 1.0])
        slopes = np.tile(np.diag([1.0 / Z_COMPRESSION, 1.0, 1.0]), (len(points), 1, 1))
        for warp in self._warps:
            value, slope = warp.at(points)
            moved, slopes = moved + value, slopes + slope
        distance, index = self._tree.query(moved, k=CANDIDATES)
        group = self._group[index]
        other = group != group[:, :1]
        second = other.argmax(axis=1)
        rows = np.arange(len(points))
        own, across = self._seeds[index[:, 0]], self._seeds[index[rows, second]]
        apart = np.linalg.norm(own - across, axis=1)
        found = other.any(axis=1)
        safe = np.where(found, apart, 1.0)
        depth = np.where(found, (distance[rows, second] ** 2 - distance[:, 0] ** 2) / (2 * safe), FAR)
        normal = np.where(found[:, None], (own - across) / safe[:, None], 0.0)
        # The chain rule: depth is linear in seed space, so its slope in the tissue is the normal times the Jacobian.
        slope = (normal[:, :, None] * slopes).sum(axis=1)
        return Border(group[:, 0], np.minimum(depth, FAR), slope)

    def section(
        self, z: float, rows: tuple[int, int], columns: tuple[int, int], pixel: tuple[float, float]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Neurite index and depth (nm) of the voxels of one section.

        Args:
            z: height of the section, nm.
            rows: first and last + 1 voxel along y, counted in the tissue.
            columns: the same along x.
            pixel: voxel size along y and x, nm.

        Returns:
            int32 and float32 arrays of shape (rows, columns).
        """
        factors = [_refinements(size) for size in pixel]
        spans = [
            (start // (f * TILE), -(-((stop - 1) // f + 2) // TILE))
            for (start, stop), f in zip((rows, columns), factors, strict=True)
        ]
        group, depth = self._tiles(z, spans, (pixel[0] * factors[0], pixel[1] * factors[1]))
        for axis, factor in enumerate(factors):
            for _ in range(factor.bit_length() - 1):
                group, depth = _refine(group, depth, axis)
        window = tuple(
            slice(start - first * TILE * f, stop - first * TILE * f)
            for (start, stop), (first, _), f in zip((rows, columns), spans, factors, strict=True)
        )
        return np.ascontiguousarray(group[window]), np.ascontiguousarray(depth[window])

    def _tiles(
        self, z: float, spans: list[tuple[int, int]], pixel: tuple[float, float]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Neurite and depth at the nodes of whole tiles; spans are the first and last + 1 tile along y and x."""
        (y0, y1), (x0, x1) = spans
        y: Floats = np.arange(y0 * TILE, y1 * TILE).astype(np.float64) * pixel[0]
        x: Floats = np.arange(x0 * TILE, x1 * TILE).astype(np.float64) * pixel[1]
        warp = sum((field.plane(z, y, x) for field in self._warps), np.zeros((3, len(y), len(x)), dtype=np.float32))
        # Relative to each tile's centre, so that float32 holds far from the origin too.
        tiles = (y1 - y0, TILE, x1 - x0, TILE)
        local = warp.reshape(3, *tiles).transpose(0, 1, 3, 2, 4).reshape(3, tiles[0] * tiles[2], TILE * TILE)
        centre_y = (np.arange(y0, y1) * TILE + TILE / 2) * pixel[0]
        centre_x = (np.arange(x0, x1) * TILE + TILE / 2) * pixel[1]
        centre = np.stack([a.ravel() for a in np.meshgrid(centre_y, centre_x, indexing="ij")], axis=-1)
        centre = np.concatenate([np.full((len(centre), 1), z / Z_COMPRESSION), centre], axis=1)
        within = (np.arange(TILE) - TILE / 2).astype(np.float32)
        local[1] += np.repeat(within * np.float32(pixel[0]), TILE)[None]
        local[2] += np.tile(within * np.float32(pixel[1]), TILE)[None]
        middle = local[:, :, TILE * TILE // 2 + TILE // 2].T
        index = self._tree.query(centre + middle, k=CANDIDATES)[1]
        seeds = (self._seeds[index] - centre[:, None, :]).astype(np.float32)
        group, depth = _two_nearest(local, seeds, self._group[index])
        shape = (tiles[0], tiles[2], TILE, TILE)
        size = (len(y), len(x))
        return group.reshape(shape).swapaxes(1, 2).reshape(size), depth.reshape(shape).swapaxes(1, 2).reshape(size)


def _refinements(pixel: float) -> int:
    """The power of two by which the grid of the tessellation is coarser than voxels of ``pixel`` nm."""
    factor = 1
    while pixel * factor * 2 <= GRID:
        factor *= 2
    return factor


def _two_nearest(
    points: NDArray[np.float32], seeds: NDArray[np.float32], groups: NDArray[np.int32], batch: int = 96
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Group of the nearest seed, and distance to the plane halfway to the nearest seed of another group.

    Args:
        points: (3, tiles, n), nm.
        seeds: (tiles, candidates, 3), nm.
        groups: (tiles, candidates).
        batch: tiles worked on at a time, so that the temporaries stay in the processor's cache.

    Returns:
        Arrays (tiles, n).
    """
    tiles, n = points.shape[1:]
    group = np.empty((tiles, n), dtype=np.int32)
    depth = np.empty((tiles, n), dtype=np.float32)
    for start in range(0, tiles, batch):
        part = slice(start, min(start + batch, tiles))
        z, y, x = points[:, part]
        near = np.full(z.shape, np.inf, dtype=np.float32)
        far = near.copy()
        near_index = np.zeros(z.shape, dtype=np.int8)
        far_index = near_index.copy()
        near_group = np.full(z.shape, -1, dtype=np.int32)
        for k in range(seeds.shape[1]):
            sz, sy, sx = (seeds[part, k, axis, None] for axis in range(3))
            distance = (z - sz) ** 2 + (y - sy) ** 2 + (x - sx) ** 2
            mine = groups[part, k, None]
            closer = distance < near
            other = near_group != mine
            # The old nearest becomes the second when another group takes its place; else this seed may be the second.
            demoted = closer & other
            np.copyto(far, near, where=demoted)
            np.copyto(far_index, near_index, where=demoted)
            rival = other & ~closer & (distance < far)
            np.copyto(far, distance, where=rival)
            np.copyto(far_index, np.int8(k), where=rival)
            np.copyto(near, distance, where=closer)
            np.copyto(near_index, np.int8(k), where=closer)
            np.copyto(near_group, np.broadcast_to(mine, near_group.shape), where=demoted)
        own, across = (
            np.take_along_axis(seeds[part], index.astype(np.int64)[:, :, None], axis=1)
            for index in (near_index, far_index)
        )
        apart = np.sqrt(((own - across) ** 2).sum(axis=2))
        has_border = np.isfinite(far)
        raw = np.where(has_border, far - near, 0.0) / np.where(has_border, 2.0 * apart, 1.0)
        group[part] = near_group
        depth[part] = np.minimum(np.where(has_border, raw, FAR), FAR)
    return group, depth


def _refine(
    group: NDArray[np.int32], depth: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Put one node halfway between any two along ``axis``; the last is repeated.

    Between two nodes of different neurites the depth changes sign, so the border keeps its place below a node's width.
    """
    group, depth = group.swapaxes(0, axis), depth.swapaxes(0, axis)
    next_group = np.concatenate([group[1:], group[-1:]])
    next_depth = np.concatenate([depth[1:], depth[-1:]])
    halfway = np.where(group == next_group, depth + next_depth, np.abs(depth - next_depth)) * np.float32(0.5)
    fine_group = np.empty((2 * group.shape[0], group.shape[1]), dtype=np.int32)
    fine_depth = np.empty(fine_group.shape, dtype=np.float32)
    fine_group[::2], fine_depth[::2] = group, depth
    fine_group[1::2], fine_depth[1::2] = np.where(next_depth > depth, next_group, group), halfway
    return fine_group.swapaxes(0, axis), fine_depth.swapaxes(0, axis)
