"""Where the organelles of a region are: synapses, mitochondria, vesicles, and dark bodies that only look like synapses.

Each kind has candidates in the cells of a hashed lattice; whether one is accepted depends on the tissue around it and
on candidates nearby only. So a structure is the same in every region that can see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from synbb.datasets.phantom.hashing import hash_at, uniform_at
from synbb.datasets.phantom.neurites import NeuriteMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from synbb.datasets.phantom.fields import Floats, Integers
    from synbb.datasets.phantom.spec import PhantomSpec

DARK_SHARE = 0.08  # neurites with dark, glia-like cytoplasm: never presynaptic
RICH_SHARE = 0.3  # neurites that hold vesicles away from synapses too
VESICLES_PER_SYNAPSE = 110
VESICLE_REACH = 330.0  # nm from the border
SEPARATION = 340.0  # nm between structures on borders
SURVIVAL = 0.68  # of the candidates on borders at the default densities, measured: the others stand too close
MOVE = 420.0  # nm a candidate may go to reach its border
REGION_MARGIN = 2200.0  # nm: enough tissue around a block to decide on every structure that can touch it
_CELL = 700.0  # nm, the lattice of candidates


@dataclass(frozen=True)
class Blobs:
    """Ellipsoids (n): centre and axes in nm, tissue coordinates.

    Attributes:
        key: identity (n, 4): lattice cell z, y, x and number within it.
        centre: (n, 3).
        axes: orthonormal rows (n, 3, 3).
        radii: half-lengths (n, 3) along the rows of ``axes``.
        neurite: index into the map's ``ids``.
        shade: a number in [0, 1) that varies their look.
    """

    key: Integers
    centre: Floats
    axes: Floats
    radii: Floats
    neurite: NDArray[np.int32]
    shade: Floats

    def __len__(self) -> int:
        return len(self.key)

    def pick(self, which: NDArray[Any]) -> Blobs:
        """Those that ``which`` (mask or indices) selects."""
        return Blobs(
            self.key[which], self.centre[which], self.axes[which], self.radii[which], self.neurite[which],
            self.shade[which],
        )  # fmt: skip


@dataclass(frozen=True)
class Vesicles:
    """Spheres (n): centre (n, 3) nm, radius nm, neurite index."""

    centre: Floats
    radius: Floats
    neurite: NDArray[np.int32]


@dataclass(frozen=True)
class Structures:
    """All that lies within reach of one block."""

    neurites: NeuriteMap
    synapses: Blobs
    junctions: Blobs
    bodies: Blobs
    mitochondria: Blobs
    vesicles: Vesicles


def find_structures(spec: PhantomSpec, low: Floats, high: Floats) -> Structures:
    """Everything that touches the tissue between the corners ``low`` and ``high`` (nm)."""
    seed = spec.seed
    tissue = NeuriteMap(seed, low - REGION_MARGIN, high + REGION_MARGIN)
    reach = VESICLE_REACH + 60.0
    wide_low, wide_high = low - reach - SEPARATION - MOVE, high + reach + SEPARATION + MOVE
    on_border = _separated(
        [
            _on_borders(tissue, seed, "synapse", spec.synapse_density, wide_low, wide_high),
            _on_borders(tissue, seed, "junction", spec.junction_density, wide_low, wide_high),
        ],
        seed,
    )
    synapses, junctions = (_near(blobs, low, high, reach) for blobs in on_border)
    vesicles = _join_vesicles(
        _vesicles_at_synapses(tissue, seed, synapses),
        _vesicles_elsewhere(tissue, seed, spec.vesicle_density, low - 60.0, high + 60.0),
    )
    return Structures(
        tissue,
        synapses,
        junctions,
        _bodies(tissue, seed, spec.distractor_density, low - 200.0, high + 200.0),
        _mitochondria(tissue, seed, spec.mitochondria_density, low - 800.0, high + 800.0),
        vesicles,
    )


def _candidates(seed: int, stream: str, density: float, low: Floats, high: Floats, cell: float = _CELL) -> Integers:
    """Keys (n, 4) of the candidates of all cells that meet [low, high]; ``density`` per cubic micrometre."""
    ranges = [np.arange(np.floor(a / cell), np.floor(b / cell) + 1) for a, b in zip(low, high, strict=True)]
    cells = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int64)
    expected = density * (cell / 1000.0) ** 3
    count = np.floor(expected + uniform_at(seed, f"{stream}-count", *cells.T)).astype(np.int64)
    number = np.concatenate([np.arange(n) for n in count]) if count.sum() else np.zeros(0, dtype=np.int64)
    return np.concatenate([np.repeat(cells, count, axis=0), number[:, None]], axis=1).astype(np.int64)


def _draws(seed: int, stream: str, key: Integers, n: int) -> Floats:
    """``n`` uniform numbers for each key: (len(key), n)."""
    return uniform_at(seed, stream, *(column[:, None] for column in key.T), np.arange(n)[None, :])


def _positions(seed: int, stream: str, key: Integers, cell: float = _CELL) -> Floats:
    return (key[:, :3] + _draws(seed, stream, key, 3)) * cell


def _directions(draws: Floats) -> Floats:
    """Unit vectors, uniform on the sphere, of draws (n, 2)."""
    z = 2.0 * draws[:, 0] - 1.0
    angle = 2.0 * np.pi * draws[:, 1]
    flat = np.sqrt(1.0 - z * z)
    return np.stack([z, flat * np.sin(angle), flat * np.cos(angle)], axis=-1)


def _frame(first: Floats, toward: Floats) -> Floats:
    """Orthonormal rows (n, 3, 3): ``first``, the part of ``toward`` across it, and their cross product."""
    across = toward - (toward * first).sum(axis=1, keepdims=True) * first
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    return np.stack([first, across, np.cross(first, across)], axis=1)


def _near(blobs: Blobs, low: Floats, high: Floats, reach: float) -> Blobs:
    inside = (blobs.centre > low - reach) & (blobs.centre < high + reach)
    return blobs.pick(np.all(inside, axis=1, keepdims=False))


def _on_borders(tissue: NeuriteMap, seed: int, kind: str, density: float, low: Floats, high: Floats) -> Blobs:
    """Flat ellipsoids on the inner face of membranes, their first axis pointing into the neurite."""
    key = _candidates(seed, kind, density / SURVIVAL, low, high)
    border = np.zeros((len(key), 3))
    normal = np.zeros((len(key), 3))
    neurite = np.full(len(key), -1, dtype=np.int32)
    waiting = np.arange(len(key))
    for attempt in range(8):
        if not len(waiting):
            break
        start = _positions(seed, f"{kind}-start{attempt}", key[waiting])
        ok, point, direction, inside = _walk_to_border(tissue, start)
        border[waiting[ok]], normal[waiting[ok]], neurite[waiting[ok]] = point[ok], direction[ok], inside[ok]
        waiting = waiting[~ok]
    placed = neurite >= 0
    key, border, normal, neurite = key[placed], border[placed], normal[placed], neurite[placed]
    shape = _draws(seed, f"{kind}-shape", key, 6)
    if kind == "synapse":
        radii = np.stack([50 + 16 * shape[:, 0], 100 + 50 * shape[:, 1], 85 + 45 * shape[:, 2]], axis=-1)
        centre = border + 26.0 * normal
    else:
        radii = np.stack([30 + 10 * shape[:, 0], 110 + 50 * shape[:, 1], 90 + 50 * shape[:, 2]], axis=-1)
        centre = border
    axes = _frame(normal, _directions(shape[:, 3:5]))
    return Blobs(key, centre, axes, radii, neurite, shape[:, 5])


def _walk_to_border(tissue: NeuriteMap, start: Floats) -> tuple[NDArray[np.bool_], Floats, Floats, NDArray[np.int32]]:
    """Newton steps from each start (n, 3) to the border of its neurite.

    Returns:
        Which arrived at a place fit for a synapse; the border's points (n, 3); inward normals (n, 3); neurite indices.
    """
    at = start.copy()
    first = tissue.locate(start)
    here = first
    for _ in range(4):
        steep = np.maximum((here.slope**2).sum(axis=1), 1e-3)
        # An overshoot needs no care: on the far side the inward normal turns round, and the walk goes back.
        at = at - here.depth[:, None] * here.slope / steep[:, None]
        at = np.where(np.abs(at - start).max(axis=1, keepdims=True) > MOVE, start, at)
        here = tissue.locate(at)
    gradient = here.slope * np.where(here.neurite == first.neurite, 1.0, -1.0)[:, None]
    normal = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)
    inner, outer = tissue.locate(at + 130.0 * normal), tissue.locate(at - 45.0 * normal)
    ok = (
        (here.depth < 3.0)
        & (np.linalg.norm(at - start, axis=1) < MOVE)
        & (inner.neurite == first.neurite)
        & (inner.depth > 55.0)
        & (outer.neurite != first.neurite)
        & (np.abs(normal[:, 0]) < 0.75)
        & (tissue.character["dark"][first.neurite] >= DARK_SHARE)
    )
    return ok, at, normal, first.neurite


def _separated(kinds: list[Blobs], seed: int) -> list[Blobs]:
    """Drop whatever has a stronger neighbour (by hash) within SEPARATION, of any of the kinds."""
    centre = np.concatenate([blobs.centre for blobs in kinds])
    strength = np.concatenate(
        [hash_at(seed, f"strength{number}", *blobs.key.T) for number, blobs in enumerate(kinds) if len(blobs)]
        or [np.zeros(0, dtype=np.uint64)]
    )
    keep = np.ones(len(centre), dtype=np.bool_)
    if len(centre):
        pairs = cKDTree(centre).query_pairs(SEPARATION, output_type="ndarray")
        weaker = np.where(strength[pairs[:, 0]] < strength[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
        keep[weaker] = False
    bounds = np.cumsum([len(blobs) for blobs in kinds])[:-1]
    return [blobs.pick(part) for blobs, part in zip(kinds, np.split(keep, bounds), strict=True)]


def _bodies(tissue: NeuriteMap, seed: int, density: float, low: Floats, high: Floats) -> Blobs:
    """Dark bodies inside the cytoplasm, of the size of a presynaptic density, without vesicles."""
    key = _candidates(seed, "body", 3.2 * density, low, high)
    centre = _positions(seed, "body-at", key)
    shape = _draws(seed, "body-shape", key, 6)
    radii = np.stack([45 + 25 * shape[:, 0], 60 + 50 * shape[:, 1], 60 + 40 * shape[:, 2]], axis=-1)
    axes = _frame(_directions(shape[:, 3:5]), np.tile([0.31, 0.87, 0.39], (len(key), 1)))
    where = tissue.locate(centre)
    blobs = Blobs(key, centre, axes, radii, where.neurite, shape[:, 5])
    return blobs.pick(where.depth > radii.mean(axis=1) + 10.0)


def _mitochondria(tissue: NeuriteMap, seed: int, density: float, low: Floats, high: Floats) -> Blobs:
    """Long ellipsoids that fit into their neurite."""
    key = _candidates(seed, "mitochondrion", density, low, high)
    centre = _positions(seed, "mitochondrion-at", key)
    shape = _draws(seed, "mitochondrion-shape", key, 5)
    where = tissue.locate(centre)
    thick = np.minimum(120 + 110 * shape[:, 0], where.depth * 1.15)
    radii = np.stack([np.minimum(thick * (1.3 + 2.4 * shape[:, 1]), 700.0), thick, thick * 0.85], axis=-1)
    direction = _directions(shape[:, 2:4])
    axes = _frame(direction, np.tile([0.31, 0.87, 0.39], (len(key), 1)))
    return Blobs(key, centre, axes, radii, where.neurite, shape[:, 4]).pick(where.depth > 85.0)


def _vesicles_at_synapses(tissue: NeuriteMap, seed: int, synapses: Blobs) -> Vesicles:
    """A cloud of vesicles on the presynaptic side of each synapse."""
    key = np.repeat(synapses.key, VESICLES_PER_SYNAPSE, axis=0)
    number = np.tile(np.arange(VESICLES_PER_SYNAPSE), len(synapses))[:, None]
    draws = _draws(seed, "cloud", np.concatenate([key, number], axis=1), 5)
    normal, first, second = (np.repeat(synapses.axes[:, axis], VESICLES_PER_SYNAPSE, axis=0) for axis in range(3))
    # Denser near the membrane.
    away = 60.0 + (VESICLE_REACH - 100.0) * draws[:, 0] ** 1.5
    aside = 210.0 * np.sqrt(draws[:, 1])
    angle = 2 * np.pi * draws[:, 2]
    offset = (
        away[:, None] * normal + (aside * np.cos(angle))[:, None] * first + (aside * np.sin(angle))[:, None] * second
    )
    centre = np.repeat(synapses.centre, VESICLES_PER_SYNAPSE, axis=0) + offset
    home = np.repeat(synapses.neurite, VESICLES_PER_SYNAPSE)
    where = tissue.locate(centre)
    fits = (where.neurite == home) & (where.depth > 26.0)
    return Vesicles(centre[fits], 17.0 + 6.0 * draws[fits, 3], home[fits])


def _vesicles_elsewhere(tissue: NeuriteMap, seed: int, density: float, low: Floats, high: Floats) -> Vesicles:
    """Vesicles scattered in some neurites, a few in all others."""
    key = _candidates(seed, "vesicle", density, low, high, cell=200.0)
    centre = _positions(seed, "vesicle-at", key, cell=200.0)
    inside = ((centre > low) & (centre < high)).all(axis=1)
    key, centre = key[inside], centre[inside]
    where = tissue.locate(centre)
    draws = _draws(seed, "vesicle-shape", key, 2)
    rich = tissue.character["rich"][where.neurite] < RICH_SHARE
    fits = (where.depth > 28.0) & (rich | (draws[:, 0] < 0.12))
    return Vesicles(centre[fits], 17.0 + 8.0 * draws[fits, 1], where.neurite[fits])


def _join_vesicles(*parts: Vesicles) -> Vesicles:
    return Vesicles(
        np.concatenate([part.centre for part in parts]),
        np.concatenate([part.radius for part in parts]),
        np.concatenate([part.neurite for part in parts]),
    )
