"""Attaching to a model of someone else takes three lines: make the pruner, attach it, step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet, DynUNet, ResNet, SegResNet, UNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, apply_masks, trace

if TYPE_CHECKING:
    from collections.abc import Callable

DENSITY = 0.25
CUBE = (2, 1, 16, 16, 16)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    )


def unet(residual_units: int) -> nn.Module:
    return UNet(3, 1, 2, (8, 16, 32), (2, 2), num_res_units=residual_units, dropout=0.1)


def dynunet(residual: bool) -> nn.Module:
    sizes = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
    return DynUNet(3, 1, 2, sizes, (1, 2, 2), (2, 2), filters=(8, 16, 32), res_block=residual)


def resnet() -> nn.Module:
    return ResNet("basic", [1, 1, 1, 1], [8, 16, 32, 64], spatial_dims=3, n_input_channels=1, num_classes=2)


def encoder(activation: str, norm_first: bool = False) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, activation=activation, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


# Network, shape of its input, its channel axis, and the share of the weights of all its layers that is masked: all but
# first layers and heads; attention's four matrices are as large together as its feed-forward part with 64 features.
STOCK: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, float]] = {
    "mlp": (mlp, (8, 12), 1, 0.8),
    "unet": (lambda: unet(0), CUBE, 1, 0.95),
    "residual unet": (lambda: unet(2), CUBE, 1, 0.98),
    "dynunet": (lambda: dynunet(residual=False), CUBE, 1, 0.98),
    "residual dynunet": (lambda: dynunet(residual=True), CUBE, 1, 0.98),
    "segresnet": (lambda: SegResNet(3, 8, 1, 2), CUBE, 1, 0.99),
    "resnet": (resnet, CUBE, 1, 0.98),
    "densenet": (lambda: DenseNet(3, 1, 2, 8, 8, (2, 2)), CUBE, 1, 0.9),
    "relu encoder": (lambda: encoder("relu"), (2, 6, 32), -1, 0.5),
    "gelu encoder": (lambda: encoder("gelu", norm_first=True), (2, 6, 32), -1, 0.5),
}


def attached_and_trained(model: nn.Module, shape: tuple[int, ...], axis: int) -> BudgetedBroadcast:
    """Six optimiser steps with everything that a user writes; too few for on-rates to pass the gate."""
    torch.manual_seed(1)
    x = torch.randn(shape)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    pruner = BudgetedBroadcast(density=DENSITY, warmup=1, ramp=4, refresh=1, gate=0.0)
    pruner.attach(model, x, optimizer=optimizer, channel_axis=axis)
    model.train()
    for _ in range(6):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        pruner.step()
    return pruner


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.filterwarnings("error:synbb")
def test_a_stock_network_is_pruned_in_three_lines(name):
    torch.manual_seed(0)
    make, shape, axis, share = STOCK[name]
    model = make()
    keys = list(model.state_dict())
    pruner = attached_and_trained(model, shape, axis)

    assert pruner.final
    parameters = dict(model.named_parameters())
    for layer, mask in pruner.masks.items():
        assert abs(int(mask.sum()) - DENSITY * mask.numel()) <= 1, layer
        weight = parameters[f"{layer}.weight"]
        assert not weight[~mask.expand_as(weight)].any()
    assert list(model.state_dict()) == keys

    # Every unit has been seen, at the place that the trace found.
    assert pruner.wiring.untraced == ()
    assert all(group.observer is not None for group in pruner.wiring.groups)
    assert not np.isnan(pruner.activity.rates()).any()

    masked = sum(layer.weights for layer in pruner.layers)
    assert masked / sum(p.numel() for p in model.parameters() if p.dim() > 1) >= share


@pytest.mark.parametrize("name", [name for name in STOCK if "encoder" not in name])
def test_multiply_accumulates_are_those_that_torch_counts(name):
    make, shape, axis, _ = STOCK[name]
    model = make().eval()
    x = torch.zeros(shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    layers = trace(model, x, channel_axis=axis).layers
    assert 2 * shape[0] * sum(layer.macs for layer in layers) == counter.get_total_flops()  # two operations for each


def test_both_layers_of_every_feed_forward_part_are_masked():
    pruner = BudgetedBroadcast(density=DENSITY)
    model = encoder("relu")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner.attach(model, torch.zeros(2, 6, 32), optimizer=optimizer, channel_axis=-1)
    assert list(pruner.masks) == [f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    assert [layer.reads.shape[1] for layer in pruner.layers] == [
        0,
        64,
        0,
        64,
    ]  # the stream that linear1 reads has no units
    assert [layer.writes.shape[1] for layer in pruner.layers] == [64, 0, 64, 0]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_the_fused_evaluation_path_of_an_encoder_sees_the_masks(activation, norm_first, monkeypatch):
    torch.manual_seed(0)
    model = encoder(activation, norm_first)
    pruner = attached_and_trained(model, (2, 6, 32), -1)
    x = torch.randn(2, 6, 32)

    reference = encoder(activation, norm_first)
    reference.load_state_dict(model.state_dict())
    # Were a cut weight alive anywhere, the masks would take it away here and the outputs differ.
    apply_masks(reference, pruner.masks)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = reference.eval()(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)

    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
        pruner.detach()  # hooks keep the fused path from being taken
        fused = _count_fused(monkeypatch)
        torch.testing.assert_close(model(x), expected)
    assert len(fused) == 2


def _count_fused(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    calls: list[None] = []
    real = torch._transformer_encoder_layer_fwd

    def counted(*args: object, **kwargs: object) -> Tensor:
        calls.append(None)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    return calls


def test_the_stream_of_an_encoder_is_masked_by_its_own_ratio_where_the_config_names_its_readers():
    torch.manual_seed(0)
    model = encoder("relu")
    x = torch.randn(4, 6, 32)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    pruner = BudgetedBroadcast(
        density=DENSITY,
        warmup=1,
        ramp=4,
        refresh=1,
        gate=0.0,
        actuator="fan_out",
        statistic="sign",
        per_consumer=["*.linear1"],
    )
    pruner.attach(model, x, optimizer=optimizer, channel_axis=-1)
    seen = []
    model.layers[0].linear1.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    model.train()
    for step in range(6):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        pruner.step()
        if step == 0:
            group = pruner.wiring.groups[0]
            assert (group.name, group.size) == ("layers.0.linear1 input", 32)
            values = seen[0].double()
            ratio = values.abs().mean((0, 1)).square() / values.square().mean((0, 1))  # signed values have no sign rate
            np.testing.assert_allclose(pruner.activity.rates()[:32], ratio, rtol=1e-5)
    for mask in pruner.masks.values():
        assert abs(int(mask.sum()) - DENSITY * mask.numel()) <= 1
    # The law has acted on the channels of the stream: the larger the ratio, the smaller the audience.
    audience = pruner.table.fan_out(pruner.kept(), pruner.wiring.unit_count)[:32]
    assert np.corrcoef(pruner.decided_rates[:32], audience)[0, 1] < -0.9


def test_a_layer_that_minimum_degrees_fill_is_named() -> None:
    depthwise = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 2, 1)),
    )
    inputs, optimizer = torch.zeros(1, 1, 16, 16), torch.optim.SGD(depthwise.parameters(), 0.1)
    with pytest.raises(
        SynbbError, match=r"^layer '2': a budget of 5 connections is out of reach: .* exclude such layers"
    ):
        BudgetedBroadcast(0.3).attach(depthwise, inputs, optimizer=optimizer)
    pruner = BudgetedBroadcast(0.3, exclude=["2"]).attach(depthwise, inputs, optimizer=optimizer)
    assert list(pruner.masks) == ["4"]
