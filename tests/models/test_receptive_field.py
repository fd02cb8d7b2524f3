"""The probed receptive field against hand-made networks of known field, and against perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.models import build_unet, receptive_field, total_stride
from synbb.models.receptive_field import block_dependent_norms

if TYPE_CHECKING:
    from collections.abc import Sequence


def chain(kernels: Sequence[int], dilation: int = 1) -> nn.Sequential:
    """Convolutions along z one after another."""
    layers: list[nn.Module] = []
    for kernel in kernels:
        layers.append(
            nn.Conv3d(1, 1, (kernel, 1, 1), padding=((kernel // 2) * dilation, 0, 0), dilation=(dilation, 1, 1))
        )
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class DownUp(nn.Module):
    """Convolution, halving ``steps`` times with kernel ``kernel`` each, nearest doubling back, beside a skip."""

    def __init__(self, kernel: int, steps: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv3d(1, 1, (kernel, 1, 1), stride=(2, 1, 1), padding=(kernel // 2, 0, 0)) for _ in range(steps)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.down:
            y = layer(y)
        for _ in self.down:
            y = torch.repeat_interleave(y, 2, dim=2)
        return torch.relu(x + y)


def down_up_margin(kernel: int, steps: int) -> int:
    """A stride cell is one voxel of the coarsest level: kernel // 2 more on either side at each level."""
    first, last = 0, 0
    for _ in range(steps):
        first, last = 2 * first - kernel // 2, 2 * last + kernel // 2
    return max(-first, last - (2**steps - 1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=5), st.sampled_from([1, 2]))
def test_chains_of_convolutions(kernels: list[int], dilation: int) -> None:
    expected = sum(kernel // 2 for kernel in kernels) * dilation
    assert receptive_field(chain(kernels, dilation), (1, 1, 1)) == (expected, 0, 0)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([1, 3, 5]), st.integers(1, 4))
def test_strided_networks(kernel: int, steps: int) -> None:
    assert receptive_field(DownUp(kernel, steps), (2**steps, 1, 1)) == (down_up_margin(kernel, steps), 0, 0)


def test_the_default_network() -> None:
    net = build_unet((50, 9.2, 9.2))
    assert receptive_field(net, total_stride(net)) == (4, 19, 19)


@pytest.mark.parametrize("residual", [False, True])
def test_the_default_with_four_levels_keeps_within_10_48_48(residual: bool) -> None:
    net = build_unet((50, 9.2, 9.2), levels=4, filters=(4, 4, 4, 4), residual=residual)
    assert receptive_field(net, total_stride(net)) == (9, 39, 39)


def test_depth_does_not_lose_the_outermost_path() -> None:
    # The outermost path weighs 7^-400, beyond float64, with the usual scaling.
    assert receptive_field(chain([7] * 400), (1, 1, 1)) == (1200, 0, 0)


def test_pooling_activations_and_norms_pass_all_that_they_read() -> None:
    net = nn.Sequential(
        nn.BatchNorm3d(1),
        nn.Conv3d(1, 2, 3, padding=1),
        nn.Sigmoid(),
        nn.MaxPool3d(3, stride=1, padding=1),
        nn.InstanceNorm3d(2),
        nn.PReLU(),
        nn.Dropout(),
        nn.ConvTranspose3d(2, 1, (1, 1, 3), padding=(0, 0, 1)),
        nn.Softplus(),
    )
    assert receptive_field(net, (1, 1, 1)) == (2, 2, 3)


def test_the_network_is_left_as_it_was() -> None:
    net = build_unet((50, 9.2, 9.2), filters=(3, 4, 5))
    net.train()
    calls: list[nn.Module] = []
    for module in net.modules():
        module.register_forward_hook(lambda module, *_: calls.append(module))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kinds = [type(module) for module in net.modules()]
    receptive_field(net, (1, 4, 4))
    assert net.training
    assert not calls, "a pruner's hooks would have counted the probe"
    assert [type(module) for module in net.modules()] == kinds
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(("residual", "seed"), [(False, 0), (True, 1)])
def test_perturbing_the_real_network(residual: bool, seed: int) -> None:
    """No voxel beyond the margin changes anything, and for each axis some voxel at the margin does."""
    torch.manual_seed(seed)
    net = build_unet((50, 9.2, 9.2), filters=(6, 8, 10), residual=residual).double().eval()
    stride = total_stride(net)
    halo = receptive_field(net, stride)
    assert halo == (4, 19, 19)
    size = (11, 48, 48)
    cell = [slice(start, start + step) for start, step in zip((5, 24, 24), stride, strict=True)]
    plain = torch.randn(1, 1, *size, dtype=torch.float64)
    with torch.inference_mode():
        reference = net(plain)[0, 0][tuple(cell)]
        for axis in range(3):
            for side in (-1, 1):
                edge = cell[axis].start - halo[axis] if side < 0 else cell[axis].stop - 1 + halo[axis]
                beyond = slice(0, edge) if side < 0 else slice(edge + 1, None)
                changed = plain.clone()
                changed[(0, 0, *[beyond if a == axis else slice(None) for a in range(3)])] += 7
                assert torch.equal(net(changed)[0, 0][tuple(cell)], reference), (axis, side)
        for axis in range(3):
            changed = plain.clone()
            changed[(0, 0, *[cell[axis].start - halo[axis] if a == axis else slice(None) for a in range(3)])] += 7
            assert not torch.equal(net(changed)[0, 0][tuple(cell)], reference), axis


def test_norms_that_depend_on_the_block_are_named() -> None:
    assert block_dependent_norms(build_unet((8, 8, 8), filters=(8, 8, 8))) == []
    names = block_dependent_norms(build_unet((8, 8, 8), filters=(8, 8, 8), norm="instance"))
    assert len(names) == len(set(names)) == 10
    assert block_dependent_norms(nn.Sequential(nn.BatchNorm3d(1, track_running_stats=False))) == ["0"]


class GlobalMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * torch.ones_like(x) + x.mean(dim=(2, 3, 4), keepdim=True)


def test_an_unbounded_field_is_said_to_be() -> None:
    with pytest.raises(SynbbError, match="unbounded"):
        receptive_field(GlobalMean(), (1, 1, 1))


@pytest.mark.parametrize(
    ("net", "stride", "message"),
    [
        (nn.Conv3d(1, 1, (3, 1, 1)), (1, 1, 1), "output of the input's size"),
        (nn.Conv3d(1, 1, 3), (1, 1, 1), "padded convolutions"),
        (nn.ReLU(), (1, 1, 1), "without convolutions"),
        (nn.Conv3d(1, 1, 1), (1, 0, 1), "stride"),
        (nn.Sequential(nn.Conv3d(1, 1, 1), nn.MaxPool3d(3, 1, dilation=2)), (1, 1, 1), "dilation"),
    ],
)
def test_networks_that_cannot_be_probed(net: nn.Module, stride: tuple[int, int, int], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        receptive_field(net, stride)
