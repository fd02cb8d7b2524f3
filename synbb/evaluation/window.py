"""The voxels that several volumes share, and the blocks in which they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.volume import Volume, placement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BLOCK_VOXELS = 2**22


@dataclass(frozen=True)
class Window:
    """A box of the truth's voxels, and where voxel (0, 0, 0) of the truth lies in each other volume.

    Attributes:
        truth: the box, in voxels of the truth.
        origins: name of a volume → the truth's first voxel in that volume's voxels.
        note: one sentence that says which voxels these are and what limited them.
    """

    truth: Box
    origins: Mapping[str, Triple]
    note: str

    def of(self, name: str, box: Box | None = None) -> Box:
        """A box of the truth (this window when None) in voxels of the volume ``name``."""
        return (self.truth if box is None else box).translate(self.origins[name])


def common_window(truth: Volume, others: Mapping[str, Volume], region: Box | None = None) -> Window:
    """What ``region`` of the truth and all ``others`` cover in common.

    Raises:
        SynbbError: the region leaves the truth or is empty, voxel sizes or grids differ, or nothing is left.
    """
    asked = truth.box if region is None else region
    if asked.empty or not truth.box.contains(asked):
        raise SynbbError(f"region {asked.named} does not lie inside {truth.path}, which is {truth.box.named}")
    box, origins, limits = asked, {}, []
    for name, volume in others.items():
        try:
            placed = placement(truth, volume)
        except SynbbError as error:
            raise SynbbError(f"the truth (here: labels) cannot be laid over the {name} (here: raw): {error}") from error
        origins[name] = placed.start
        within = volume.box.translate([-s for s in placed.start])
        if within.contains(asked):
            continue
        limits.append(name)
        common = box.intersect(within)
        if common is None:
            raise SynbbError(
                f"nothing left to score: voxels {box} of the truth {truth.path} and the {name} {volume.path}, which "
                f"cover {within} of it, have no voxel in common; give a --region that both cover"
            )
        box = common
    note = f"Scored are voxels {box} of the truth ({box.size:,} voxels)"
    if limits:
        note += f": the part of {asked} that {' and '.join(limits)} cover"
    return Window(box, origins, note + ".")


def reading_block(volume: Volume, target: int = BLOCK_VOXELS) -> Triple:
    """A block of about ``target`` voxels made of whole storage chunks of ``volume``, or of parts of a larger chunk."""
    return grow_block([min(c, n) for c, n in zip(volume.chunks, volume.shape, strict=True)], volume.shape, target)


def grow_block(unit: Sequence[int], shape: Sequence[int], target: int = BLOCK_VOXELS, *, split: bool = True) -> Triple:
    """``unit`` doubled along its axes up to about ``target`` voxels, but not beyond ``shape``.

    Args:
        unit: smallest block, z, y, x.
        shape: extent of the volume.
        target: voxels.
        split: whether a unit of more than four times ``target`` may be cut (along z first).
    """
    block = [max(1, int(u)) for u in unit]
    while split and int(np.prod(block)) > 4 * target and max(block) > 1:
        axis = 0 if block[0] > 1 else int(np.argmax(block))
        block[axis] = -(-block[axis] // 2)
    while True:
        # The relatively smallest axis first, so that blocks stay cubic in units of chunks and sections stay whole.
        open_axes = [a for a in range(3) if block[a] < shape[a]]
        if not open_axes or int(np.prod(block)) * 2 > target:
            return triple(block)
        block[min(open_axes, key=lambda a: (block[a] / max(1, int(unit[a])), -a))] *= 2
