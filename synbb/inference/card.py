"""What is done with a block on a GPU: grey values to what the network sees, logits to what is written.

The same arithmetic as in ``block_work.py``, in tensors; a probability may differ in the last bit of its float32, and so
one of many by one of 255 levels. Copies to and from the GPU are queued behind its work, so that the thread which feeds
it is always ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from synbb.volumes.resample import upsampling_taps

if TYPE_CHECKING:
    from synbb.inference.blocks import Block, BlockPlan
    from synbb.inference.no_data import Where
    from synbb.volumes.box import Box, Triple
    from synbb.volumes.resample import WorkingView
    from synbb.volumes.statistics import Normalisation
    from synbb.volumes.taps import Taps


def greys(
    stored: torch.Tensor, view: WorkingView, box: Box, shape: Triple, normalisation: Normalisation
) -> torch.Tensor:
    """What the network sees, where ``stored`` is: :meth:`WorkingView.resample`, :meth:`Normalisation.apply`, padding.

    Args:
        stored: grey values that the working voxels of ``box`` are made of (:meth:`WorkingView.stored`).
        view: the volume at the network's voxel size.
        box: working voxels inside the view.
        shape: to pad to at the far end, by the edge values.
        normalisation: of the volume.
    """
    found = stored.float()
    for axis, along in enumerate(view.taps(box)):
        if view.factor[axis] != 1:
            found = _resampled(found, along, axis, along.first)
    found = (found - normalisation.low).mul_(1.0 / (normalisation.high - normalisation.low)).clamp_(-1.0, 2.0)
    if normalisation.invert:
        found = found.neg_().add_(1.0)
    extra = [n for want, have in zip(shape[::-1], found.shape[::-1], strict=True) for n in (0, want - have)]
    return torch.nn.functional.pad(found[None, None], extra, mode="replicate")[0, 0] if any(extra) else found


def probabilities(
    logits: torch.Tensor, block: Block, plan: BlockPlan, *, no_data: Where | None, floor: float, dtype: np.dtype[Any]
) -> torch.Tensor:
    """Probabilities of a block at the input's voxels, float32 or quantised to uint8, where the logits are.

    Args:
        logits: of the block's core.
        block: of the plan.
        plan: its scale and working grid are used.
        no_data: which voxels of the write box have none; they become 0.
        floor: smaller probabilities become 0.
        dtype: float32, or uint8 for round(255 p), halves to even.
    """
    found = torch.sigmoid(logits)
    for axis, along in enumerate(upsampling_taps(block.write, plan.scale, plan.working_shape)):
        if plan.scale[axis] != 1:
            found = _resampled(found, along, axis, block.core.start[axis])
    if floor:
        found = found.masked_fill(found < floor, 0)
    if no_data is not None:
        found = found.masked_fill(_sent(no_data, found.device), 0)
    return found.mul(255).round().to(torch.uint8) if dtype == np.uint8 else found


def fetched(tensors: Sequence[torch.Tensor]) -> Callable[[], list[npt.NDArray[Any]]]:
    """Queue copies of CUDA tensors to the host; the call waits for them and gives the arrays."""
    with torch.cuda.device(tensors[0].device):
        copies = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

    def wait() -> list[npt.NDArray[Any]]:
        done.synchronize()
        return [copy.numpy() for copy in copies]

    return wait


def _resampled(values: torch.Tensor, taps: Taps, axis: int, first: int) -> torch.Tensor:
    """:meth:`Taps.apply` of a tensor."""
    shape = [-1 if each == axis else 1 for each in range(values.ndim)]
    total = torch.zeros((), device=values.device)
    for index, weight in zip(taps.index - first, taps.weight.astype(np.float32), strict=True):
        part = values.index_select(axis, _sent(index, values.device))
        total = total + part * _sent(weight, values.device).view(shape)
    return total


def _sent(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """``array`` on the device, without waiting for what that has still to do."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
