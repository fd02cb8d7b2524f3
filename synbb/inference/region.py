"""Probabilities of a region, block by block, for whoever scores them at once instead of storing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from synbb.inference.block_work import BlockWork, quantise
from synbb.inference.blocks import BlockPlan
from synbb.inference.network import Network
from synbb.inference.sizes import default_write_block
from synbb.volumes.box import Box, triple
from synbb.volumes.resample import WorkingView
from synbb.volumes.statistics import Normalisation


def region_probabilities(
    net: nn.Module,
    view: WorkingView,
    normalisation: Normalisation,
    region: Box,
    *,
    stride: Sequence[int],
    halo: Sequence[int],
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Box, NDArray[np.float32]]]:
    """Yield (box, probabilities) over ``region``.

    Args:
        net: maps (N, 1, Z, Y, X) to logits of the same shape; its modes are given back.
        view: the volume at the network's voxel size.
        normalisation: of the volume's grey values.
        region: voxels of the volume (level 0); what is read goes beyond it.
        stride: working voxels per voxel of the network's coarsest level.
        halo: receptive field of the network, working voxels.
        device: where the network runs.

    Yields:
        A box in level-0 voxels and the probabilities in it, float32, z y x.
    """
    scale = view.scale
    block = default_write_block(region, scale, halo, stride)
    plan = BlockPlan(region, block, view.shape, triple(halo), triple(stride), scale)
    work = BlockWork(view, plan, normalisation)
    with Network(net, stride=triple(stride), halo=triple(halo), device=device) as network:
        for batch in plan.batches(network.batch):
            inputs = [work.read(each) for each in batch]
            for each, given, logits in zip(batch, inputs, work.logits(network, batch, inputs), strict=True):
                yield each.write, work.probabilities(logits, each, given.no_data)


def predict_region(
    net: nn.Module,
    view: WorkingView,
    normalisation: Normalisation,
    region: Box,
    *,
    stride: Sequence[int],
    halo: Sequence[int],
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Box, NDArray[np.uint8]]]:
    """As :func:`region_probabilities`, but round(255 p), uint8: just what :func:`predict_volume` would write there."""
    found = region_probabilities(net, view, normalisation, region, stride=stride, halo=halo, device=device)
    for box, probabilities in found:
        yield box, quantise(probabilities)
