"""Attention as most people write it: heads that are split off and merged, values that are followed, and what steers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_networks import Skip
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, Magnitude, Wiring, report, trace
from synbb.pruning.origins import Channels, Lost, Origin, Split
from synbb.pruning.structured import UnitBroadcast
from synbb.pruning.tracing import _Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from synbb.pruning.wiring import TracedLayer

WIDTH, HEADS = 12, 3
TOKENS = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Four linear layers; ``act`` makes units of the value's channels."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.act = act or nn.Identity()

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        return self.out(self.mixed(self.query(x), self.key(memory), self.act(self.value(memory))))

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (each.view(*each.shape[:2], HEADS, -1).transpose(1, 2) for each in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(q.shape[2], k.shape[2]).bool())
        return mixed.transpose(1, 2).reshape(*mixed.shape[::2], WIDTH)


class Unflattened(Attention):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (each.unflatten(-1, (HEADS, -1)).permute(0, 2, 1, 3).contiguous() for each in (q, k, v))
        scaled = F.dropout(torch.tanh(v) * 0.5, 0.1, self.training)
        return F.scaled_dot_product_attention(query=q, key=k, value=scaled).transpose(1, 2).flatten(2)


class Chunked(Attention):
    """q, k and v come from one layer, cut before heads are split off."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__(act)
        self.query = self.key = None
        self.value = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        return self.out(self.mixed(*self.act(self.value(x)).chunk(3, -1)))


class Packed(Chunked):
    """q, k and v come from one layer, cut after heads are split off."""

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        q, k, v = self.act(self.value(x)).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class Unbound(Chunked):
    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        q, k, v = self.act(self.value(x)).reshape(*x.shape[:2], 3, HEADS, -1).unbind(2)
        attended = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v)))
        return self.out(attended.movedim(1, 2).flatten(-2))


class Written(Attention):
    """By hand, as in nanoGPT: causal, with dropout of the weights."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (each.view(*each.shape[:2], HEADS, -1).transpose(1, 2) for each in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / np.sqrt(k.shape[-1]))
        scores = scores.masked_fill(torch.ones(q.shape[2], k.shape[2]).tril() == 0, float("-inf"))
        mixed = F.dropout(F.softmax(scores, dim=-1), 0.1, self.training) @ v
        return mixed.transpose(1, 2).contiguous().view(*q.shape[::2], WIDTH)


class Batched(Attention):
    """By hand, heads beside samples, with ``bmm``."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        apart = [each.unflatten(2, (HEADS, -1)).permute(0, 2, 1, 3).flatten(0, 1) for each in (q, k, v)]
        weights = torch.bmm(apart[0], apart[1].mT).softmax(-1)
        return torch.bmm(weights, apart[2]).unflatten(0, (-1, HEADS)).transpose(1, 2).flatten(2)


