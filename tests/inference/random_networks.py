"""Small networks with random weights and random norm statistics, and volumes to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from synbb.models import build_unet, receptive_field, total_stride
from synbb.volumes.writing import create_volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from monai.networks.nets import DynUNet

    from synbb.volumes.box import Triple
    from synbb.volumes.volume import Volume

VOXEL = (50.0, 9.2, 9.2)


def randomise_(net: nn.Module, seed: int) -> None:
    """Random norm parameters and running statistics: as far from neutral as training may bring them."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0.0, 0.5, generator=generator)
            module.running_mean.normal_(0.0, 0.5, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
        elif isinstance(module, nn.Conv3d) and module.bias is not None:
            module.bias.data.normal_(0.0, 0.5, generator=generator)


def random_unet(seed: int = 0, filters: Sequence[int] = (3, 4, 5), voxel_size: Sequence[float] = VOXEL) -> DynUNet:
    """A U-Net in evaluation mode."""
    torch.manual_seed(seed)
    net = build_unet(voxel_size, filters=filters)
    randomise_(net, seed)
    return net.eval()


def geometry(net: nn.Module) -> dict[str, Triple]:
    """The arguments stride and halo of a network."""
    stride = total_stride(net)
    return {"stride": stride, "halo": receptive_field(net, stride)}


def random_volume(
    path: Path,
    shape: Sequence[int],
    voxel_size: Sequence[float] = VOXEL,
    *,
    seed: int = 0,
    chunks: Sequence[int] | None = None,
) -> Volume:
    """A volume of random grey values on disk, its offset not zero."""
    values = np.random.default_rng(seed).integers(0, 256, tuple(shape), dtype=np.uint8)
    made = create_volume(
        path, shape=shape, dtype="uint8", voxel_size=voxel_size, offset=(100.0, 7.0, 9.0), chunks=chunks
    )
    made.write(made.box, values)
    return made.volume
