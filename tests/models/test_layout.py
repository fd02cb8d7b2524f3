"""How weights lie in memory, and where they must not."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from synbb.models import build_unet
from synbb.models.layout import channels_last

TRAINED = """
import torch
from torch import nn
from synbb.models.layout import channels_last

torch.set_num_threads(1)
net = nn.Sequential(nn.Conv2d(3, {channels}, 3, padding=1), nn.Conv2d({channels}, 8, 1, stride=2))
channels_last(net)
for _ in range(30):
    net(torch.randn(16, 3, 16, 14)).square().mean().backward()
    others = [torch.empty(37 * n + 1) for n in range(50)]
print("alive")
"""
CHECKING = "libc_malloc_debug.so.0"  # of glibc: aborts where something was written beyond a buffer


def laid_out(net: nn.Module) -> set[bool]:
    """Whether weights of several channels in and out lie with their channels last."""
    weights = [p for p in net.parameters() if p.dim() >= 4 and min(p.shape[:2]) > 1 and max(p.shape[2:]) > 1]
    return {
        p.is_contiguous(memory_format=torch.channels_last if p.dim() == 4 else torch.channels_last_3d) for p in weights
    }


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [4, 15, 16])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d])
def test_only_narrow_strided_kernels_of_one_voxel_keep_their_layout(
    kind: type[nn.Module], channels: int, stride: int
) -> None:
    net = nn.Sequential(kind(channels, 16, 3), kind(16, channels, 3), kind(channels, 16, 1, stride))
    before = [parameter.clone() for parameter in net.parameters()]
    channels_last(net)
    assert laid_out(net) == {not (channels < 16 and stride > 1)}
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_networks_of_volumes_are_laid_out() -> None:
    net = build_unet((40.0, 8.0, 8.0), filters=(4, 8, 16))
    channels_last(net)
    assert laid_out(net) == {True}


@pytest.mark.parametrize("channels", [4, 8, 15, 16])
@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_training_with_the_narrowest_networks_survives(channels: int, instructions: str) -> None:
    """With the instructions that processors of some years ago have, or what this one has of those of later ones."""
    checks = {"LD_PRELOAD": CHECKING, "MALLOC_CHECK_": "3"} if platform.libc_ver()[0] == "glibc" else {}
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "1", **checks}
    done = subprocess.run(
        [sys.executable, "-c", TRAINED.format(channels=channels)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-500:]
