"""What is done with one block: reading it, turning logits into probabilities, writing them.

Every way of predicting a volume (one process, workers of a cluster, probabilities that are scored at once) does this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from synbb.errors import RunEnded, SynbbError
from synbb.inference.blending import blended_logits
from synbb.inference.blocks import Block, BlockPlan
from synbb.inference.ledger import KEPT, Mark
from synbb.inference.no_data import Tissue, Where, absent, at_source, blank, whole_tiles
from synbb.volumes.box import Box
from synbb.volumes.resample import WorkingView, upsample_to_source
from synbb.volumes.stores import NoAnswer

if TYPE_CHECKING:
    from synbb.inference.network import Floats, Network
    from synbb.volumes.statistics import Normalisation
    from synbb.volumes.writing import WritableVolume

Voxels = npt.NDArray[Any]

SLAB = 1 << 20
"""Voxels that are made of logits at once."""

ONE_GREY = 1e-4
"""Grey values that differ by less than this share of the contrast are one."""


class BlockInput(NamedTuple):
    """What was read for a block.

    Attributes:
        array: normalised read box, float32, z y x; None where no voxel of the block has data.
        no_data: which voxels of the write box have none, bool; None where all have.
    """

    array: Floats | None
    no_data: Where | None


@dataclass(frozen=True)
class BlockWork:
    """The blocks of a plan over a volume; can be pickled.

    Attributes:
        view: the volume at the network's voxel size.
        plan: its blocks.
        normalisation: of its grey values.
        tissue: what is outside of it has no data.
        missing: what an absent chunk of the input is: an ``error``, or no data (``skip``).
        floor: smaller probabilities become 0.
    """

    view: WorkingView
    plan: BlockPlan
    normalisation: Normalisation
    tissue: Tissue | None = None
    missing: str = "skip"
    floor: float = 0.0

    def read(self, block: Block) -> BlockInput:
        """The read box of ``block``, padded at the volume's far end by its edge values.

        Raises:
            SynbbError: a chunk of the input cannot be read, or is absent and must not be; the message names the block.
            RunEnded: the input's store does not answer any more.
        """
        try:
            return self._read(block)
        except SynbbError as error:
            told = (
                f"block {block.index} of {len(self.plan)} (voxels {block.write} of the input) cannot be computed: "
                f"{error}"
            )
            if isinstance(error, NoAnswer):
                raise RunEnded(f"{told}. Finished blocks are kept") from error
            raise SynbbError(told) from error

    def _read(self, block: Block) -> BlockInput:
        outside = None if self.tissue is None else ~self.tissue.inside(block.write)
        if outside is not None and outside.all():
            return BlockInput(None, outside)
        there = block.read.intersect(self.view.box)
        assert there is not None, "a read box begins inside the volume"
        lost = absent(self.view, block.core, at_any_cost=self.missing == "error")
        if self.missing == "error" and lost.any():
            chunks = self.view.volume.absent(self.view.level_box(block.core))
            raise SynbbError(
                f"{self.view.volume.path}: {len(chunks)} chunks are absent, the first at voxels {chunks[0]}; restore "
                "them, or pass --missing skip to leave their voxels out"
            )
        wide = there.hull(whole_tiles(block.core, self.view.box))
        values = self.view.read(wide)
        contrast = self.normalisation.high - self.normalisation.low
        empty = at_source(
            blank(values, block.core, wide, ONE_GREY * contrast) | lost, block.core, block.write, self.plan.scale
        )
        if outside is not None:
            empty |= outside
        if empty.all():
            return BlockInput(None, empty)
        array = self.normalisation.apply(values[there.relative_to(wide.start).slices])
        return BlockInput(pad_to(array, block.read.shape), empty if empty.any() else None)

    def logits(self, network: Network, batch: Sequence[Block], inputs: Sequence[BlockInput | None]) -> list[Floats]:
        """Logits of the read boxes of a batch; zeros where there is no array.

        The place of a block that is not to be computed (None: an earlier call finished it; or it has no data) is held
        by another one of the batch, so that its shape, and with it every bit of the others, stays.
        """
        arrays = [None if each is None else each.array for each in inputs]
        held = next((array for array in arrays if array is not None), None)
        if held is None:
            return [np.zeros(block.read.shape, np.float32) for block in batch]
        if self.plan.windows is None:
            return list(network.logits([held if array is None else array for array in arrays]))
        return [
            np.zeros(block.read.shape, np.float32)
            if array is None
            else blended_logits(network, array, self.plan.windows_of(block))
            for block, array in zip(batch, arrays, strict=True)
        ]

    def probabilities(self, logits: Floats, block: Block, no_data: Where | None = None) -> Floats:
        """Probabilities at the input's voxels of a block, from the logits of its read box; 0 where there is no data.

        Raises:
            RunEnded: a logit is not finite.
        """
        return self._filled(np.empty(block.write.shape, np.float32), logits, block, no_data)

    def write(self, output: WritableVolume, block: Block, logits: Floats, no_data: Where | None = None) -> Mark:
        """Put the probabilities of a block into the output, in its type.

        Raises:
            RunEnded: the disk is full, the output was removed, or a logit is not finite.
        """
        values = self._filled(np.empty(block.write.shape, output.dtype), logits, block, no_data)
        there = block.write.relative_to(self.plan.region.start)
        output.write(there, values, remedy=KEPT)
        output.check_there()  # after the block is written and before it is marked
        counts = () if no_data is None else tuple(int(n) for n in no_data.sum(axis=(1, 2)))
        return Mark.of(block.index, there, values, counts)

    def _filled(self, out: Voxels, logits: Floats, block: Block, no_data: Where | None) -> Voxels:
        """``out``, shape of the block's write box, filled with its probabilities, as float32 or quantised to uint8.

        A few sections at a time, as many as stay in a processor's cache: half of the time, and little memory.
        """
        needed = core_logits(logits, block)
        check_finite(needed, f"block {block.index} (voxels {block.write} of the input)")
        for write, core in self._slabs(block):
            found = _sigmoid(needed[core.relative_to(block.core.start).slices])
            if self.plan.scale != (1.0, 1.0, 1.0):
                found = upsample_to_source(found, core, write, self.plan.scale, self.plan.working_shape)
            if self.floor:
                found[found < self.floor] = 0
            there = write.relative_to(block.write.start).slices
            if no_data is not None:
                found[no_data[there]] = 0
            out[there] = quantise(found) if out.dtype == np.uint8 else found
        return out

    def _slabs(self, block: Block) -> Iterator[tuple[Box, Box]]:
        """Parts of the write box, and the working voxels that each is made from."""
        if self.plan.scale[0] != 1:
            yield block.write, block.core
            return
        depth = max(1, SLAB // math.prod(block.write.shape[1:]))
        for first in range(0, block.write.shape[0], depth):
            yield _sections(block.write, first, depth), _sections(block.core, first, depth)


def _sections(box: Box, first: int, depth: int) -> Box:
    """``depth`` sections of ``box`` from its ``first`` on, or what there is of them."""
    start = box.start[0] + first
    return Box((start, *box.start[1:]), (min(start + depth, box.stop[0]), *box.stop[1:]))


def core_logits(logits: Floats, block: Block) -> Floats:
    """Of the logits of a read box, those of the working voxels that the block is made from."""
    return logits[block.core.relative_to(block.read.start).slices]


def quantise(probabilities: Floats) -> npt.NDArray[np.uint8]:
    """round(255 p) as uint8, halves to even."""
    whole: npt.NDArray[np.uint8] = np.rint(probabilities * np.float32(255)).astype(np.uint8)
    return whole


def pad_to(array: Floats, shape: Sequence[int]) -> Floats:
    """``array`` padded at the far end up to ``shape`` by its edge values."""
    extra = [(0, want - have) for want, have in zip(shape, array.shape, strict=True)]
    return np.pad(array, extra, mode="edge") if any(after for _, after in extra) else array


def check_finite(logits: Floats, where: str) -> None:
    """Refuse logits that are not finite.

    Raises:
        RunEnded: one is not; ``where`` begins the message.
    """
    if not np.isfinite(logits).all():
        raise RunEnded(
            f"{where}: the network gives values that are not finite; its weights are broken, or the precision is too "
            "low (try 32)"
        )


def _sigmoid(logits: Floats) -> Floats:
    # By way of tanh: exp(-x) would overflow for very negative logits.
    half: Floats = np.tanh(np.float32(0.5) * logits)
    half += np.float32(1)
    half *= np.float32(0.5)
    return half
