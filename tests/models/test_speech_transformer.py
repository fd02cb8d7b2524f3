"""The speech network: shapes, padding, causality, and what pruning sees of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.models.attention import Attention, distance_bias, sinusoids
from synbb.models.speech_transformer import build_speech_transformer, heard_positions, shorter, within
from synbb.pruning import BudgetedBroadcast, trace
from synbb.pruning.probe import probe


def small(decoder_layers=0, activation="relu", **more):
    torch.manual_seed(0)
    sizes = {"mels": 12, "tokens": 7, "width": 16, "layers": 2, "heads": 4, "hidden": 24, **more}
    return build_speech_transformer(decoder_layers=decoder_layers, activation=activation, **sizes)


def positions_of(frames):
    """Positions of the encoder for a number of frames."""
    return int(shorter(shorter(torch.tensor(frames))))


FRONTS = pytest.mark.parametrize("front", [{}, {"channels": None, "linear_bias": False}])
"""Convolutions over bands and time with biased attention, and what was there first."""


@FRONTS
@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 70), mels=st.integers(1, 13))
def test_positions_are_a_quarter_of_the_frames(front, frames, mels):
    net = small(mels=mels, **front).eval()
    ctc, lengths = net(torch.randn(1, mels, frames), torch.tensor([frames]))
    assert ctc.shape == (1, positions_of(frames), 7)
    assert lengths.tolist() == [positions_of(frames)]


@FRONTS
@pytest.mark.parametrize("decoder_layers", [0, 2])
def test_padding_changes_nothing(decoder_layers, front):
    net = small(decoder_layers, **front).eval()
    frames, tokens = torch.randn(1, 12, 41), torch.tensor([[6, 1, 2]])
    alone = net(frames, torch.tensor([41]), tokens if decoder_layers else None)
    padded = torch.zeros(2, 12, 63)
    padded[0, :, :41], padded[1] = frames, torch.randn(12, 63)
    more = torch.tensor([[6, 1, 2, 0], [6, 3, 3, 3]])
    both = net(padded, torch.tensor([41, 63]), more if decoder_layers else None)
    torch.testing.assert_close(both[0][:1, : alone[0].shape[1]], alone[0])
    assert both[1].tolist() == [11, 16]
    if decoder_layers:
        torch.testing.assert_close(both[2][:1, :3], alone[2])


def test_the_decoder_sees_no_later_token_and_all_of_the_audio():
    net = small(2).eval()
    frames, lengths = torch.randn(1, 12, 40), torch.tensor([40])
    tokens = torch.tensor([[6, 1, 2, 3]])
    before = net(frames, lengths, tokens)[2]
    changed = tokens.clone()
    changed[0, 2] = 5
    after = net(frames, lengths, changed)[2]
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2:], before[:, 2:])
    louder = frames.clone()
    louder[..., -8:] += 1
    assert not torch.allclose(net(louder, lengths, tokens)[2][:, 0], before[:, 0])


def test_attention_is_that_of_torch():
    torch.manual_seed(1)
    ours, theirs = Attention(16, 4, 0.0), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    inputs, memory = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    allowed = torch.arange(9) < torch.tensor([9, 6])[:, None]
    wanted, _ = theirs(inputs, memory, memory, key_padding_mask=~allowed)
    torch.testing.assert_close(ours(inputs, memory, allowed[:, None, None]), wanted)


def test_scores_lose_with_distance_what_press_et_al_say():
    bias = distance_bias(6, 8, torch.device("cpu"))
    assert bias.shape == (1, 8, 6, 6)
    for head, slope in enumerate([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]):
        assert bias[0, head, 0].tolist() == [-slope * far for far in range(6)]
        assert torch.equal(bias[0, head], bias[0, head].T)
        assert torch.equal(bias[0, head].diagonal(), torch.zeros(6))


def test_scores_are_added_and_what_is_at_minus_infinity_is_not_looked_at():
    torch.manual_seed(1)
    attention, inputs = Attention(16, 4, 0.0), torch.randn(2, 9, 16)
    seen = torch.arange(9) < torch.tensor([9, 6])[:, None, None, None]
    hidden = torch.zeros(1, 4, 9, 9).masked_fill(~seen, -torch.inf)
    torch.testing.assert_close(attention(inputs, inputs, hidden), attention(inputs, inputs, seen))
    steep = distance_bias(9, 4, torch.device("cpu")) * 1e4  # then each position sees itself alone
    torch.testing.assert_close(attention(inputs, inputs, steep), attention.out(attention.value(inputs)))
    low = attention.bfloat16()(inputs.bfloat16(), inputs.bfloat16(), hidden)
    torch.testing.assert_close(low.float(), attention.float()(inputs, inputs, seen), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("linear_bias", [True, False])
def test_a_network_whose_scores_are_biased_hears_what_is_near_louder(linear_bias):
    net = small(layers=1, linear_bias=linear_bias).eval()
    for layer in net.encoder.layers:
        for projection in (layer.attention.query, layer.attention.key):
            torch.nn.init.zeros_(projection.weight)  # all scores alike but for the bias
    frames, lengths = torch.randn(1, 12, 400), torch.tensor([400])
    changed = frames.clone()
    changed[..., :4] += 3
    moved = (net(changed, lengths)[0] - net(frames, lengths)[0])[0].abs().mean(1)
    near, far = moved[3:13].mean(), moved[-10:].mean()
    assert far > 0
    assert bool(near > 4 * far) == linear_bias


def test_positions_are_told_apart_and_turn_at_their_rates():
    table = sinusoids(500, 16, torch.device("cpu"))
    assert table.shape == (500, 16)
    assert torch.pdist(table).min() > 1e-3
    torch.testing.assert_close(table[:, 0], torch.arange(500).float().sin())
    torch.testing.assert_close(table[:, 4], (torch.arange(500) * 1e4 ** (-4 / 16)).sin())
    assert table[0].tolist() == [0.0, 1.0] * 8


@pytest.mark.parametrize("channels", [5, None])
@pytest.mark.parametrize(("activation", "decoder_layers"), [("relu", 0), ("gelu", 2)])
def test_units_are_those_of_convolutions_and_feed_forward_networks(activation, decoder_layers, channels):
    net = small(decoder_layers, activation, channels=channels)
    inputs = (torch.zeros(1, 12, 40), torch.tensor([40]), torch.zeros(1, 5, dtype=torch.long))
    wiring = trace(net, inputs if decoder_layers else inputs[:2])
    sizes = {group.name: group.size for group in wiring.groups}
    expanding = [f"encoder.layers.{n}.feed_forward.expand" for n in range(2)]
    expanding += [f"decoder.layers.{n}.feed_forward.expand" for n in range(decoder_layers)]
    front = {f"encoder.convolutions.{n}": channels or 16 for n in range(2)}
    assert sizes == {**front, **dict.fromkeys(expanding, 24)}
    assert not wiring.untraced
    heads = {layer.name for layer in wiring.layers if layer.writes_output}
    assert heads == {"ctc", *(["decoder.head"] if decoder_layers else [])}
    first = {layer.name for layer in wiring.layers if layer.reads_input_only}
    assert first == {"encoder.convolutions.0"}
    projection = next(layer for layer in wiring.layers if layer.name == "encoder.projection")
    units = next(group for group in wiring.groups if group.name == "encoder.convolutions.1")
    bands = 3 if channels else 1  # columns of a map: a quarter of the mels
    assert projection.reads.tolist() == [
        list(range(units.size * bands)),
        [units.first + column // bands for column in range(units.size * bands)],
    ]


@pytest.mark.parametrize("actuator", ["fan_in", "fan_out", "both"])
def test_budgeted_broadcast_prunes_it_whole(actuator):
    net = small(1, "gelu")
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    inputs = (torch.randn(2, 12, 40), torch.tensor([40, 33]), torch.randint(1, 6, (2, 5)))
    pruner = BudgetedBroadcast(
        0.25, actuator=actuator, connection="weight", refresh=1, statistic="auto", per_consumer=["*attention.out"]
    ).attach(net, inputs, optimizer=optimizer)
    masks = {"decoder*": torch.ones(2, 5, dtype=torch.bool)}
    masks |= heard_positions(torch.tensor([40, 33]), 12, 40, over_bands=True)
    for _ in range(4):
        with pruner.valid(masks):
            sum(each.square().mean() for each in net(*inputs) if each.is_floating_point()).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    assert pruner.density() == pytest.approx(0.25, abs=0.001)
    masked = {layer.name for layer in pruner.layers}
    assert {"encoder.layers.0.attention.value", "encoder.layers.0.attention.out", "encoder.projection"} <= masked
    assert {"decoder.layers.0.memory_attention.out", "decoder.layers.0.feed_forward.reduce"} <= masked


@pytest.mark.parametrize("channels", [3, None])
def test_on_rates_of_a_padded_batch_are_those_of_its_utterances(channels):
    net = small(1, "relu", channels=channels)
    lengths, words = torch.tensor([40, 33, 30, 1]), torch.tensor([5, 2, 4, 3])
    frames, tokens = torch.randn(4, 12, 40), torch.randint(1, 6, (4, 5))
    wiring = trace(net, (frames, lengths, tokens), per_consumer=["encoder.projection", "ctc"])
    masks = {"decoder*": within(words, 5), **heard_positions(lengths, 12, 40, over_bands=channels is not None)}
    frames = torch.where(within(lengths, 40)[:, None], frames, 0)
    together = probe(net, wiring, [(frames, lengths, tokens)], valid=[masks])
    alone = [
        (frames[row : row + 1, :, :length], lengths[row : row + 1], tokens[row : row + 1, :count])
        for row, (length, count) in enumerate(zip(lengths.tolist(), words.tolist(), strict=True))
    ]
    apart = probe(net, wiring, alone)
    np.testing.assert_allclose(together.on, apart.on)
    assert [each.positions for each in together.groups] == [each.positions for each in apart.groups]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"heads": 3}, "model.width 16 is no multiple of model.heads 3"),
        ({"activation": "selu"}, "model.activation 'selu': choose relu or gelu"),
        ({"tokens": 1}, "1 tokens"),
        ({"layers": 0}, "0 layers"),
        ({"channels": 0}, "0 channels"),
    ],
)
def test_numbers_that_make_no_network(wrong, said):
    with pytest.raises(SynbbError, match=said):
        small(**wrong)
