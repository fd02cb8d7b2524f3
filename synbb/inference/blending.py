"""Logits of a block as a weighted mean over overlapping windows, as sliding-window inference makes them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from monai.data.utils import compute_importance_map

from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.inference.network import Network

SIGMA = 0.125
"""Standard deviation of the Gaussian in windows, as in MONAI's sliding window and in nnU-Net."""


def blended_logits(network: Network, array: torch.Tensor, windows: Sequence[Box]) -> torch.Tensor:
    """Logits of ``array``, the mean over the windows that hold a voxel, weighted by a Gaussian around their centres.

    Args:
        network: gives logits of one window.
        array: (z, y, x) float32.
        windows: boxes of one shape inside the array; voxels outside all of them get nan.

    Returns:
        float32 of the array's shape, on the network's device.
    """
    total, weights = (torch.zeros(array.shape, device=network.device) for _ in range(2))
    gaussian = _importance(triple(windows[0].shape)).to(network.device)
    at = 0
    while at < len(windows):
        batch = windows[at : at + network.batch]
        for box, logits in zip(batch, network.logits([array[box.slices] for box in batch]), strict=True):
            total[box.slices] += logits * gaussian
            weights[box.slices] += gaussian
        at += len(batch)
    return total / weights


@lru_cache(maxsize=4)
def _importance(shape: Triple) -> torch.Tensor:
    found = compute_importance_map(shape, mode="gaussian", sigma_scale=SIGMA).float()
    return torch.maximum(found, 1e-3 * found.max())  # far corners count for little, not for nothing
