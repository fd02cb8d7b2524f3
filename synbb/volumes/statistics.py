"""Grey-value statistics of a volume's tissue, and the normalisation made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import numpy.typing as npt

from synbb.errors import SynbbError
from synbb.volumes.box import BlockGrid, Box, Triple, triple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from synbb.volumes.storage import Voxels
    from synbb.volumes.volume import Volume

Inside = Callable[[Box], npt.NDArray[np.bool_]]

TILE = 16
MAX_VOXELS = 2**25
SCHEME = "percentile"
CELL_VOXELS = 2**21
"""The largest piece that is read at once."""
LOOKED = 16
"""How many times as many voxels a normalisation looks at, at most, where it meets little tissue."""
CANDIDATES = 2**14
"""Pieces after which no more are drawn; those that a mask leaves out are not read."""


@dataclass(frozen=True)
class Normalisation:
    """Fixed grey values of a volume that become 0 and 1 for the network.

    Attributes:
        low: grey value that becomes 0.
        high: grey value that becomes 1.
        scheme: how they were found.
        percentiles: of the tissue's grey values.
        invert: whether dark and bright are exchanged afterwards.
    """

    low: float
    high: float
    scheme: str = SCHEME
    percentiles: tuple[float, float] = (1.0, 99.0)
    invert: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise SynbbError(f"normalisation from {self.low} to {self.high}: low must be below high, both finite")

    def apply(self, array: Voxels) -> npt.NDArray[np.float32]:
        """Grey values of any shape to float32: (v - low) / (high - low) clipped to [-1, 2], or 1 minus that."""
        out = array.astype(np.float32)
        out -= np.float32(self.low)
        out *= np.float32(1.0 / (self.high - self.low))
        np.clip(out, -1.0, 2.0, out=out)
        return np.subtract(np.float32(1), out, out=out) if self.invert else out

    def to_dict(self) -> dict[str, Any]:
        """As stored in runs and in outputs."""
        return {
            "scheme": self.scheme,
            "low": self.low,
            "high": self.high,
            "percentiles": list(self.percentiles),
            "invert": self.invert,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Normalisation:
        """The inverse of :meth:`to_dict`.

        Raises:
            SynbbError: a value is missing or of another scheme.
        """
        try:
            low, high = float(stored["low"]), float(stored["high"])
            first, last = (float(p) for p in stored.get("percentiles", (1.0, 99.0)))
        except (KeyError, TypeError, ValueError) as error:
            raise SynbbError(f"normalisation {stored!r} is broken: low, high and two percentiles are wanted") from error
        scheme = str(stored.get("scheme", SCHEME))
        if scheme != SCHEME:
            raise SynbbError(f"normalisation scheme {scheme!r} is not known; known is {SCHEME!r}")
        return cls(low, high, scheme, (first, last), bool(stored.get("invert", False)))

    def __str__(self) -> str:
        first, last = self.percentiles
        return f"{self.low:g} to {self.high:g} (percentiles {first:g} and {last:g} of tissue" + (
            ", inverted)" if self.invert else ")"
        )


@dataclass(frozen=True)
class GreySample:
    """Grey values counted from pieces of a volume.

    Attributes:
        values: distinct grey values of tissue, ascending.
        counts: how often each was met.
        seen: voxels looked at, padding included.
        lowest: smallest value looked at, padding included.
        highest: largest value looked at, padding included.
        exact: whether every voxel was looked at.
        not_finite: voxels looked at that are NaN or infinite.
    """

    values: Voxels
    counts: npt.NDArray[np.int64]
    seen: int
    lowest: float
    highest: float
    exact: bool
    not_finite: int = 0

    @property
    def tissue(self) -> int:
        """Voxels that are neither padding nor blank."""
        return int(self.counts.sum())

    def percentile(self, percent: float) -> float:
        """As ``numpy.percentile`` of the tissue's voxels (linear interpolation)."""
        rank = percent / 100 * (self.tissue - 1)
        ends = np.cumsum(self.counts)
        below = self.values[np.searchsorted(ends, floor(rank), side="right")]
        above = self.values[np.searchsorted(ends, min(floor(rank) + 1, self.tissue - 1), side="right")]
        return float(below) + (rank - floor(rank)) * (float(above) - float(below))


