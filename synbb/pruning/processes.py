"""What the processes of a distributed run add up, so that each chooses the same masks."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterable


def processes() -> int:
    """Processes of the default group; 1 where there is none."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """``values`` summed over the processes, on the CPU."""
    if processes() == 1:
        return values.cpu()
    moved = values.to("cuda" if distributed.get_backend() == "nccl" else "cpu").clone()
    distributed.all_reduce(moved)
    return moved.cpu()


def averaged(values: Tensor) -> Tensor:
    """``values`` averaged over the processes, as data-parallel training averages gradients."""
    return values if processes() == 1 else summed(values.float()) / processes()


def check_same(weights: Iterable[Tensor]) -> None:
    """Refuse weights that differ between processes, which would choose other masks each.

    Raises:
        SynbbError: they differ.
    """
    if processes() == 1:
        return
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    number = int.from_bytes(digest.digest()[:3], "big")  # its square and sums of those fit 64 bits
    total, squares = summed(torch.tensor([number, number**2])).tolist()
    if squares * processes() != total**2:  # by Cauchy and Schwarz equal where all numbers are
        raise SynbbError(
            "weights differ between the processes, and masks are made from them at once: wrap the model in "
            "DistributedDataParallel before attach(), which gives all processes the same"
        )
