"""Probabilities of a region, block by block, for whoever scores them at once instead of storing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from synbb.inference.block_work import BlockWork
from synbb.inference.blocks import BlockPlan
from synbb.inference.network import Network
from synbb.inference.no_data import Where
from synbb.inference.sizes import default_write_block
from synbb.volumes.box import Box, triple
from synbb.volumes.resample import WorkingView
from synbb.volumes.statistics import Normalisation


class RegionBlock(NamedTuple):
    """A block of a region.

    Attributes:
        box: level-0 voxels.
        probabilities: float32, z y x.
        no_data: which of its voxels have no data, bool; None where all have.
    """

    box: Box
    probabilities: NDArray[np.float32]
    no_data: Where | None


def region_blocks(
    net: nn.Module,
    view: WorkingView,
    normalisation: Normalisation,
    region: Box,
    *,
    stride: Sequence[int],
    halo: Sequence[int],
    device: str | torch.device = "cpu",
) -> Iterator[RegionBlock]:
    """Blocks that fill ``region``, with the probabilities that :func:`predict_volume` would write there.

    Args:
        net: maps (N, 1, Z, Y, X) to logits of the same shape; its modes are given back.
        view: the volume at the network's voxel size.
        normalisation: of the volume's grey values.
        region: voxels of the volume (level 0); what is read goes beyond it.
        stride: working voxels per voxel of the network's coarsest level.
        halo: receptive field of the network, working voxels.
        device: where the network runs.
    """
    scale = view.scale
    block = default_write_block(region, scale, halo, stride)
    plan = BlockPlan(region, block, view.shape, triple(halo), triple(stride), scale)
    work = BlockWork(view, plan, normalisation)
    with Network(net, stride=triple(stride), halo=triple(halo), device=device) as network:
        for batch in plan.batches(network.batch):
            inputs = [work.read(each, for_card=network.on_card) for each in batch]
            for each, given, logits in zip(batch, inputs, work.logits(network, batch, inputs), strict=True):
                probabilities = work.voxels(logits, each, given.no_data, np.dtype(np.float32))()
                yield RegionBlock(each.write, probabilities, given.no_data)