def tissue_mask(block: Voxels, tile: int = TILE, tolerance: float = 0.0) -> npt.NDArray[np.bool_]:
    """Which voxels lie in in-plane tiles that are not constant (constant ones are padding or blank sections).

    Args:
        block: axes z, y, x; tiles are counted from its corner and may be smaller at the far ends.
        tile: rows and columns of a tile.
        tolerance: a tile is constant where its values differ by no more.
    """
    depth, rows, columns = block.shape
    down, across = -(-rows // tile), -(-columns // tile)
    filled = np.pad(block, ((0, 0), (0, down * tile - rows), (0, across * tile - columns)), mode="edge")
    tiles = filled.reshape(depth, down, tile, across, tile)
    highest, lowest = tiles.max(axis=(2, 4)), tiles.min(axis=(2, 4))
    varied: npt.NDArray[np.bool_]
    if block.dtype.kind == "i":  # a range that wraps round in its own type fits the unsigned one
        unsigned = np.dtype(f"u{block.dtype.itemsize}")
        varied = highest.astype(unsigned) - lowest.astype(unsigned) > tolerance
    else:
        varied = highest - lowest > tolerance
    return varied.repeat(tile, axis=1).repeat(tile, axis=2)[:, :rows, :columns]


def measure_normalisation(
    volume: Volume,
    *,
    percentiles: Sequence[float] = (1.0, 99.0),
    invert: bool = False,
    within: Sequence[Box] | None = None,
    inside: Inside | None = None,
    seed: int = 0,
    max_voxels: int = MAX_VOXELS,
) -> Normalisation:
    """Find the percentiles of a volume's tissue.

    Args:
        volume: any grey volume.
        percentiles: the two percentages that become 0 and 1.
        invert: exchange dark and bright.
        within: regions to look at, in voxels of ``volume``; by default all of it.
        inside: which voxels of a box of ``volume`` count, bool; by default all of them.
        seed: chooses the pieces where not all is read.
        max_voxels: up to so many voxels every one is counted; above, random pieces of about that size, and more where
            they hold too little tissue.

    Raises:
        SynbbError: no tissue was met, its grey values are all one, or the percentiles are no pair 0 <= a < b <= 100.
    """
    first, last = _check_percentiles(percentiles)
    sample = sample_greys(volume, within=within, inside=inside, seed=seed, max_voxels=max_voxels, looked=LOOKED)
    if sample.tissue == 0:
        raise SynbbError(
            f"{volume.path}: no tissue among {sample.seen} voxels looked at: every {TILE} x {TILE} tile is constant"
            + ("; check" if inside is None else " or outside of the mask; check the mask,")
            + " the file, the dataset and the region"
        )
    low, high = sample.percentile(first), sample.percentile(last)
    if not low < high:
        raise SynbbError(
            f"{volume.path}: percentiles {first:g} and {last:g} of its tissue are both {low:g}, so there is no "
            "contrast to normalise; is this a label volume? Else choose percentiles further apart"
        )
    return Normalisation(low, high, SCHEME, (first, last), invert)


def _check_percentiles(percentiles: Sequence[float]) -> tuple[float, float]:
    values = [float(p) for p in percentiles]
    if len(values) != 2 or not 0 <= values[0] < values[1] <= 100:
        raise SynbbError(f"percentiles {values} must be two rising numbers between 0 and 100, for example 1 and 99")
    return values[0], values[1]


def sample_greys(
    volume: Volume,
    *,
    within: Sequence[Box] | None = None,
    inside: Inside | None = None,
    seed: int = 0,
    max_voxels: int = MAX_VOXELS,
    looked: int = 1,
) -> GreySample:
    """Count grey values: of every voxel in small volumes, of random pieces (seeded) in large ones.

    ``max_voxels`` are drawn at a time, until half as many were tissue, or ``looked`` times as many were seen. Dask
    graphs of one task a piece, so that memory stays at a few pieces a thread.

    Raises:
        SynbbError: a region that is empty or not inside the volume.
    """
    regions = [volume.box] if within is None else list(within)
    for region in regions:
        if region.empty or not volume.box.contains(region):
            raise SynbbError(f"{volume.path}: region {region} is empty or not inside the volume, which is {volume.box}")
    exact = sum(region.size for region in regions) <= max_voxels
    shape = _cell_shape(volume)
    grids = [BlockGrid(region, shape, region.start) for region in regions]
    many = sum(map(len, grids))
    order = np.arange(many) if exact else np.random.default_rng(seed).permutation(many)
    count = dask.delayed(_count, pure=False)
    source = dask.delayed(volume, name=False, traverse=False)
    mask = dask.delayed(inside, name=False, traverse=False)
    parts: list[GreySample] = []
    tried = 0
    for chosen in _rounds(grids, order, max_voxels):
        found = dask.compute(*[count(source, cell, mask) for cell in chosen], scheduler="threads")
        parts.extend(part for part in found if part is not None)
        seen, tissue = (sum(getattr(part, name) for part in parts) for name in ("seen", "tissue"))
        tried += len(chosen)
        if 2 * tissue >= max_voxels or seen >= looked * max_voxels or tried >= CANDIDATES:
            break
    return _together(parts, volume.dtype, exact=exact)


def _rounds(grids: Sequence[BlockGrid], order: npt.NDArray[np.int64], voxels: int) -> Iterator[list[Box]]:
    """The pieces in order, numbered through all grids, as many at a time as hold so many voxels."""
    first = np.cumsum([0, *map(len, grids)])
    chosen: list[Box] = []
    held = 0
    for number in order:
        which = int(np.searchsorted(first, number, side="right")) - 1
        chosen.append(grids[which][int(number - first[which])])
        held += chosen[-1].size
        if held >= voxels:
            yield chosen
            chosen, held = [], 0
    if chosen:
        yield chosen


def _together(parts: Sequence[GreySample], dtype: np.dtype[Any], *, exact: bool) -> GreySample:
    values = np.concatenate([np.zeros(0, dtype), *(part.values for part in parts)])
    distinct, inverse = np.unique(values, return_inverse=True)
    totals = np.zeros(len(distinct), np.int64)
    np.add.at(totals, inverse, np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)]))
    return GreySample(
        distinct,
        totals,
        seen=sum(part.seen for part in parts),
        lowest=min((part.lowest for part in parts), default=float("nan")),
        highest=max((part.highest for part in parts), default=float("nan")),
        exact=exact,
        not_finite=sum(part.not_finite for part in parts),
    )


