"""A volume as a viewer asks for it: pieces of any resolution, from stored levels where there are such."""

from __future__ import annotations

from functools import cached_property
from math import prod
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError
from synbb.evaluation.labels import foreground_and_valid
from synbb.evaluation.thresholds import check_dtype
from synbb.viewing.kinds import Kind, is_mask, kind_of
from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.pyramid import downsample, plan_levels
from synbb.volumes.volume import level_factor, share_corner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.volumes.storage import Voxels
    from synbb.volumes.volume import Volume

UNSTORED = 64
"""Voxels of a stored level that may become one on the way to the viewer, which reads them all."""
SLAB_VOXELS = 2**22
"""How many are read at once for that."""
MESH_VOXELS = 2**25
"""Surfaces are made from the whole volume at a resolution of at most so many voxels."""
MESH_UNSTORED = 8
"""Stored voxels that may become one for that: the whole volume is read once."""
_READERS = BoundedSemaphore(8)  # of all volumes together: a server has a thread a core, and each holds a slab


class ShownVolume:
    """A volume and what it is shown as.

    Attributes:
        volume: as opened.
        kind: what it is shown as.
        name: of its layer.
        mask: whether all its labels are one object.
        dtype: type of the values that are shown.
    """

    def __init__(self, volume: Volume, kind: Kind | None = None, name: str = "") -> None:
        """Take a volume.

        Args:
            volume: any; nothing is read.
            kind: overrules :func:`kind_of`.
            name: of its layer; the kind when empty.

        Raises:
            SynbbError: its values cannot be of that kind.
        """
        self.volume = volume
        self.kind = kind_of(volume) if kind is None else kind
        self.name = name or str(self.kind)
        self.mask = self.kind is Kind.OBJECTS and is_mask(volume)
        if self.kind is Kind.OBJECTS and volume.dtype.kind not in "ui":
            raise SynbbError(f"{volume.path}: objects are integer labels, not {volume.dtype}; show it as --raw")
        if self.kind is Kind.PROBABILITIES:
            check_dtype(volume.dtype, volume.path)
        self.dtype = self._dtype()

    @cached_property
    def levels(self) -> dict[Triple, Volume]:
        """Stored levels by the voxels of the finest in one of theirs.

        A viewer counts voxels of every resolution from the volume's corner, so those are left out that begin elsewhere
        (precomputed can), or whose voxels are no whole number of fine ones.
        """
        found: dict[Triple, Volume] = {(1, 1, 1): self.volume}
        for level in self.volume.coarser:
            factor = level_factor(self.volume, level)
            whole = triple([round(f) for f in factor])
            fits = all(f.is_integer() for f in factor) and level.shape == self.shape(whole)
            if fits and share_corner(self.volume, level):
                found[whole] = level
        return found

    @property
    def coarsest(self) -> int:
        """Voxels of the finest level that become one at the coarsest resolution that is offered."""
        return max(prod(factor) for factor in self.levels) * UNSTORED

    def read(self, start: Sequence[int], stop: Sequence[int], factor: Sequence[int] = (1, 1, 1)) -> Voxels:
        """A piece at the resolution of ``factor``.

        Args:
            start: z, y, x in voxels of that resolution, counted from the volume's corner.
            stop: likewise.
            factor: voxels of the finest level in one of these, powers of two.

        Returns:
            Means, or for labels the most frequent values, of shape stop - start and :attr:`dtype`.

        Raises:
            SynbbError: a chunk is truncated or unreadable, or the piece lies outside.
        """
        wanted = triple(factor)
        stored = self._stored(wanted)
        level, rest = self.levels[stored], triple([w // s for w, s in zip(wanted, stored, strict=True)])
        piece = Box(triple(start), triple(stop))
        if not Box.of_shape(self.shape(wanted)).contains(piece):
            raise SynbbError(f"{self.volume.path}: {piece.named} at 1/{wanted} is not inside the volume")
        out = np.empty(piece.shape, self.dtype)
        deep = max(1, SLAB_VOXELS // max(1, prod(piece.shape[1:]) * prod(rest)))
        for part in piece.blocks((deep, *(max(1, n) for n in piece.shape[1:])), piece.start):
            fine = Box(
                triple([a * r for a, r in zip(part.start, rest, strict=True)]),
                triple([min(b * r, n) for b, r, n in zip(part.stop, rest, level.shape, strict=True)]),
            )
            with _READERS:
                out[part.relative_to(piece.start).slices] = self._reduced(self.values(level.read(fine)), rest)
        return out

    def mesh_factor(self) -> Triple | None:
        """The finest resolution that is small enough for surfaces; None where too much had to be read for it."""
        factor = (1, 1, 1)
        for step in ((1, 1, 1), *plan_levels(self.volume.shape, self.volume.voxel_size)):
            factor = triple([f * s for f, s in zip(factor, step, strict=True)])
            if prod(self.shape(factor)) <= MESH_VOXELS:
                return factor if prod(factor) <= MESH_UNSTORED * prod(self._stored(factor)) else None
        return None

    def shape(self, factor: Sequence[int]) -> Triple:
        """Voxels along z, y, x at the resolution of ``factor``."""
        return triple([-(-n // f) for n, f in zip(self.volume.shape, factor, strict=True)])

    def values(self, block: Voxels) -> Voxels:
        """Stored values as they are shown: masks as 0 and 1, ids without CREMI's background and negative ones."""
        if self.mask:
            return (block > 0).astype(self.dtype)
        if self.kind is Kind.OBJECTS:
            return np.where(foreground_and_valid(block)[0], block, 0).astype(self.dtype)
        return block.astype(self.dtype, copy=False)

    def _stored(self, wanted: Triple) -> Triple:
        """The coarsest stored level from which a resolution is reached by halving."""
        return max((f for f in self.levels if _divides(f, wanted)), key=prod)

    def _dtype(self) -> np.dtype[Any]:
        stored = self.volume.dtype
        if self.mask:
            return np.dtype(np.uint8)
        if self.kind is Kind.OBJECTS:
            return np.dtype(f"uint{8 * stored.itemsize}")
        # The viewer's images know no other floats, and no 64 bits.
        return np.dtype(np.float32) if stored.kind == "f" or stored.itemsize == 8 else stored

    def _reduced(self, block: Voxels, rest: Triple) -> Voxels:
        while max(rest) > 1:
            step = triple([2 if r == max(rest) else 1 for r in rest])  # in the order of a pyramid
            block = downsample(block, step, labels=self.kind is Kind.OBJECTS)
            rest = triple([r // s for r, s in zip(rest, step, strict=True)])
        return block


def _divides(factor: Triple, wanted: Triple) -> bool:
    """Whether ``wanted`` is reached from ``factor`` by halving."""
    return all(w % f == 0 and (w // f).bit_count() == 1 for f, w in zip(factor, wanted, strict=True))
