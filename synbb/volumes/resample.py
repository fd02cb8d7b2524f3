"""A volume seen at a working voxel size, block by block, and the way back to the input's voxels.

Input voxel ``s`` covers [s, s + 1) and working voxel ``w`` covers [w f, (w + 1) f), where f is the scale:
both grids share the corner of the volume. A pyramid level that begins elsewhere (precomputed can), or ends before the
volume does (where a last odd voxel was dropped), is passed over.
"""

from __future__ import annotations

from copy import copy
from math import ceil, floor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Nanometres, Triple, triple
from synbb.volumes.quick import quickly
from synbb.volumes.storage import check_voxel_size
from synbb.volumes.taps import Floats, Taps, linear_taps, resample_taps
from synbb.volumes.volume import Volume, level_factor, share_corner

if TYPE_CHECKING:
    from collections.abc import Sequence

EDGE = 1e-6  # voxels; guards ceil and floor against rounding
APART = 0.25
"""Level-0 voxels by which the corner of a level may be off: translations are written with few digits."""
ALIKE = 0.1
"""Relative difference of voxel sizes that may be the same ones, in another order."""
SLAB = 1 << 20
"""Stored voxels that are resampled at once, where sections are independent."""


class WorkingView:
    """A volume at a working voxel size.

    The pyramid level whose voxels match within ``tolerance`` is used as it is; else the coarsest level that is
    not coarser than asked is resampled inside each block: area mean to larger voxels, linear interpolation to
    smaller ones, in the plane only unless ``resample_z``.

    Attributes:
        source: the volume as given (level 0).
        volume: the level that is read.
        factor: voxels of that level in a working voxel, per axis.
        scale: voxels of level 0 in a working voxel, per axis.
        shape: working voxels along z, y, x.
        voxel_size: the effective working voxel size, nm. It differs from the one asked for by at most ``tolerance``.
        offset: centre of the first working voxel, nm.
        description: one line to print.

    Raises:
        SynbbError: sections are of another thickness than asked, and ``resample_z`` is false; or the ``tolerance`` is
            not at least 0 and below 0.5.
    """

    def __init__(
        self, volume: Volume, voxel_size: Sequence[float], *, tolerance: float = 0.02, resample_z: bool = False
    ) -> None:
        wanted = check_voxel_size(voxel_size, "working voxel size")
        if not 0 <= tolerance < 0.5:
            raise SynbbError(f"--tolerance {tolerance:g} must be a share, at least 0 and below 0.5: 0.02 for 2 %")
        self.source = volume
        self.tolerance = tolerance
        self.volume = _choose_level(volume, wanted, tolerance, resample_z=resample_z)
        self.factor = _snap_all(wanted, self.volume.voxel_size, tolerance, fixed_z=not resample_z)
        to_level = level_factor(volume, self.volume, tolerance)
        self.scale = _three(a * b for a, b in zip(self.factor, to_level, strict=True))
        self.voxel_size = _three(v * f for v, f in zip(volume.voxel_size, self.scale, strict=True))
        self.offset = _three(
            o + (f - 1) / 2 * v for o, f, v in zip(volume.offset, self.scale, volume.voxel_size, strict=True)
        )
        self.shape: Triple = triple([ceil(n / f - EDGE) for n, f in zip(self.volume.shape, self.factor, strict=True)])
        self._to_level = to_level

    def quickly(self) -> WorkingView:
        """The same view, read through tensorstore where that is possible (:func:`synbb.volumes.quick.quickly`)."""
        found = copy(self)
        found.source = quickly(self.source)
        found.volume = found.source.levels[self.source.levels.index(self.volume)]
        return found

    @property
    def box(self) -> Box:
        """All working voxels."""
        return Box.of_shape(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Values are always float32."""
        return np.dtype(np.float32)

    @property
    def description(self) -> str:
        """One line: what is read, and how it becomes working voxels."""
        level = self.source.levels.index(self.volume)
        ways = {f: "as stored" if f == 1 else f"area mean over {f:g}" if f > 1 else "interpolated" for f in self.factor}
        z, y, x = (ways[f] for f in self.factor)
        how = y if y == x else f"y {y}, x {x}"
        if self.factor[0] != 1:
            how += f", z {z}"
        return (
            f"{self.source.path}: voxels of {_text(self.source.voxel_size)} nm, worked at {_text(self.voxel_size)} nm "
            f"(level {level}, {how}); {' x '.join(map(str, self.shape))} working voxels"
        )

    def read(self, box: Box) -> Floats:
        """The working voxels of ``box``, a region inside :attr:`box`, as float32.

        Raises:
            SynbbError: the box is not inside the view, or a chunk is truncated or unreadable.
        """
        return self.resample(self.stored(box), box)

    def stored(self, box: Box) -> npt.NDArray[Any]:
        """What :meth:`read` is made of: the voxels of :meth:`level_box` as they are stored.

        Raises:
            SynbbError: as :meth:`read`.
        """
        if not self.box.contains(box):
            raise SynbbError(f"{self.source.path}: region {box} (working voxels) is not inside the view, {self.box}")
        if box.empty:
            return np.empty(box.shape, np.float32)
        stored = self.volume.read(self.level_box(box))
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            broken = int(np.count_nonzero(~np.isfinite(stored)))
            raise SynbbError(
                f"{self.source.path}: {broken:,} of {stored.size:,} voxels in {self.level_box(box)} are no numbers "
                "(NaN or infinite); write 0 in their place first"
            )
        return stored

    def resample(self, stored: npt.NDArray[Any], box: Box) -> Floats:
        """The working voxels of ``box`` from the voxels of :meth:`stored`."""
        if box.empty or self.factor == (1.0, 1.0, 1.0):
            return np.ascontiguousarray(stored, np.float32)
        taps = self.taps(box)
        if self.factor[0] != 1:
            return self._apply(taps, stored)
        # A few sections at a time, as many as stay in a processor's cache.
        found = np.empty(box.shape, np.float32)
        depth = max(1, SLAB // (stored.shape[1] * stored.shape[2]))
        for first in range(0, len(stored), depth):
            found[first : first + depth] = self._apply(taps, stored[first : first + depth])
        return found

    def _apply(self, taps: Sequence[Taps], stored: npt.NDArray[Any]) -> Floats:
        if stored.dtype.itemsize > 2:  # else the first product is of float32 by itself
            stored = stored.astype(np.float32, copy=False)
        for axis, along in enumerate(taps):
            if self.factor[axis] != 1:
                stored = along.apply(stored, axis, along.first)
        return np.ascontiguousarray(stored, np.float32)

    def level_box(self, box: Box) -> Box:
        """The voxels of :attr:`volume` (the level that is read) that :meth:`read` of this working box depends on."""
        return _inputs(self.taps(box))

    def source_box(self, box: Box) -> Box:
        """The level-0 voxels that :meth:`read` of this working box depends on, clipped to the volume."""
        if box.empty:
            return Box(self._scaled(box.start, floor), self._scaled(box.start, floor))
        inputs = _inputs(self.taps(box))
        start = [floor(a * f + EDGE) for a, f in zip(inputs.start, self._to_level, strict=True)]
        stop = [ceil(b * f - EDGE) for b, f in zip(inputs.stop, self._to_level, strict=True)]
        shape = self.source.shape
        return Box(
            triple([min(a, n) for a, n in zip(start, shape, strict=True)]),
            triple([min(b, n) for b, n in zip(stop, shape, strict=True)]),
        )

    def to_working(self, box: Box) -> Box:
        """The smallest working box that covers a box of level-0 voxels, clipped to the view."""
        start = [floor(a / f + EDGE) for a, f in zip(box.start, self.scale, strict=True)]
        stop = [ceil(b / f - EDGE) for b, f in zip(box.stop, self.scale, strict=True)]
        clipped_start = [min(max(a, 0), n) for a, n in zip(start, self.shape, strict=True)]
        clipped_stop = [min(max(b, a), n) for a, b, n in zip(clipped_start, stop, self.shape, strict=True)]
        return Box(triple(clipped_start), triple(clipped_stop))

    def taps(self, box: Box) -> list[Taps]:
        """Along each axis, the voxels of :attr:`volume` and weights of which the working voxels of ``box`` are made."""
        return [
            resample_taps(a, b, f, n)
            for a, b, f, n in zip(box.start, box.stop, self.factor, self.volume.shape, strict=True)
        ]

    def _scaled(self, corner: Triple, rounding: Any) -> Triple:
        return triple([rounding(c * f) for c, f in zip(corner, self.scale, strict=True)])


def upsampling_support(target: Box, scale: Sequence[float], working_shape: Sequence[int]) -> Box:
    """The working voxels that :func:`upsample_to_source` needs for ``target`` (level-0 voxels)."""
    return _inputs(upsampling_taps(target, scale, working_shape))


def upsample_to_source(
    block: npt.NDArray[Any],
    block_box: Box,
    target: Box,
    scale: Sequence[float],
    working_shape: Sequence[int],
) -> Floats:
    """Bring a block of the working grid (probabilities, say) back to voxels of level 0.

    Linear interpolation at the centres of level-0 voxels, working position (s + 0.5) / f - 0.5, held constant
    beyond the outermost working centres of the volume. Blocks computed apart fit together exactly.

    Args:
        block: values, axes z, y, x.
        block_box: where ``block`` lies, in working voxels.
        target: level-0 voxels wanted; not empty.
        scale: level-0 voxels in a working voxel (:attr:`WorkingView.scale`).
        working_shape: shape of the whole working grid (:attr:`WorkingView.shape`).

    Returns:
        float32 array of ``target.shape``.

    Raises:
        ValueError: the block does not hold what is needed; see :func:`upsampling_support`.
    """
    if tuple(block.shape) != block_box.shape:
        raise ValueError(f"a block of shape {block.shape} does not fill {block_box}")
    if target.empty:
        return np.empty(target.shape, np.float32)
    taps = upsampling_taps(target, scale, working_shape)
    if not block_box.contains(_inputs(taps)):
        raise ValueError(f"target {target} needs working voxels {_inputs(taps)}, the block holds {block_box}")
    out = block.astype(np.float32, copy=False)
    for axis, along in enumerate(taps):
        out = along.apply(out, axis, block_box.start[axis])
    return np.ascontiguousarray(out)


def upsampling_taps(target: Box, scale: Sequence[float], working_shape: Sequence[int]) -> list[Taps]:
    """Along each axis, the working voxels and weights of :func:`upsample_to_source` for ``target`` (level-0 voxels)."""
    taps = []
    for a, b, f, n in zip(target.start, target.stop, scale, working_shape, strict=True):
        positions = (np.arange(a, b, dtype=np.float64) + 0.5) / float(f) - 0.5
        along = linear_taps(positions, int(n))
        if f == 1:  # no second tap: the voxel itself
            along = Taps(along.index[:1], along.weight[:1])
        taps.append(along)
    return taps


def _inputs(taps: Sequence[Taps]) -> Box:
    return Box(triple([t.first for t in taps]), triple([t.stop for t in taps]))


def _choose_level(volume: Volume, wanted: Nanometres, tolerance: float, *, resample_z: bool) -> Volume:
    best = None
    for level in volume.levels:
        ratios = [w / v for w, v in zip(wanted, level.voxel_size, strict=True)]
        same_z = abs(ratios[0] - 1) <= tolerance
        if not same_z and not resample_z:
            continue
        # The finest level serves everything; a coarser one only what is at least as coarse.
        if level is volume or (all(r >= 1 - tolerance for r in ratios) and _covers(volume, level, tolerance)):
            best = level
    if best is None:
        stored = "; ".join(f"{_text(level.voxel_size)} nm" for level in volume.levels)
        raise SynbbError(
            f"{volume.path}: sections of {wanted[0]:g} nm are asked for (working voxel size {_text(wanted)} nm), "
            f"stored are {stored}, which differs by more than {tolerance:.0%}; {_remedy(volume.voxel_size, wanted)}"
        )
    return best


def _covers(volume: Volume, level: Volume, tolerance: float) -> bool:
    """Whether a coarser level begins where the finest does, and reaches its end."""
    ends = zip(level.shape, level_factor(volume, level, tolerance), volume.shape, strict=True)
    return share_corner(volume, level, APART) and all(ceil(n * f) >= whole for n, f, whole in ends)


def _remedy(stored: Nanometres, wanted: Nanometres) -> str:
    """What may be meant by a voxel size whose sections are not the wanted ones."""
    backwards = stored[2] / wanted[0]
    if abs(backwards - 1) < ALIKE and stored[0] < stored[2]:
        return f"voxel sizes are z, y, x: is it {_text((stored[2], stored[1], stored[0]))}?"
    if max(stored) < 1 <= min(wanted):
        micrometres = (1000 * stored[0], 1000 * stored[1], 1000 * stored[2])
        return f"voxel sizes are in nm, not in micrometres: is it {_text(micrometres)}?"
    return "choose a matching voxel size, or allow resampling across sections (--resample-z)"


def _snap_all(wanted: Nanometres, stored: Nanometres, tolerance: float, *, fixed_z: bool) -> Nanometres:
    factors = [_snap(w / v, tolerance) for w, v in zip(wanted, stored, strict=True)]
    if fixed_z:
        factors[0] = 1.0
    return _three(factors)


def _snap(factor: float, tolerance: float) -> float:
    """``factor``, or the whole number (or one over a whole number) that it equals within ``tolerance``."""
    if factor < 1 - tolerance:
        return 1 / _snap(1 / factor, tolerance)
    whole = max(1, round(factor))
    return float(whole) if abs(factor - whole) <= tolerance * whole else factor


def _three(values: Any) -> Nanometres:
    z, y, x = (float(v) for v in values)
    return z, y, x


def _text(size: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in size)
