"""Kernels, strides and sizes of the U-Net follow from the voxel size."""

from __future__ import annotations

import pytest
import torch

from synbb.errors import SynbbError
from synbb.models import build_unet, level_geometry, parameter_counts, total_stride


def test_serial_sections_at_9_nm() -> None:
    geometry = level_geometry((50, 9.2, 9.2), 3)
    assert geometry.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    assert geometry.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2))
    assert geometry.total_stride == (1, 4, 4)


def test_isotropic_voxels_are_treated_alike() -> None:
    geometry = level_geometry((8, 8, 8), 3)
    assert geometry.kernels == ((3, 3, 3),) * 3
    assert geometry.total_stride == (4, 4, 4)


def test_pooling_ends_anisotropy() -> None:
    geometry = level_geometry((50, 4.6, 4.6), 5)
    assert [kernel[0] for kernel in geometry.kernels] == [1, 1, 1, 3, 3]  # 50 nm against 4.6, 9.2, 18.4, 36.8
    assert [stride[0] for stride in geometry.strides] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_the_rule_is_the_same_for_every_axis(axes: tuple[int, int, int]) -> None:
    plain = level_geometry((50, 9.2, 4.6), 4)
    turned = level_geometry([(50, 9.2, 4.6)[axis] for axis in axes], 4)
    for before, after in zip(plain.kernels + plain.strides, turned.kernels + turned.strides, strict=True):
        assert after == tuple(before[axis] for axis in axes)


@pytest.mark.parametrize("residual", [False, True])
def test_a_network_keeps_the_size_of_its_input(residual: bool) -> None:
    net = build_unet((50, 9.2, 9.2), filters=(4, 6, 8), residual=residual, in_channels=2, out_channels=3)
    assert net(torch.zeros(2, 2, 3, 8, 12)).shape == (2, 3, 3, 8, 12)
    assert total_stride(net) == (1, 4, 4)


def test_parameter_counts_count_each_parameter_once() -> None:
    net = build_unet((50, 9.2, 9.2))
    counts = parameter_counts(net)
    assert counts["total"] == sum(p.numel() for p in net.parameters()) == 635_953
    assert sum(n for name, n in counts.items() if name != "total") == counts["total"]
    assert counts["input_block.conv1.conv"] == 24 * 9


def test_norms_are_affine_and_activations_not_in_place() -> None:
    for norm in ("batch", "instance", "group"):
        net = build_unet((50, 9.2, 9.2), filters=(8, 16, 24), norm=norm)
        assert sum(name.endswith("norm1.weight") for name, _ in net.named_parameters()) == 5
    assert not any(getattr(module, "inplace", False) for module in net.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 2, "filters": (8, 16)}, "levels 2"),
        ({"levels": 4}, "for each of the 4 levels"),
        ({"filters": (8, 0, 8)}, "filters"),
        ({"norm": "layer"}, "batch, instance, group"),
        ({"norm": "group", "filters": (8, 12, 16)}, "multiples of 8"),
        ({"act": "nonsense"}, "nonsense"),
    ],
)
def test_what_makes_no_network_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        build_unet((50, 9.2, 9.2), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(50, 9.2), (50, 0, 9.2), (50, -1, 9.2), (float("nan"), 1, 1)])
def test_bad_voxel_sizes_are_refused(size: tuple[float, ...]) -> None:
    with pytest.raises(SynbbError, match="voxel size"):
        build_unet(size)


def test_the_stride_of_a_stranger_is_asked_for() -> None:
    with pytest.raises(SynbbError, match="Linear"):
        total_stride(torch.nn.Linear(1, 1))


def test_the_prior_is_what_an_untrained_network_expects() -> None:
    torch.manual_seed(0)
    net = build_unet((50.0, 9.2, 9.2), filters=(4, 8, 8), prior=0.01).eval()
    plain = build_unet((50.0, 9.2, 9.2), filters=(4, 8, 8))
    bias = net.output_block.conv.conv.bias
    assert torch.sigmoid(bias).item() == pytest.approx(0.01, rel=1e-5)
    assert plain.output_block.conv.conv.bias.item() == 0


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.5, float("nan")])
def test_a_prior_that_is_no_probability_is_refused(prior: float) -> None:
    with pytest.raises(SynbbError, match="prior"):
        build_unet((50.0, 9.2, 9.2), filters=(4, 8, 8), prior=prior)
