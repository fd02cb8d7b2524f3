"""Who feeds whom: traced through each shape of network, and checked against what perturbing a weight really moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import UNet, resnet18
from pruning_networks import Between, Chain, Residual, Skip, SumOfUnits, Tokens, train
from torch import Tensor, nn
from torch.optim import SGD

from synbb.errors import SynbbError
from synbb.models.unet import build_unet
from synbb.pruning import Magnitude, Wiring, trace
from synbb.pruning.wiring import Observer, TracedLayer

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


def test_an_untraceable_operation_is_an_error_that_names_the_layer_and_the_remedy():
    with pytest.raises(SynbbError, match=r"Untraceable: .*layer 'second' reads units through einsum") as caught:
        trace(Untraceable(), torch.zeros(1, 1, 4, 4))
    assert "per_consumer=['second']" in str(caught.value)


@pytest.mark.parametrize("pattern", ["second", "sec*"])
def test_a_layer_masked_per_consumer_reads_units_of_its_own(pattern):
    wiring = trace(Untraceable(), torch.zeros(1, 1, 4, 4), per_consumer=[pattern])
    assert wiring.untraced == ()
    assert read_by(wiring, "second") == feeds("second input", 4)
    assert read_by(wiring, "head") == feeds("second", 4)  # what comes after is followed as ever
    assert written_by(wiring, "second") == own("second", 4)
    group = next(each for each in wiring.groups if each.name == "second input")
    assert (group.activation, group.gated, group.norm) == ("input", False, None)
    assert group.observer == Observer("second", "input", 1, 0)
    assert all(each.gated for each in wiring.groups if each is not group)
    assert not any((each.writes[1] // 4 == group.first // 4).any() for each in wiring.layers)  # no fan-in


def test_all_layers_per_consumer():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    wiring = trace(net, torch.zeros(2, 7, 3), channel_axis=-1, per_consumer="*")
    assert [read_by(wiring, name) for name in "024"] == [
        feeds(f"{n} input", s) for n, s in zip("024", (3, 4, 5), strict=True)
    ]
    assert [group.observer.axis for group in wiring.groups if not group.gated] == [2, 2, 2]
    assert written_by(wiring, "2") == own("2", 5)


def test_channels_without_an_activation_are_units_where_the_config_names_their_reader():
    wiring = trace(Skip(), torch.zeros(1, 1, 8, 8), per_consumer=["up"])
    assert read_by(wiring, "up") == feeds("up input", 9)  # those of the transposed layer and those of the skip alike
    assert read_by(wiring, "deep") == feeds("down", 4)


def test_a_pattern_that_fits_no_layer_is_refused_with_the_layers_there_are():
    with pytest.raises(SynbbError, match=r"per_consumer: 'thrid' fits no layer; there are first, second, third, head"):
        trace(Chain(4), torch.zeros(1, 1, 8, 8), per_consumer=["second", "thrid"])


def test_a_layer_whose_module_is_not_called_cannot_be_masked_per_consumer():
    class Direct(Chain):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x))
            return self.head(F.relu(F.conv2d(x, self.second.weight, padding=1)))

    net = Direct(4)
    assert read_by(trace(net, torch.zeros(1, 1, 8, 8)), "second") == feeds("first", 4)
    with pytest.raises(SynbbError, match=r"per_consumer: 'second' is not called as a module"):
        trace(net, torch.zeros(1, 1, 8, 8), per_consumer=["second"])


class Chained(nn.Module):
    """Linear layers and ReLUs with something in between: ``before`` the activation of b, ``behind`` that of a."""

    def __init__(self, before: Any = None, behind: Any = None) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.before, self.behind = before or nn.Identity(), behind or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.behind(torch.relu(self.a(x)))
        x = torch.relu(self.before(self.b(x)))
        return self.d(torch.relu(self.c(x)))


class Do(nn.Module):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        return self.what(x)


def test_a_unit_whose_writers_cannot_be_followed_is_an_error():
    net = Chained(before=Do(lambda y: y + y.cumsum(1)))
    with pytest.raises(SynbbError, match=r"layer 'b' writes into units through cumsum.*per_consumer=\['b'\]"):
        trace(net, torch.zeros(2, 3))
    wiring = trace(net, torch.zeros(2, 3), per_consumer=["b"])
    assert read_by(wiring, "b") == feeds("b input", 4)
    assert read_by(wiring, "c") == feeds("b", 4)


def test_units_behind_what_cannot_be_followed_are_missed_by_their_reader():
    net = Chained(before=Do(lambda y: y.cumsum(1)))  # the activation's channels are unknown, so are its units
    with pytest.raises(SynbbError, match=r"layer 'c' reads units through cumsum.*per_consumer=\['c'\]"):
        trace(net, torch.zeros(2, 3))
    assert read_by(trace(net, torch.zeros(2, 3), per_consumer=["c"]), "c") == feeds("c input", 4)


def test_every_problem_is_named_at_once():
    net = Chained(before=Do(lambda y: y.cumsum(1)), behind=Do(lambda y: y.sort(1)[0]))
    with pytest.raises(SynbbError, match=r"'b' reads units through sort; layer 'c' .*cumsum.*\['b', 'c'\]"):
        trace(net, torch.zeros(2, 3))


@pytest.mark.filterwarnings("ignore")
def test_what_torch_does_not_show_is_an_error():
    scripted = torch.jit.script(nn.Hardtanh())
    with pytest.raises(SynbbError, match=r"layer 'b' reads units through an operation that torch does not show"):
        trace(Chained(behind=scripted), torch.zeros(2, 3))
    hidden = Do(lambda y: torch.mean(scripted(y.unsqueeze(1)), 1))  # and what is computed from it
    with pytest.raises(SynbbError, match=r"layer 'b' reads units through an operation that torch does not show"):
        trace(Chained(behind=hidden), torch.zeros(2, 3))


def test_values_that_depend_on_no_input_are_no_problem():
    class Queries(Chained):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.queries = nn.Embedding(7, 4), nn.Parameter(torch.zeros(5, 4))
            self.register_buffer("grid", torch.zeros(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            embedded = torch.relu(self.words(x))
            read = self.b(embedded) + self.c(self.queries + self.grid * torch.linspace(0, 1, 4))
            return self.d(torch.relu(read))

    wiring = trace(Queries(), torch.zeros(2, 5, dtype=torch.long))
    assert read_by(wiring, "b") == {c: [f"relu 0:{c}"] for c in range(4)}  # embeddings have features
    assert not layer(wiring, "c").reads.size
    assert not layer(wiring, "c").reads_input_only
    assert written_by(wiring, "c") == own("b", 4)


def test_a_head_behind_what_cannot_be_followed_is_no_error():
    class Pooled(Chained):
        def forward(self, x: Tensor) -> Tensor:
            return self.d(torch.relu(self.b(torch.relu(self.a(x)))).cumsum(1))

    wiring = trace(Pooled(), torch.zeros(2, 3))  # no mask touches a head unless it is named
    assert wiring.untraced == ("cumsum",)
    assert layer(wiring, "d").writes_output


def test_computed_weights_read_units_and_write_into_new_ones():
    net = Chained()
    torch.nn.utils.parametrizations.weight_norm(net.b)
    wiring = trace(net, torch.zeros(2, 3))
    assert wiring.untraced == ("linear with a computed weight",)
    assert [each.name for each in wiring.layers] == ["a", "c", "d"]
    assert read_by(wiring, "c") == {c: [f"relu 1:{c}"] for c in range(4)}


@pytest.mark.parametrize(
    "behind",
    [
        lambda y: torch.cat(y.chunk(2, 1), 1),
        lambda y: torch.stack([y.split([1, 3], 1)[1], y[:, 1:]]).sum(0).narrow(1, 0, 2),
        lambda y: y[:, None].expand(-1, 3, -1).unbind(1)[1],
        lambda y: y.unsqueeze(1).repeat(1, 2, 1).roll(1, 1).flip(1).select(1, 0),
        lambda y: y[..., None].movedim(2, 0).index_select(0, torch.tensor([0]))[0],
        lambda y: F.pad(y, (1, 2))[:, 1:5].abs().clamp(max=99.0),
        lambda y: y.unflatten(0, (1, -1)).flatten(0, 1),
        lambda y: torch.nan_to_num(y.type(torch.float64)).masked_fill(y > 9, 0.0).to(y),
    ],
)
def test_changes_of_layout_are_followed_as_values_are(behind):
    """The operation is checked against what it does to numbers that name their channel."""
    net = Chained(behind=Do(behind))
    said = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    width = behind(said).shape[1]
    net.b = nn.Linear(width, 4)
    found = read_by(trace(net, torch.zeros(1, 3)), "b")
    for channel in range(width):
        moved = [u for u in range(4) if behind(said + 0.1 * torch.eye(4)[u])[0, channel] != behind(said)[0, channel]]
        assert found.get(channel, []) == [f"a:{unit}" for unit in moved]


# ---- units, norms, heads, positions ----


@pytest.mark.parametrize(
    ("activation", "name", "gated"),
    [
        (nn.ReLU6(), "relu6", True),
        (Do(lambda y: y.clamp(min=0)), "relu", True),
        (Do(lambda y: y.clamp_min_(0)), "relu", True),
        (nn.GELU(), "gelu", True),
        (nn.Softplus(), "softplus", False),
    ],
)
def test_activations(activation, name, gated):
    wiring = trace(nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)), torch.zeros(2, 3))
    assert [(each.activation, each.gated) for each in wiring.groups] == [(name, gated)]
    assert read_by(wiring, "2") == feeds("0", 4)


@pytest.mark.parametrize(
    "clamp",
    [
        lambda y: y.clamp(0, 1),
        lambda y: y.clamp(None, 0),
        lambda y: y.clamp(max=0),
        lambda y: y.clamp(min=torch.zeros(4)),
    ],
)
def test_other_clamps_are_no_activations(clamp):
    net = Chained(before=Do(clamp))
    assert len(trace(net, torch.zeros(2, 3)).groups) == 3


def test_the_norm_in_front_of_an_activation_is_named():
    wiring = trace(Chain(4), torch.zeros(1, 1, 8, 8))
    assert [group.norm for group in wiring.groups] == ["norms.0", "norms.1", "norms.2"]
    assert [group.norm for group in trace(Chain(4, norm=False), torch.zeros(1, 1, 8, 8)).groups] == [None] * 3


@pytest.mark.parametrize(
    ("between", "named"),
    [
        (nn.Sequential(nn.GroupNorm(2, 4)), "layer.1.0"),
        (nn.InstanceNorm2d(4, affine=True), "layer.1"),
        (nn.InstanceNorm2d(4), None),  # no scale
        (nn.BatchNorm2d(4, affine=False), None),
        (nn.LayerNorm((4, 4, 4)), None),  # a scale for each channel and position
        (nn.LayerNorm(4), None),  # over the last axis, which is as long as there are channels
        (nn.Sequential(nn.BatchNorm2d(4), Do(lambda y: y + 1)), None),  # something in between
    ],
)
def test_only_a_norm_with_a_scale_and_bias_for_each_unit_counts(between, named):
    net = Between(nn.Identity(), 4, 4)
    net.layer = nn.Sequential(nn.Conv2d(4, 4, 1), between)
    net.first, net.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1)
    assert trace(net, torch.zeros(1, 1, 4, 4)).groups[1].norm == named


def test_layer_norm_over_features_counts():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    assert trace(net, torch.zeros(2, 5, 3), channel_axis=-1).groups[0].norm == "1"


def test_an_activation_of_units_has_no_norm():
    net = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.ELU(inplace=True), nn.Linear(4, 2)
    )
    assert [group.norm for group in trace(net, torch.zeros(2, 3)).groups] == ["1", None]


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_branches_of_a_stream_are_no_heads(norm_first, layers):
    stock = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(stock, layers, enable_nested_tensor=False)
    wiring = trace(encoder, torch.zeros(2, 6, 8), channel_axis=-1)
    assert len(wiring.layers) == 2 * layers
    assert not any(each.writes_output or each.reads_input_only for each in wiring.layers)
    assert wiring.untraced == ()


def test_heads_that_are_summed_or_read_by_a_later_head_are_heads():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.more = nn.Linear(3, 4), nn.Linear(4, 4)
            self.one, self.two, self.three = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x = torch.relu(self.more(torch.relu(self.body(x))))
            first = self.one(x)
            return first, self.two(x) + x[:, :2], self.three(first)

    wiring = trace(Heads(), torch.zeros(2, 3))
    assert [each.name for each in wiring.layers if each.writes_output] == ["one", "two", "three"]


POSITIONS = [
    # 8 x 8 inputs; a stride of 2 without padding leaves (8 - 3) // 2 + 1 = 3 x 3 outputs
    (nn.Conv2d(4, 6, 3, stride=2), 3 * 3, 9 * 4 * 6 * 9),
    (nn.Conv2d(4, 6, 3, padding=1), 8 * 8, 64 * 4 * 6 * 9),
    # in two groups each of 6 outputs reads 2 inputs
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), 8 * 8, 64 * 2 * 6 * 9),
    # each of 8 x 8 inputs is multiplied by each of 4 x 6 x 2 x 2 weights
    (nn.ConvTranspose2d(4, 6, 2, stride=2), 8 * 8, 64 * 4 * 6 * 4),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), 8 * 8, 64 * 4 * 3 * 9),
]


@pytest.mark.parametrize(("probed", "positions", "macs"), POSITIONS)
@pytest.mark.parametrize("batch", [1, 3])
def test_positions_and_multiply_accumulates_of_convolutions(probed, positions, macs, batch):
    found = layer(trace(Between(probed, 4, 6), torch.zeros(batch, 1, 8, 8)), "layer")
    assert (found.positions, found.macs) == (positions, macs)


def test_positions_of_linear_layers():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    wiring = trace(net, torch.zeros(2, 7, 3), channel_axis=-1)  # (batch, time, features)
    assert [(each.positions, each.macs) for each in wiring.layers] == [(7, 7 * 12), (7, 7 * 20)]
    assert [each.positions for each in trace(net, torch.zeros(5, 3)).layers] == [1, 1]


def test_positions_of_a_layer_called_twice_add_up():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.shared(F.relu(self.first(x))))
            return self.head(F.relu(self.shared(F.max_pool2d(x, 2))))

    found = layer(trace(Twice(), torch.zeros(2, 1, 8, 8)), "shared")
    assert (found.positions, found.macs) == (64 + 16, 80 * 16)


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
    for net in (nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))):
        with pytest.raises(SynbbError, match=f"{type(net).__name__}: found no activation .*nothing to prune"):
            trace(net, torch.zeros(2, 3))


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


def test_a_weight_that_a_transposed_layer_uses_too_is_told_of_and_not_mistaken() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.ConvTranspose2d(16, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 1)),
    )
    net[4].weight = net[2].weight
    wiring = trace(net, torch.zeros(1, 1, 9, 9))
    assert [layer.name for layer in wiring.layers] == ["0", "4", "6"]  # a shared weight goes by its last name
    assert wiring.untraced == ("conv_transpose2d with the weight of 4",)
    optimizer = SGD(net.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="read through conv_transpose2d with the weight of 4"):
        pruner = Magnitude(0.5, ramp=2, refresh=2).attach(net, torch.zeros(1, 1, 9, 9), optimizer=optimizer)
    train(net, pruner, optimizer, range(3), (2, 1, 9, 9))
    assert pruner.density() == 0.5
