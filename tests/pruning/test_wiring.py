"""Who feeds whom: traced through each shape of network, and checked against what perturbing a weight really moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import UNet, resnet18
from pruning_networks import Between, Chain, Residual, Skip, SumOfUnits, Tokens
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.models.unet import build_unet
from synbb.pruning import Wiring, trace
from synbb.pruning.wiring import TracedLayer

VOXEL = (50.0, 9.2, 9.2)


def layer(wiring: Wiring, name: str) -> TracedLayer:
    return next(each for each in wiring.layers if each.name == name)


def read_by(wiring: Wiring, name: str) -> dict[int, list[str]]:
    """Input channel → units read there, as ``group name:channel``."""
    found: dict[int, list[str]] = {}
    for channel, unit in layer(wiring, name).reads.T:
        found.setdefault(int(channel), []).append(spelt(wiring, int(unit)))
    return found


def written_by(wiring: Wiring, name: str) -> list[tuple[int, str]]:
    return [(int(channel), spelt(wiring, int(unit))) for channel, unit in layer(wiring, name).writes.T]


def spelt(wiring: Wiring, unit: int) -> str:
    group = wiring.group_of(unit)
    return f"{group.name}:{unit - group.first}"


def own(name: str, size: int) -> list[tuple[int, str]]:
    return [(channel, f"{name}:{channel}") for channel in range(size)]


def feeds(name: str, size: int, start: int = 0) -> dict[int, list[str]]:
    return {start + channel: [f"{name}:{channel}"] for channel in range(size)}


# ---- shapes of networks ----


def test_a_chain():
    wiring = trace(Chain(4), torch.zeros(1, 1, 8, 8))
    assert [each.name for each in wiring.layers] == ["first", "second", "third", "head"]
    assert [each.reads_input_only for each in wiring.layers] == [True, False, False, False]
    assert [each.writes_output for each in wiring.layers] == [False, False, False, True]
    assert not layer(wiring, "first").reads.size
    assert read_by(wiring, "second") == feeds("first", 4)
    assert written_by(wiring, "second") == own("second", 4)
    assert read_by(wiring, "head") == feeds("third", 4)
    assert wiring.unit_count == 12
    assert wiring.untraced == ()


def test_a_skip_concatenation_gives_a_unit_consumers_on_both_paths():
    wiring = trace(Skip(), torch.zeros(1, 1, 8, 8))
    assert read_by(wiring, "deep") == feeds("down", 4)
    assert read_by(wiring, "up") == feeds("down", 4, start=5)  # channels 0 to 4 come from the transposed layer
    assert read_by(wiring, "back") == feeds("deep", 6)
    assert written_by(wiring, "back") == []  # no activation follows: its channels are no units


@pytest.mark.parametrize("act", [nn.ReLU(), nn.PReLU(), nn.ReLU(inplace=True)])
def test_residual_sums_with_one_activation_module_for_all(act):
    wiring = trace(Residual(act), torch.zeros(1, 1, 8, 8))
    assert written_by(wiring, "two") == own("two", 4)  # the sum is behind two and before the activation
    assert read_by(wiring, "three") == feeds("two", 4)
    assert read_by(wiring, "head") == {c: [f"two:{c}", f"three:{c}"] for c in range(4)}
    assert len(wiring.groups) == 4


def test_a_channel_that_sums_units_has_them_all():
    wiring = trace(SumOfUnits(), torch.zeros(1, 1, 5))
    assert read_by(wiring, "reader") == {c: [f"left:{c}", f"right:{c}"] for c in range(4)}


class Inlined(nn.Module):
    """Everything a module graph does not show: functions, methods, operators, in-place calls, changes of layout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1)
        self.third, self.head = nn.Linear(6, 5), nn.Linear(5 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.first(x))
        x = F.interpolate(F.max_pool2d(x, 2), scale_factor=2)
        x = self.second(F.pad(x, (1, 1)) * 2.0).relu_()
        x = x[..., 1:-1].flatten(2).transpose(1, 2)  # (batch, positions, channels)
        x = torch.relu(self.third(x)).permute(0, 2, 1)
        return self.head(F.adaptive_avg_pool1d(x, 4).reshape(x.shape[0], -1)).softmax(1)


def test_inlined_calls_and_changes_of_layout():
    wiring = trace(Inlined(), torch.zeros(1, 1, 4, 4))
    assert read_by(wiring, "second") == feeds("first", 4)
    assert read_by(wiring, "third") == feeds("second", 6)
    assert read_by(wiring, "head") == {4 * c + p: [f"third:{c}"] for c in range(5) for p in range(4)}
    assert layer(wiring, "head").writes_output
    assert wiring.untraced == ()


def test_a_layer_called_twice_reads_what_both_calls_read():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.shared(F.relu(self.shared(x)))))

    wiring = trace(Twice(), torch.zeros(2, 4))
    assert len(wiring.layers) == 2
    assert not layer(wiring, "shared").reads_input_only
    assert layer(wiring, "shared").reads.shape[1] == 4
    assert layer(wiring, "shared").writes.shape[1] == 8