def _cell_shape(volume: Volume) -> Triple:
    """Pieces of whole tiles, about a storage chunk, so that tiles and result do not depend on the chunks' borders."""
    z, y, x = volume.chunks
    y, x = (max(TILE, min(-(-n // TILE) * TILE, 2048)) for n in (y, x))
    return triple([max(1, min(z, CELL_VOXELS // (y * x))), y, x])


def _count(volume: Volume, cell: Box, inside: Inside | None) -> GreySample | None:
    """The grey values of one piece; None where nothing of it counts, which is then not read."""
    wanted = None if inside is None else inside(cell)
    if wanted is not None and not wanted.any():
        return None
    block = volume.read(cell)
    tissue = tissue_mask(block)
    values, counts = _tally(block[tissue if wanted is None else tissue & wanted])
    lowest, highest = float(np.fmin.reduce(block, axis=None)), float(np.fmax.reduce(block, axis=None))
    broken = int(np.count_nonzero(~np.isfinite(block))) if block.dtype.kind == "f" else 0
    return GreySample(values, counts, cell.size, lowest, highest, exact=True, not_finite=broken)


def _tally(tissue: Voxels) -> tuple[Voxels, npt.NDArray[np.int64]]:
    """Distinct finite values, ascending, and their counts."""
    if tissue.dtype.kind == "u" and tissue.dtype.itemsize <= 2:
        every = np.bincount(tissue)  # far faster than sorting
        values = np.flatnonzero(every)
        return values.astype(tissue.dtype), every[values].astype(np.int64)
    values, counts = np.unique(tissue[np.isfinite(tissue)], return_counts=True)
    return values, counts.astype(np.int64)
