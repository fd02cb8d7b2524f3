"""What is done with one block: reading it, turning logits into probabilities, writing them.

Every way of predicting a volume (one process, workers of a cluster, probabilities that are scored at once) does this.
Beside a network on a GPU the arithmetic is done there (``card.py``), on one byte a voxel either way where the volume
has such: cores that read, compress and write have no time for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from synbb.errors import RunEnded, SynbbError
from synbb.inference.blending import blended_logits
from synbb.inference.blocks import Block, BlockPlan
from synbb.inference.card import fetched, greys, probabilities
from synbb.inference.ledger_lines import KEPT, Mark
from synbb.inference.no_data import Tissue, Where, absent, at_source, blank, may_be_blank, whole_tiles
from synbb.volumes.box import Box, triple
from synbb.volumes.resample import WorkingView, upsample_to_source
from synbb.volumes.stores import NoAnswer

if TYPE_CHECKING:
    from synbb.inference.network import Network
    from synbb.volumes.statistics import Normalisation
    from synbb.volumes.taps import Floats
    from synbb.volumes.writing import WritableVolume

Voxels = npt.NDArray[Any]

SLAB = 1 << 20
"""Voxels that are made of logits at once."""

ONE_GREY = 1e-4
"""Grey values that differ by less than this share of the contrast are one."""


class BlockInput(NamedTuple):
    """What was read for a block.

    Attributes:
        array: read box, z y x: normalised and padded, float32; or, for a GPU, the voxels that it is made of as stored,
            uint8. None where no voxel of the block has data.
        no_data: which voxels of the write box have none, bool; None where all have.
    """

    array: torch.Tensor | None
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

    @property
    def empty_chunks(self) -> bool:
        """Whether chunks of the output that are 0 everywhere are stored."""
        return not self.floor

    def read(self, block: Block, *, for_card: bool = False) -> BlockInput:
        """The read box of ``block``, padded at the volume's far end by its edge values.

        Args:
            block: of the plan.
            for_card: put it where a GPU fetches it from by itself, and leave averaging and normalising bytes to it.

        Raises:
            SynbbError: a chunk of the input cannot be read, or is absent and must not be; the message names the block.
            RunEnded: the input's store does not answer any more.
        """
        try:
            return self._read(block, for_card=for_card)
        except SynbbError as error:
            told = (
                f"block {block.index} of {len(self.plan)} (voxels {block.write} of the input) cannot be computed: "
                f"{error}"
            )
            if isinstance(error, NoAnswer):
                raise RunEnded(f"{told}. Finished blocks are kept") from error
            raise SynbbError(told) from error

    def _check_stored(self, box: Box) -> None:
        """Refuse absent chunks in all that the network sees, whatever it costs to ask for each."""
        chunks = self.view.volume.absent(self.view.level_box(box))
        if chunks:
            raise SynbbError(
                f"{self.view.volume.path}: {len(chunks)} chunks are absent, the first at voxels {chunks[0]}; restore "
                "them, or pass --missing skip to leave their voxels out"
            )

    def _read(self, block: Block, *, for_card: bool) -> BlockInput:
        outside = None if self.tissue is None else ~self.tissue.inside(block.write)
        if outside is not None and outside.all():
            return BlockInput(None, outside)
        there = block.read.intersect(self.view.box)
        assert there is not None, "a read box begins inside the volume"
        if self.missing == "error":
            self._check_stored(there)
        lost = absent(self.view, block.core)
        wide = there.hull(whole_tiles(block.core, self.view.box))
        stored = self.view.stored(wide)
        tolerance = ONE_GREY * (self.normalisation.high - self.normalisation.low)
        factor = [round(each) for each in self.view.factor]
        averaged_there = for_card and stored.dtype == np.uint8 and tuple(factor) == self.view.factor and min(factor) > 0
        values = None
        if not averaged_there or may_be_blank(stored, wide, block.core, factor, tolerance):
            values = self.view.resample(stored, wide)
            lost |= blank(values, block.core, wide, tolerance)
        empty = at_source(lost, block.core, block.write, self.plan.scale)
        if outside is not None:
            empty |= outside
        if empty.all():
            return BlockInput(None, empty)
        if averaged_there:
            level = self.view.level_box
            array = stored[level(there).relative_to(level(wide).start).slices]
        else:
            assert values is not None
            array = pad_to(self.normalisation.apply(values[there.relative_to(wide.start).slices]), block.read.shape)
        found = torch.from_numpy(np.ascontiguousarray(array))
        return BlockInput(found.pin_memory() if for_card else found, empty if empty.any() else None)

    def logits(
        self, network: Network, batch: Sequence[Block], inputs: Sequence[BlockInput | None]
    ) -> list[torch.Tensor]:
        """Logits of the read boxes of a batch, on the network's device; zeros where there is no array.

        The place of a block that is not to be computed (None: an earlier call finished it; or it has no data) is held
        by another one of the batch, so that its shape, and with it every bit of the others, stays.
        """
        arrays = [
            None if each is None or each.array is None else self._sent(each.array, block, network)
            for block, each in zip(batch, inputs, strict=True)
        ]
        held = next((array for array in arrays if array is not None), None)
        if held is None:
            return [torch.zeros(block.read.shape, device=network.device) for block in batch]
        if self.plan.windows is None:
            return network.logits([held if array is None else array for array in arrays])
        return [
            torch.zeros(block.read.shape, device=network.device)
            if array is None
            else blended_logits(network, array, self.plan.windows_of(block))
            for block, array in zip(batch, arrays, strict=True)
        ]

    def _sent(self, array: torch.Tensor, block: Block, network: Network) -> torch.Tensor:
        """What was read for a block as the network sees it, where the network is."""
        sent = array.to(network.device, non_blocking=True)
        if array.dtype != torch.uint8:
            return sent
        there = block.read.intersect(self.view.box)
        assert there is not None, "a read box begins inside the volume"
        return greys(sent, self.view, there, triple(block.read.shape), self.normalisation)

    def voxels(
        self, logits: torch.Tensor, block: Block, no_data: Where | None, dtype: np.dtype[Any]
    ) -> Callable[[], Voxels]:
        """What to call, in any thread, for the probabilities of a block at the input's voxels (0: there is no data).

        The call does the arithmetic; on a GPU that is queued at once, and the call waits for it.

        Args:
            logits: of the read box.
            block: of the plan.
            no_data: which voxels of the write box have none; None where all have.
            dtype: float32, or uint8 for round(255 p).

        The call raises RunEnded where a logit is not finite.
        """
        needed = core_logits(logits, block)
        if needed.device.type != "cuda":
            return partial(self._filled, needed.cpu().numpy(), block, no_data, dtype)
        found = probabilities(needed, block, self.plan, no_data=no_data, floor=self.floor, dtype=dtype)
        wait = fetched([found, torch.isfinite(needed).all()])

        def finished() -> Voxels:
            values, finite = wait()
            if not finite:
                raise not_finite(_name(block))
            return values

        return finished

    def write(self, output: WritableVolume, block: Block, values: Voxels, no_data: Where | None = None) -> Mark:
        """Put the probabilities of a block into the output, which has their type.

        Raises:
            RunEnded: the disk is full, or the output was removed.
        """
        there = block.write.relative_to(self.plan.region.start)
        output.write(there, values, remedy=KEPT)
        output.check_there()  # after the block is written and before it is marked
        counts = () if no_data is None else tuple(int(n) for n in no_data.sum(axis=(1, 2)))
        return Mark.of(block.index, there, values, counts)

    def _filled(self, needed: Floats, block: Block, no_data: Where | None, dtype: np.dtype[Any]) -> Voxels:
        """The probabilities of a block's write box, as float32 or quantised to uint8, from the logits of its core.

        A few sections at a time, as many as stay in a processor's cache: half of the time, and little memory.
        """
        if not np.isfinite(needed).all():
            raise not_finite(_name(block))
        out = np.empty(block.write.shape, dtype)
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


def core_logits(logits: torch.Tensor, block: Block) -> torch.Tensor:
    """Of the logits of a read box, those of the working voxels that the block is made from."""
    return logits[block.core.relative_to(block.read.start).slices]


def quantise(probabilities: Floats) -> npt.NDArray[np.uint8]:
    """round(255 p) as uint8, halves to even."""
    whole: npt.NDArray[np.uint8] = np.rint(probabilities * np.float32(255)).astype(np.uint8)
    return whole


def pad_to(array: Voxels, shape: Sequence[int]) -> Voxels:
    """``array`` padded at the far end up to ``shape`` by its edge values."""
    extra = [(0, want - have) for want, have in zip(shape, array.shape, strict=True)]
    return np.pad(array, extra, mode="edge") if any(after for _, after in extra) else array


def not_finite(where: str) -> RunEnded:
    """The error for logits that are not finite; ``where`` begins its message."""
    return RunEnded(
        f"{where}: the network gives values that are not finite; its weights are broken, or the precision is too low "
        "(try 32)"
    )


def _name(block: Block) -> str:
    return f"block {block.index} (voxels {block.write} of the input)"


def _sigmoid(logits: Floats) -> Floats:
    # By way of tanh: exp(-x) would overflow for very negative logits.
    half: Floats = np.tanh(np.float32(0.5) * logits)
    half += np.float32(1)
    half *= np.float32(0.5)
    return half