class Single(Attention):
    """One head: nothing is split."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.matmul((q @ k.transpose(1, 2)).softmax(-1), v)


class Grouped(Attention):
    """Each head of key and value serves three of the query."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__(act)
        self.key, self.value = nn.Linear(WIDTH, WIDTH // HEADS * 2), nn.Linear(WIDTH, WIDTH // HEADS * 2)
        self.query, self.out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (each.unflatten(2, (-1, WIDTH // HEADS)).transpose(1, 2) for each in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)


class Repeated(Grouped):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (each.unflatten(2, (-1, WIDTH // HEADS)).transpose(1, 2) for each in (q, k, v))
        k, v = k.repeat_interleave(3, dim=1), v[:, :, None].expand(-1, -1, 3, -1, -1).flatten(1, 2)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


FORMS = [Attention, Unflattened, Chunked, Packed, Unbound, Written, Batched, Single, Grouped, Repeated]


class Block(nn.Module):
    """A pre-norm layer of a transformer encoder."""

    def __init__(self, attention: nn.Module, act: nn.Module | None = None) -> None:
        super().__init__()
        self.attention = attention
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.up, self.act, self.down = nn.Linear(WIDTH, 20), act or nn.GELU(), nn.Linear(20, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.down(self.act(self.up(self.norms[1](x))))


def encoder(*blocks: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4))


def traced(net: nn.Module, **options: Any) -> Wiring:
    return trace(net, TOKENS, channel_axis=-1, **options)


def layer(wiring: Wiring, name: str) -> TracedLayer:
    return next(each for each in wiring.layers if each.name == name)


def heads(wiring: Wiring) -> list[str]:
    return [each.name for each in wiring.layers if each.writes_output]


def moved_at(net: nn.Module, reader: nn.Module, weights: nn.Linear, row: int) -> set[int]:
    """Input channels of ``reader`` that move with a weight in ``row``."""
    seen: list[Tensor] = []
    handle = reader.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        net.double().eval()(TOKENS.double())
        weights.weight[row, 0] += 0.5
        net(TOKENS.double())
        weights.weight[row, 0] -= 0.5
    handle.remove()
    return set(torch.nonzero((seen[1] - seen[0]).abs().amax((0, 1)) > 1e-9).flatten().tolist())


# ---- values are followed ----


@pytest.mark.parametrize("form", FORMS)
def test_values_are_the_channels_that_moving_them_moves(form: type[Attention]):
    net = encoder(Block(form()))
    wiring = traced(net, per_consumer=["*.out"])
    attention = net[1].attention
    unit = next(group for group in wiring.groups if group.name.endswith("out input")).first
    claimed: dict[int, set[int]] = {}
    for row, written in layer(wiring, "1.attention.value").writes.T.tolist():
        claimed.setdefault(row, set()).add(written - unit)
    rows = attention.value.out_features
    values = range(rows - rows // 3 if isinstance(attention, Chunked) else 0, rows)  # of a packed layer the last third
    assert sorted(claimed) == list(values)
    for row in values:
        assert moved_at(net, attention.out, attention.value, row) == claimed[row]
    steering = [(attention.value, 1)] if isinstance(attention, Chunked) else [(attention.query, 1), (attention.key, 1)]
    for weights, row in steering:
        assert len(moved_at(net, attention.out, weights, row)) > 1  # it moves what has other origins: it steers
    assert wiring.untraced == ()
    for each in wiring.layers:
        if each.name.endswith(("query", "key")):
            assert not each.writes.size


@pytest.mark.parametrize("form", FORMS)
def test_units_among_the_values_are_read_where_moving_them_shows(form: type[Attention]):
    net = encoder(Block(form(nn.ReLU())))
    wiring = traced(net)
    attention = net[1].attention
    group = next(each for each in wiring.groups if each.name == "1.attention.value")
    assert group.observer.module == "1.attention.act"
    claimed: dict[int, set[int]] = {}
    for channel, unit in layer(wiring, "1.attention.out").reads.T.tolist():
        claimed.setdefault(unit - group.first, set()).add(channel)
    first = group.size - group.size // 3 if isinstance(attention, Chunked) else 0
    assert sorted(claimed) == list(range(first, group.size))
    for unit, channels in claimed.items():
        moved = moved_at(net, attention.out, attention.value, unit)
        assert moved == channels or not moved  # a unit that is off at every position moves nothing


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("blocks", [1, 2])
def test_layers_of_an_encoder_are_neither_heads_nor_first(form: type[Attention], blocks: int):
    net = encoder(*(Block(form()) for _ in range(blocks)))
    wiring = traced(net)
    assert heads(wiring) == [f"{blocks + 2}"]
    assert [each.name for each in wiring.layers if each.reads_input_only] == ["0"]
    # The stream itself leaves the network.
    wiring = traced(net[: blocks + 1])
    assert heads(wiring) == []
    # Query, key and value of the first block read the network's input, nothing behind them does.
    wiring = traced(net[1 : blocks + 1])
    assert heads(wiring) == []
    first = {each.name for each in wiring.layers if each.reads_input_only}
    assert first == {each.name for each in wiring.layers if each.name.startswith("1.attention.")} - {"1.attention.out"}


def test_projections_of_attention_are_masked_by_default_and_ranked_by_norm():
    net = encoder(Block(Written()))
    pruner = Magnitude(0.5, warmup=1, ramp=1)
    pruner.attach(net, TOKENS, optimizer=torch.optim.SGD(net.parameters(), 0.1), channel_axis=-1)
    assert set(pruner.masks) == {f"1.attention.{each}" for each in ("query", "key", "value", "out")} | {
        "1.up",
        "1.down",
    }


class Translator(nn.Module):
    """An encoder of frames and a decoder of tokens that reads its memory."""

    def __init__(self, form: type[Attention] = Attention) -> None:
        super().__init__()
        self.frames = nn.Linear(WIDTH, WIDTH)
        self.encoder = Block(form(), nn.ReLU())
        self.words = nn.Embedding(7, WIDTH)
        self.decoder = nn.ModuleDict({"itself": form(), "memory": form(), "feed": Block(nn.Identity(), nn.ReLU())})
        self.head = nn.Linear(WIDTH, 7)

    def forward(self, frames: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.encoder(self.frames(frames))
        stream = self.words(words)
        stream = stream + self.decoder["itself"](stream)
        stream = stream + self.decoder["memory"](stream, memory)
        return self.head(self.decoder["feed"](stream)), memory


WORDS = torch.tensor([[1, 2, 3], [4, 5, 0]])


@pytest.mark.parametrize("form", [Attention, Written])
def test_attention_to_an_encoder(form: type[Attention]):
    torch.manual_seed(0)
    net = Translator(form)
    wiring = trace(net, (TOKENS, WORDS), channel_axis=-1, per_consumer=["decoder.memory.out"])
    assert heads(wiring) == ["head"]  # the memory that is returned as well is a stream
    assert [each.name for each in wiring.layers if each.reads_input_only] == ["frames"]
    unit = next(group for group in wiring.groups if not group.gated)
    assert unit.observer.module == "decoder.memory.out"
    pairs = layer(wiring, "decoder.memory.value").writes.T.tolist()
    assert pairs == [[channel, unit.first + channel] for channel in range(WIDTH)]
    assert layer(wiring, "decoder.memory.value").positions == 5  # frames
    assert layer(wiring, "decoder.memory.query").positions == 3  # tokens


def test_layers_that_steer_are_no_heads_where_attention_maps_are_returned_too():
    class Shown(Attention):
        def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
            weights = (self.query(x) @ self.key(x).mT).softmax(-1)
            return x + self.out(weights @ torch.relu(self.value(x))), weights

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention, self.head = nn.Linear(WIDTH, WIDTH), Shown(), nn.Linear(WIDTH, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x, weights = self.attention(self.embed(x))
            return self.head(x), weights

    assert heads(traced(Network())) == ["head"]


def test_layers_whose_outputs_are_compared_are_heads():
    """Dot products that leave the network, as of images and texts, mix no value: what makes them are heads."""

    class Compared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.other = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.body(x))
            return self.one(x) @ self.other(x).mT

    assert heads(traced(Compared())) == ["one", "other"]


# ---- what attention hides stays an error ----


class Before(nn.Module):
    """``behind`` is done to units, and a layer reads what comes of it."""

    def __init__(self, behind: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(width, 5)
        self.head, self.behind = nn.Linear(5, 2), behind

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(self.behind(torch.relu(self.first(x))))))


HIDING = [
    (lambda h: h.mT @ h, WIDTH, "matmul"),  # products of channels
    (lambda h: (h.mT @ h).flatten(1), WIDTH * WIDTH, "matmul"),
    (lambda h: (h.mT[..., None] @ h.mT[..., None].mT).flatten(2).mT, WIDTH, "matmul"),  # products of units
    (lambda h: ((h.mT @ h).softmax(-1) @ h.mT).mT, WIDTH, "matmul"),  # attention between channels
    (lambda h: F.scaled_dot_product_attention(h.mT, h.mT, h.mT).mT, WIDTH, "scaled_dot_product_attention"),
    (lambda h: F.relu(h.unflatten(2, (3, 4)).transpose(1, 2)).transpose(1, 2).flatten(2), WIDTH, "relu of split"),
    (lambda h: h.unflatten(2, (3, 4)).sort(1)[0].flatten(2), WIDTH, "sort"),
    (lambda h: h.unflatten(2, (3, 4)) + h.unflatten(2, (3, 4)).flip(3), 4, "__add__|add"),
    (lambda h: h.unflatten(2, (3, 4)) * h.unflatten(2, (3, 4)).flip(3), 4, "__mul__|mul"),
    (lambda h: h.unflatten(2, (3, 4)), 4, "linear"),  # one layer for all heads
    (lambda h: h[:, :, torch.arange(WIDTH).flip(0)], WIDTH, "__getitem__"),  # values of an index decide
]


@pytest.mark.parametrize(("behind", "width", "operation"), HIDING)
def test_what_mixes_channels_is_an_error_that_names_it(behind: Any, width: int, operation: str):
    with pytest.raises(SynbbError, match=rf"layer 'second' reads units through .*({operation})"):
        traced(Before(behind, width))


MIXING = [
    lambda h: torch.eye(5) @ h,  # positions, by weights that depend on no input
    lambda h: (h @ h.mT) @ h,  # units that steer
    lambda h: F.scaled_dot_product_attention(h, h, h),
    lambda h: (
        h.unflatten(2, (3, 4)).mul(torch.arange(1.0, 4.0)[:, None]).masked_fill(h[..., :1, None] > 9, 0).flatten(2)
    ),
    lambda h: (h.unflatten(2, (3, 4)) * h.mean(1)[:, None, :1, None] + 1).to(h).flatten(2),
    lambda h: h.flatten(1).unflatten(1, (5, WIDTH)),
]


@pytest.mark.parametrize("behind", MIXING)
def test_mixed_positions_and_scales_keep_channels_apart(behind: Any):
    wiring = traced(Before(behind, WIDTH))
    assert layer(wiring, "second").reads.T.tolist() == [[channel, channel] for channel in range(WIDTH)]


def test_positions_that_become_channels_repeat_units():
    wiring = traced(Before(lambda h: h.flatten(1), 5 * WIDTH))
    assert layer(wiring, "second").reads.T.tolist() == [[channel, channel % WIDTH] for channel in range(5 * WIDTH)]


@pytest.mark.parametrize(
    ("behind", "width", "seen"),
    [
        (lambda h: h.unflatten(2, (3, 4)).transpose(1, 2).transpose(1, 2).flatten(2), WIDTH, True),
        (lambda h: h.unflatten(2, (3, 4)).narrow(1, 0, 2).flatten(2), WIDTH, False),  # some of the positions
        (lambda h: h.flatten(1), 5 * WIDTH, False),  # the first of them stands alone where a group would be looked for
    ],
)
def test_units_are_seen_behind_heads_where_all_their_values_stand(behind: Any, width: int, seen: bool):
    group = traced(Before(behind, width)).groups[0]
    assert (group.observer is not None) == seen


def test_features_of_an_embedding_are_split_and_merged():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.second, self.head = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.words(x).unflatten(2, (3, 4)).transpose(1, 2)
            x = torch.relu(F.scaled_dot_product_attention(x, x, x).transpose(1, 2).flatten(2))
            return self.head(torch.relu(self.second(x)))

    wiring = trace(Words(), WORDS)
    assert layer(wiring, "second").reads.T.tolist() == [[channel, channel] for channel in range(WIDTH)]


def test_of_a_value_that_is_lost_attention_passes_on_what_is_known_of_the_value_alone():
    def attended(one: Tensor, other: Tensor) -> Tensor:
        units = torch.relu(other)
        return F.scaled_dot_product_attention(units, units, one.cumsum(2))

    wiring = traced(Reading(attended))  # the reader reads no units
    assert not layer(wiring, "reader").reads.size
    assert heads(wiring) == ["head"]


def test_outputs_in_several_groups_come_from_a_head():
    class Grouping(Before):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).unflatten(2, (2, 3))

    net = Grouping(nn.Identity(), WIDTH)
    net.head = nn.Linear(5, 6)
    assert heads(traced(net)) == ["head"]


# ---- any change of layout ----


@st.composite
def changes(draw: st.DrawFn, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Some change of layout of tensors of ``shape``."""
    rank, axis = len(shape), draw(st.integers(0, len(shape) - 1))
    size, after = shape[axis], min(axis + 1, rank - 1)
    divisors = [each for each in range(1, size + 1) if size % each == 0]
    by, other = draw(st.sampled_from(divisors[1:-1] or divisors)), draw(st.integers(0, rank - 1))
    start, order = draw(st.integers(0, size // 2 - 1 if size > 1 else 0)), draw(st.permutations(range(rank)))
    rarely = [
        lambda y: y.contiguous(),
        lambda y: y.narrow(axis, start, size - start),
        lambda y: y.chunk(by, axis)[-1],
        lambda y: y.flip(axis),
        lambda y: y.roll(1, axis),
        lambda y: y.unsqueeze(axis),
        lambda y: y.repeat_interleave(2, dim=axis) if y.numel() < 300 else y,
        lambda y: y.select(axis, start) if rank > 2 else y,
        lambda y: y.unbind(axis)[start] if rank > 2 else y,
        lambda y: y[(slice(None),) * axis + (slice(start, None),)],
    ]
    often = [
        lambda y: y.unflatten(axis, (by, -1)),
        lambda y: y.reshape(*shape[:axis], by, size // by, *shape[axis + 1 :]),
        lambda y: y.flatten(axis, after),
        lambda y: y.reshape(*shape[:axis], -1, *shape[after + 1 :]),
        lambda y: y.transpose(axis, other),
        lambda y: y.permute(order),
    ]
    return draw(st.sampled_from(often) | st.sampled_from(rarely))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_channels_stand_where_their_numbers_go(data: st.DataObject):
    """Origins are those found by pushing the numbers of the channels through the same operations."""
    shape = data.draw(st.sampled_from([(2, 3, 12), (2, 12, 3), (12, 2), (2, 3, 2, 4), (1, 8, 5)]))
    axis = data.draw(st.integers(0, len(shape) - 1))
    count = shape[axis]
    numbers = torch.arange(count).reshape([-1 if each == axis else 1 for each in range(len(shape))]).expand(shape)
    value = torch.zeros(shape)
    tracer = _Trace(nn.Identity(), 1, ())
    tracer.annotate(value, Channels(axis, tuple(frozenset({Origin("input", 0, i)}) for i in range(count))))
    fewest = count
    for _ in range(data.draw(st.integers(1, 8))):
        change = data.draw(changes(tuple(value.shape)))
        with tracer:
            value = change(value)
        numbers = change(numbers)
        fewest = min(fewest, len(numbers.unique()))
    known = tracer.known(value)
    if isinstance(known, Lost):
        assert fewest == 1  # one channel may stand on any axis
        return
    varies = [a for a in range(numbers.dim()) if not (numbers == numbers.narrow(a, 0, 1)).all()]
    assert isinstance(known, Split if len(varies) > 1 else Channels) or fewest == 1
    places = known.numbers if isinstance(known, Split) else torch.arange(len(known.origins))
    if isinstance(known, Channels):
        assert known.axis in varies or fewest == 1
        assert len(known.origins) == value.shape[known.axis]
        places = places.reshape([-1 if a == known.axis else 1 for a in range(value.dim())])
    assert [known.origins[place] for place in places.expand(value.shape).flatten().tolist()] == [
        frozenset({Origin("input", 0, number)}) for number in numbers.flatten().tolist()
    ]


# ---- the fan-in of units that a config names ----


class Reading(nn.Module):
    """``what`` is made of two projections of units, and ``reader`` reads it."""

    def __init__(self, what: Callable[[Tensor, Tensor], Tensor], width: int = WIDTH) -> None:
        super().__init__()
        self.body, self.one, self.other = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.reader, self.head, self.what = nn.Linear(width, 6), nn.Linear(6, 2), what

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x))
        return self.head(torch.relu(self.reader(self.what(self.one(x), self.other(x)))))


def fan_in(net: nn.Module) -> dict[str, list[tuple[int, int]]]:
    """Output channels that write into the input channels of ``reader``, by layer."""
    wiring = traced(net, per_consumer=["reader"])
    group = next(each for each in wiring.groups if each.name == "reader input")
    inside = range(group.first, group.first + group.size)
    found = {}
    for each in wiring.layers:
        pairs = [(row, unit - group.first) for row, unit in each.writes.T.tolist() if unit in inside]
        found |= {each.name: pairs} if pairs else {}
    assert layer(wiring, "reader").reads.T.tolist() == [[c, unit] for c, unit in enumerate(inside)]
    return found


SAME = [(channel, channel) for channel in range(WIDTH)]


@pytest.mark.parametrize(
    ("what", "width", "expected"),
    [
        (lambda one, _: one, WIDTH, {"one": SAME}),
        (lambda one, _: F.layer_norm(torch.tanh(one), [WIDTH]), WIDTH, {"one": SAME}),
        (
            lambda one, other: torch.cat([other[..., 3:], one[..., :1]], -1),
            WIDTH - 2,
            {"one": [(0, 9)], "other": [(channel, channel - 3) for channel in range(3, WIDTH)]},
        ),
        (
            lambda one, _: torch.cat([one, one], -1),
            2 * WIDTH,
            {"one": sorted(SAME + [(c, c + WIDTH) for c, _ in SAME])},
        ),
        # a sum of several layers is not the output of one; nor are units, or what cannot be followed
        (lambda one, other: one + other, WIDTH, {}),
        (lambda one, other: one + torch.relu(other), WIDTH, {}),
        (lambda one, other: torch.cat([one, torch.relu(other)], -1), 2 * WIDTH, {}),
        (lambda one, other: one + other.cumsum(1), WIDTH, {}),
        (lambda one, other: one.cumsum(1), WIDTH, {}),
        (lambda one, _: F.pad(one, (1, 1)), WIDTH + 2, {}),
    ],
)
def test_units_that_are_outputs_of_layers_have_these_for_their_fan_in(what: Any, width: int, expected: Any):
    assert fan_in(Reading(what, width)) == expected


def test_all_calls_of_a_layer_must_read_outputs_of_layers():
    class Twice(Reading):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.body(x))
            return self.head(torch.relu(self.reader(self.one(x)) + self.reader(self.what(x, self.other(x)))))

    assert fan_in(Twice(lambda _, other: other)) == {"one": SAME, "other": SAME}
    assert fan_in(Twice(lambda units, _: units)) == {}


def test_a_skip_of_units_beside_a_transposed_layer_keeps_units_without_fan_in():
    wiring = trace(Skip(), torch.zeros(1, 1, 8, 8), per_consumer=["up"])
    assert not layer(wiring, "back").writes.size


# ---- the rule on a whole transformer ----


def pruned(net: nn.Module, made: Any, statistic: str, **options: Any) -> Any:
    pruner = made(0.5, warmup=1, ramp=3, refresh=1, gate=0.0, count_every=1, statistic=statistic, **options)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    pruner.attach(net, TOKENS, optimizer=optimizer, channel_axis=-1)
    net.train()
    for step in range(6):
        given = torch.randn(4, 7, WIDTH, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(given).sub(given[..., :4].roll(1, 1)).square().mean().backward()
        optimizer.step()
        pruner.step()
    return pruner


@pytest.mark.parametrize("actuator", ["fan_out", "fan_in", "both", "matched"])
@pytest.mark.parametrize(("act", "statistic"), [(nn.ReLU, "sign"), (nn.GELU, "auto")])
def test_the_rule_acts_on_values_from_both_sides(actuator: str, act: type[nn.Module], statistic: str):
    net = encoder(*(Block(Attention(), act()) for _ in range(2)))
    pruner = pruned(
        net, BudgetedBroadcast, statistic, actuator=actuator, connection="weight", per_consumer=["*.out"], beta=1.0
    )
    assert pruner.final
    assert set(pruner.layer_densities().values()) == {0.5}
    assert not np.isnan(pruner.decided_rates).any()
    kept, units = pruner.kept(), pruner.wiring.unit_count
    for group in pruner.wiring.groups:
        if group.gated:
            continue
        own = slice(group.first, group.first + group.size)
        rates = pruner.decided_rates[own]
        # The law in both directions where the actuator works: the larger the ratio, the fewer connections.
        for way, degree in (("fan_out", pruner.table.fan_out), ("fan_in", pruner.table.fan_in)):
            live = degree(kept, units)[own]
            assert live.sum() == WIDTH * WIDTH / 2
            if actuator in (way, "matched"):
                assert np.corrcoef(rates, live)[0, 1] < -0.9
    told = {each.name: each for each in report(pruner, net).layers}
    assert told["1.attention.value"].units == WIDTH
    assert told["1.attention.query"].units == 0


def test_values_are_silenced_as_whole_units():
    """A silenced feature has neither a row in value nor a column in out: taking it out changes nothing else."""
    net = encoder(Block(Attention()))
    pruner = pruned(net, UnitBroadcast, "auto", per_consumer=["*.out"])
    value, out = pruner.masks["1.attention.value"].bool(), pruner.masks["1.attention.out"].bool()
    silent = ~value.any(1)
    assert 0 < silent.sum() < WIDTH
    assert torch.equal(silent, ~out.any(0))
