"""What is done with one block: reading it, turning logits into probabilities, writing them.

Every way of predicting a volume (one process, workers of a cluster, probabilities that are scored at once) does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synbb.errors import RunEnded, SynbbError, disk_errors
from synbb.inference.blocks import Block, BlockPlan
from synbb.inference.ledger import KEPT, Mark
from synbb.volumes.resample import WorkingView, upsample_to_source

if TYPE_CHECKING:
    from synbb.inference.network import Floats
    from synbb.volumes.statistics import Normalisation
    from synbb.volumes.writing import WritableVolume

Voxels = npt.NDArray[Any]


@dataclass(frozen=True)
class BlockWork:
    """The blocks of a plan over a volume; can be pickled.

    Attributes:
        view: the volume at the network's voxel size.
        plan: its blocks.
        normalisation: of its grey values.
    """

    view: WorkingView
    plan: BlockPlan
    normalisation: Normalisation

    def read(self, block: Block) -> Floats:
        """The normalised read box of ``block`` (working voxels), padded at the volume's far end by its edge values.

        Raises:
            SynbbError: a chunk of the input cannot be read; the message names the block.
        """
        there = block.read.intersect(self.view.box)
        assert there is not None, "a read box begins inside the volume"
        try:
            values = self.view.read(there)
        except SynbbError as error:
            raise SynbbError(
                f"block {block.index} of {len(self.plan)} (voxels {block.write} of the input) cannot be computed: "
                f"{error}"
            ) from error
        return pad_to(self.normalisation.apply(values), block.read.shape)

    def probabilities(self, logits: Floats, block: Block) -> Floats:
        """Probabilities at the input's voxels of a block, from the logits of its read box.

        Raises:
            RunEnded: a logit is not finite.
        """
        needed = core_logits(logits, block)
        check_finite(needed, f"block {block.index} (voxels {block.write} of the input)")
        found = _sigmoid(needed)
        if self.plan.scale == (1.0, 1.0, 1.0):
            return found
        return upsample_to_source(found, block.core, block.write, self.plan.scale, self.plan.working_shape)

    def write(self, output: WritableVolume, block: Block, logits: Floats) -> Mark:
        """Put the probabilities of a block into the output, in its type.

        Raises:
            RunEnded: the disk is full, or a logit is not finite.
        """
        found = self.probabilities(logits, block)
        values: Voxels = quantise(found) if output.dtype == np.uint8 else found
        there = block.write.relative_to(self.plan.region.start)
        with disk_errors(output.path, KEPT):
            output.write(there, values)
        return Mark.of(block.index, there, values)


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