@pytest.mark.parametrize("squeeze", [lambda y: y.squeeze(1), lambda y: y[:, 0], torch.sigmoid, torch.cumsum])
def test_the_head_is_the_head_whatever_is_done_to_its_output(squeeze):
    class Ending(Chain):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return squeeze(y, 1) if squeeze is torch.cumsum else squeeze(y)

    wiring = trace(Ending(4), torch.zeros(1, 1, 8, 8))
    assert [each.name for each in wiring.layers if each.writes_output] == ["head"]


def test_gates_pass_nothing_on():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x))
            return self.head(torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))) * x)

    wiring = trace(Gated(), torch.zeros(1, 1, 4, 4))
    assert read_by(wiring, "gate") == feeds("first", 4)
    assert read_by(wiring, "head") == feeds("first", 4)


# ---- stock networks ----


def all_masked_weights(wiring: Wiring, net: nn.Module) -> float:
    masked = sum(each.weights for each in wiring.layers if not each.reads_input_only and not each.writes_output)
    return masked / sum(each.numel() for each in net.parameters() if each.dim() > 1)


@pytest.mark.parametrize("residual", [False, True])
def test_dynunet(residual):
    net = build_unet(VOXEL, filters=(4, 8, 16), residual=residual)
    wiring = trace(net, torch.zeros(1, 1, 2, 16, 16))
    first = {each.name for each in wiring.layers if each.reads_input_only}
    assert first == {"input_block.conv1.conv"} | ({"input_block.conv3.conv"} if residual else set())
    assert [each.name for each in wiring.layers if each.writes_output] == ["output_block.conv.conv"]
    assert len(wiring.groups) == 10
    # The skip: units of the input block are read one level down and, behind the 4 upsampled channels, on the way up.
    assert read_by(wiring, "downsamples.0.conv1.conv") == feeds("input_block.conv2.conv", 4)
    assert read_by(wiring, "upsamples.1.conv_block.conv1.conv") == feeds("input_block.conv2.conv", 4, start=4)
    if residual:  # the projection writes into the same sum as conv2
        assert written_by(wiring, "downsamples.0.conv3.conv") == own("downsamples.0.conv2.conv", 8)
        assert written_by(wiring, "downsamples.0.conv2.conv") == own("downsamples.0.conv2.conv", 8)
    assert all(group.observer is not None for group in wiring.groups)
    assert wiring.untraced == ()


def test_the_default_network_has_nearly_all_weights_in_masked_layers():
    net = build_unet(VOXEL)
    assert all_masked_weights(trace(net, torch.zeros(1, 1, 1, 8, 8)), net) >= 0.95


def test_monai_unet_with_residual_units():
    wiring = trace(UNet(2, 1, 2, (4, 8, 16), (2, 2), num_res_units=2), torch.zeros(1, 1, 16, 16))
    assert wiring.untraced == ()
    # unit1 activates, then the residual is added: a layer's output and the units stand in the same channels.
    inner = "model.1.submodule.0.conv.unit1.conv"
    assert read_by(wiring, "model.1.submodule.1.submodule.conv.unit0.conv") == feeds(inner, 8)
    up = read_by(wiring, "model.2.0.conv")  # 4 of the outer skip, then 4 of the inner decoder's own sum
    assert sorted(up) == list(range(8))
    assert [up[c] for c in range(4)] == [[f"model.0.conv.unit1.conv:{c}"] for c in range(4)]
    assert all(len(up[c]) == 2 for c in range(4, 8))
    assert [each.name for each in wiring.layers if each.writes_output] == ["model.2.1.conv.unit0.conv"]


def test_monai_resnet18():
    wiring = trace(resnet18(spatial_dims=2, n_input_channels=1, num_classes=3), torch.zeros(1, 1, 32, 32))
    assert wiring.untraced == ()
    assert read_by(wiring, "layer2.0.downsample.0") == feeds("layer1.1.conv2", 64)
    assert written_by(wiring, "layer2.0.downsample.0") == own("layer2.0.conv2", 128)
    assert read_by(wiring, "fc") == feeds("layer4.1.conv2", 512)
    sights = {group.name: group.observer for group in wiring.groups}
    assert sights["conv1"].module == "act"  # before the pooling that layer1 reads through
    assert sights["layer4.1.conv2"].module == "layer4.1"  # before the mean that fc reads
    assert len(sights) == 17


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder_layer(norm_first):
    wiring = trace(Tokens(norm_first=norm_first), torch.zeros(2, 6, 5), channel_axis=-1)
    assert [each.name for each in wiring.layers if each.reads_input_only] == ["embed"]
    assert "head" in [each.name for each in wiring.layers if each.writes_output]
    hidden = "encoder.layers.0.linear1"
    assert written_by(wiring, hidden) == own(hidden, 16)
    assert read_by(wiring, "encoder.layers.0.linear2") == feeds(hidden, 16)
    assert wiring.groups[0].observer.module == "encoder.layers.0.dropout"  # before the dropout that linear2 reads
    assert wiring.groups[0].observer.axis == 2


def test_an_encoder_that_reads_the_input_itself_is_no_first_layer():
    layer_of_input = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    wiring = trace(nn.Sequential(layer_of_input, nn.Linear(8, 2)), torch.zeros(2, 6, 8), channel_axis=-1)
    assert not layer(wiring, "0.linear1").reads_input_only  # it reads attention values too


# ---- axis order, verified by perturbing weights ----


LAYERS = [
    (nn.Linear, (4, 6), {}),
    (nn.Conv2d, (4, 6, 3), {"padding": 1}),
    (nn.Conv2d, (4, 6, 3), {"padding": 1, "groups": 2}),
    (nn.Conv1d, (6, 6, 1), {"groups": 6}),
    (nn.ConvTranspose2d, (4, 6, 2), {"stride": 2}),
    (nn.ConvTranspose2d, (4, 6, 2), {"stride": 2, "groups": 2}),
    (nn.ConvTranspose2d, (6, 3, 3), {"groups": 3}),
]


@pytest.mark.parametrize(("kind", "sizes", "options"), LAYERS)
def test_each_weight_slice_joins_the_channels_that_moving_it_joins(kind, sizes, options):
    torch.manual_seed(0)
    probed = kind(*sizes, **options, bias=False)
    shape = {nn.Linear: (), nn.Conv1d: (4,)}.get(kind, (4, 4))
    given = torch.rand(1, sizes[0], *shape) + 0.5
    claimed_in, claimed_out = TracedLayer(
        "probed",
        "linear" if kind is nn.Linear else "conv_transpose" if kind is nn.ConvTranspose2d else "conv",
        options.get("groups", 1),
        sizes[0],
        sizes[1],
        probed.weight.numel(),
    ).connection_channels(probed.weight.shape)
    with torch.no_grad():
        before = probed(given)
        for row, column in np.ndindex(claimed_in.shape):
            kept = probed.weight[row, column].clone()
            probed.weight[row, column] += 1.0
            moved = (probed(given) - before).abs().amax(dim=(0, *range(2, before.dim())))
            probed.weight[row, column] = kept
            assert torch.nonzero(moved > 1e-6).flatten().tolist() == [claimed_out[row, column]]
            alone = torch.zeros_like(probed.weight)
            alone[row, column] = 1.0
            held, probed.weight.data = probed.weight.data, alone
            matters = [c for c in range(sizes[0]) if probed(_only(given, c)).abs().max() > 0]
            probed.weight.data = held
            assert matters == [claimed_in[row, column]]


def _only(given: Tensor, channel: int) -> Tensor:
    chosen = torch.zeros_like(given)
    chosen[:, channel] = given[:, channel]
    return chosen


@pytest.mark.parametrize(
    "probed",
    [nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)],
)
def test_a_grouped_layer_has_as_many_channels_as_it_reads_and_writes(probed):
    wiring = trace(Between(probed, 4, 6), torch.zeros(1, 1, 4, 4))
    assert (layer(wiring, "layer").in_channels, layer(wiring, "layer").out_channels) == (4, 6)
    assert read_by(wiring, "layer") == feeds("first", 4)
    assert written_by(wiring, "layer") == own("layer", 6)


# ---- what cannot be followed, and what must be left alone ----


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bcyx,cd->bdyx", F.relu(self.first(x)), torch.eye(4))
        return self.head(F.relu(self.second(x)))


def test_an_untraceable_operation_is_named():
    wiring = trace(Untraceable(), torch.zeros(1, 1, 4, 4))
    assert wiring.untraced == ("einsum",)
    assert not layer(wiring, "second").reads.size
    assert not layer(wiring, "second").reads_input_only
    assert read_by(wiring, "head") == feeds("second", 4)  # what comes after is followed again


def test_attention_that_reads_units_is_named():
    class Attending(Tokens):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(F.relu(self.embed(x))))

    assert trace(Attending(), torch.zeros(1, 6, 5), channel_axis=-1).untraced == ("multi_head_attention_forward",)


def test_a_network_without_units_is_refused_with_the_operation_that_hid_them():
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.first(x)).cumsum(1))

    with pytest.raises(SynbbError, match=r"Hidden: no layer reads .*could not be followed: cumsum"):
        trace(Hidden(), torch.zeros(2, 3))
    with pytest.raises(SynbbError, match="Linear: no layer reads"):
        trace(nn.Linear(3, 1), torch.zeros(2, 3))


def test_tracing_leaves_statistics_modes_gradients_and_hooks_alone():
    net = Chain(4)
    net.train()
    net.norms[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    trace(net, torch.randn(2, 1, 8, 8))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_tracing_a_failing_network_leaves_modes_and_hooks_alone():
    net = Chain(4)
    with pytest.raises(RuntimeError):
        trace(net, torch.zeros(1, 2, 8, 8))
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
