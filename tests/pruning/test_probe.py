"""The probe on held-out data: exact rates, figures that can be worked out, bounded samples, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pruning_networks import Chain, FramesAndTokens, Residual, Tokens
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.pruning import trace
from synbb.pruning.balance import binary_entropy
from synbb.pruning.probe import mean_correlation, participation_ratio, probe


class Fixed(nn.Module):
    """Units whose values are linear in the input: a ReLU of chosen mixtures, before a head that reads them."""

    def __init__(self, mixture: list[list[float]], bias: list[float]) -> None:
        super().__init__()
        self.mix, self.head = nn.Conv1d(len(mixture[0]), len(mixture), 1), nn.Conv1d(len(mixture), 1, 1)
        with torch.no_grad():
            self.mix.weight.copy_(torch.tensor(mixture)[..., None])
            self.mix.bias.copy_(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.mix(x)))


@pytest.fixture
def chain() -> Chain:
    torch.manual_seed(0)
    return Chain(5).train()


def inputs(count: int = 4, size: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 1, size, size, generator=generator) for _ in range(count)]


def outputs(net: Chain, batches: list[Tensor]) -> list[np.ndarray]:
    """Activations of each group in evaluation mode, (positions, units)."""
    seen: list[list[Tensor]] = [[], [], []]
    handles = [
        act.register_forward_hook(lambda _, __, out, at=at: seen[at].append(out)) for at, act in enumerate(net.acts)
    ]
    modes = [module.training for module in net.modules()]
    with torch.no_grad():
        net.eval()
        for batch in batches:
            net(batch)
    for handle in handles:
        handle.remove()
    for module, mode in zip(net.modules(), modes, strict=True):
        module.training = mode
    return [torch.cat([each.movedim(1, -1).flatten(0, -2) for each in group]).double().numpy() for group in seen]


def test_rates_and_entropy_are_exact(chain) -> None:
    found = probe(chain, trace(chain, inputs()[0]), inputs(), positions=100)
    expected = [(h > 0).mean(0) for h in outputs(chain, inputs())]
    assert found.on == pytest.approx(np.concatenate(expected), abs=1e-15)
    assert found.rates.tolist() == found.on.tolist()
    assert found.entropy == pytest.approx(binary_entropy(np.concatenate(expected)).mean())
    assert [group.entropy for group in found.groups] == pytest.approx([binary_entropy(a).mean() for a in expected])
    assert [group.positions for group in found.groups] == [2 * 4 * 144] * 3
    assert found.inputs == 8
    assert found.on.std() > 0.05


def test_with_room_for_all_positions_the_figures_are_those_of_all(chain) -> None:
    found = probe(chain, trace(chain, inputs()[0]), inputs(), positions=10_000)
    for group, h in zip(found.groups, outputs(chain, inputs()), strict=True):
        on = (h > 0).astype(float)
        varies = on.std(0) > 0
        matrix = np.corrcoef(on[:, varies], rowvar=False)
        assert group.correlation == pytest.approx(np.abs(matrix[~np.eye(len(matrix), dtype=bool)]).mean())
        assert group.constant == 1 - varies.mean()
        eigenvalues = np.linalg.eigvalsh(np.cov(h, rowvar=False))
        assert group.participation == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum() / 5)


def test_a_sample_is_close_to_all_and_a_function_of_its_seed(chain) -> None:
    wiring, batches = trace(chain, inputs()[0]), inputs(6, 24)
    whole = probe(chain, wiring, batches, positions=100_000)
    one, again = (probe(chain, wiring, batches, positions=1500) for _ in range(2))
    other = probe(chain, wiring, batches, positions=1500, seed=1)
    assert one.groups == again.groups
    assert one.correlation != other.correlation
    for each in (one, other):
        assert each.on.tolist() == whole.on.tolist()
        assert each.correlation == pytest.approx(whole.correlation, abs=0.02)
        assert each.participation == pytest.approx(whole.participation, abs=0.02)


def test_the_sample_is_uniform_over_batches_and_positions() -> None:
    """Unit 0 carries the number of its position: which were drawn can be read off."""
    net = Fixed([[1.0]], [0.0])
    values = torch.arange(1, 4001, dtype=torch.float32).reshape(4, 10, 1, 100)
    drawn = []
    for seed in range(40):
        taken: list[np.ndarray] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("synbb.pruning.probe.participation_ratio", lambda v, taken=taken: taken.append(v) or 0.0)
            probe(net, trace(net, values[0]), iter(values), positions=50, seed=seed)
        assert taken[0].shape == (50, 1)
        assert len(np.unique(taken[0])) == 50
        drawn.append(taken[0].ravel())
    counts, _ = np.histogram(np.concatenate(drawn), bins=8, range=(0.5, 4000.5))
    # 2000 draws over 8 bins: 250 each, SD below 15.
    assert np.abs(counts - 250).max() < 60


def test_equal_inputs_are_sampled_at_equal_positions(chain) -> None:
    """A pruned copy whose units are twice as large has the same correlations and participation."""
    wiring = trace(chain, inputs()[0])
    before = probe(chain, wiring, inputs(), positions=64)
    with torch.no_grad():
        for norm in chain.norms[2:]:
            norm.weight *= 2
            norm.bias *= 2
    after = probe(chain, wiring, inputs(), positions=64)
    assert after.groups[2].correlation == before.groups[2].correlation
    assert after.groups[2].participation == pytest.approx(before.groups[2].participation)


def test_copies_opposites_and_constants() -> None:
    """Units: x, 2x, -x (opposite sign), always on, never on, and an independent y."""
    net = Fixed([[1, 0], [2, 0], [-1, 0], [0, 0], [0, 0], [0, 1]], [0, 0, 0, 3.0, -3.0, 0])
    batches = [torch.randn(4, 2, 5000, generator=torch.Generator().manual_seed(0))]
    found = probe(net, trace(net, batches[0]), batches, positions=20_000)
    # Of the units that vary, x, 2x and -x correlate by ±1: 3 of the 6 pairs among x, 2x, -x, y.
    assert found.correlation == pytest.approx(0.5, abs=0.02)
    assert found.constant == pytest.approx(2 / 6)
    assert found.on[3:5].tolist() == [1.0, 0.0]
    assert found.entropy == pytest.approx(4 / 6, abs=0.001)


def test_participation_counts_the_directions_that_vary() -> None:
    generator = np.random.default_rng(0)
    independent = generator.normal(size=(200_000, 4))
    assert participation_ratio(independent) == pytest.approx(1.0, abs=0.001)
    assert participation_ratio(independent[:, :1] * np.array([[1.0, 3.0, -2.0, 1.0]]) + 5) == pytest.approx(0.25)
    # Variances 1, 1, 0, 0: two directions of four; 4 and 1: 25 / 17 of two.
    assert participation_ratio(independent * [1, 1, 0, 0]) == pytest.approx(0.5, abs=0.001)
    assert participation_ratio(independent[:, :2] * [2, 1]) == pytest.approx(25 / 17 / 2, abs=0.002)
    assert participation_ratio(np.ones((10, 3))) == 0.0
    assert np.isnan(mean_correlation(np.ones((10, 1), dtype=bool)))


def test_positions_outside_the_valid_mask_are_neither_counted_nor_drawn(chain) -> None:
    batches = inputs(1, 16)
    mask = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    mask[:, :, :6] = True
    found = probe(chain, trace(chain, batches[0]), batches, valid=[mask], positions=10_000)
    whole = outputs(chain, batches)
    for group, h in zip(found.groups, whole, strict=True):
        inside = h[mask.movedim(1, -1).flatten().numpy()]
        assert group.positions == len(inside) == 192
        assert group.participation == pytest.approx(participation_ratio(inside))
    assert found.on[:5] == pytest.approx((whole[0][mask.flatten().numpy()] > 0).mean(0))
    free = probe(chain, trace(chain, batches[0]), batches, valid=[None], positions=10_000)
    assert free.groups == probe(chain, trace(chain, batches[0]), batches, positions=10_000).groups
    with pytest.raises(SynbbError, match="valid mask of shape"):
        probe(chain, trace(chain, batches[0]), batches, valid=[mask[:1]])
    with pytest.raises(SynbbError, match="0 positions say nothing"):
        probe(chain, trace(chain, batches[0]), batches, positions=0)
    with pytest.raises(SynbbError, match="batch 1 has no valid mask"):
        probe(chain, trace(chain, batches[0]), [*batches, *batches], valid=[mask])


def test_several_inputs_and_masks_by_the_modules_at_which_units_are_seen() -> None:
    torch.manual_seed(0)
    net = FramesAndTokens().eval()
    batches = [(torch.randn(2, 7, 3), torch.randn(2, 3, 3)) for _ in range(2)]
    frames, tokens = torch.rand(2, 7) > 0.4, torch.rand(2, 3) > 0.4
    wiring = trace(net, batches[0], channel_axis=-1)
    found = probe(net, wiring, batches, valid=[{"decoder*": tokens, "*": frames}, {"encoder*": frames}])
    hidden = torch.cat([net.encoder[:2](given[0])[frames] for given in batches])
    heard = [given[1] + net.encoder(given[0]).mean(1, keepdim=True) for given in batches]
    words = torch.cat([net.decoder(heard[0])[tokens], net.decoder(heard[1]).flatten(0, 1)])
    assert found.inputs == 4
    assert [group.positions for group in found.groups] == [2 * int(frames.sum()), *[int(tokens.sum()) + 6] * 2]
    assert found.on[:4] == pytest.approx((hidden > 0).double().mean(0).numpy())
    assert found.on[9:] == pytest.approx((words > 0).double().mean(0).numpy())
    assert found.groups[2].participation == pytest.approx(participation_ratio(words.detach().double().numpy()))
    with pytest.raises(SynbbError, match="valid mask of type str is no tensor"):
        probe(net, wiring, batches, valid={"*": frames})  # one mapping for all batches: each batch has its own


def test_rates_by_another_statistic_beside_the_one_threshold(chain) -> None:
    wiring = trace(chain, inputs()[0])
    sign, ratio = (probe(chain, wiring, inputs(), statistic=each) for each in ("sign", "treves_rolls"))
    assert ratio.on.tolist() == sign.on.tolist()
    assert ratio.entropy == sign.entropy
    moments = [(np.abs(h).mean(0) ** 2, (h**2).mean(0)) for h in outputs(chain, inputs())]
    expected = np.concatenate([np.divide(a, b, out=np.zeros(5), where=b > 0) for a, b in moments])
    assert ratio.rates == pytest.approx(expected, rel=1e-5)
    with pytest.raises(SynbbError, match="statistic 'mean' is not one of"):
        probe(chain, wiring, inputs(), statistic="mean")


def test_one_shared_module_is_told_apart_by_call() -> None:
    torch.manual_seed(0)
    net, given = Residual().eval(), torch.randn(2, 1, 8, 8)
    seen: list[Tensor] = []
    handle = net.act.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    net(given)
    handle.remove()
    found = probe(net, trace(net, given), [given])
    assert found.on == pytest.approx(torch.cat([(h > 0).double().mean((0, 2, 3)) for h in seen]).numpy())


def test_tokens_with_units_on_the_last_axis() -> None:
    torch.manual_seed(0)
    net, given = Tokens(dropout=0.5).train(), torch.randn(3, 6, 5)
    wiring = trace(net, given, channel_axis=-1)
    one, again = probe(net, wiring, [given]), probe(net, wiring, [given])  # no dropout: evaluation mode
    assert one.on.tolist() == again.on.tolist()
    assert one.groups[0].positions == 18
    assert 0 < one.groups[0].participation <= 1


def test_modes_hooks_weights_and_random_state_are_left_alone(chain) -> None:
    wiring = trace(chain, inputs()[0])
    chain.norms[1].eval()
    modes = [module.training for module in chain.modules()]
    state = {name: tensor.clone() for name, tensor in chain.state_dict().items()}
    random = torch.get_rng_state()
    probe(chain, wiring, inputs())

    def broken():
        yield inputs()[0]
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        probe(chain, wiring, broken())
    assert [module.training for module in chain.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chain.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in chain.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled()


def test_without_inputs_nothing_is_known(chain) -> None:
    found = probe(chain, trace(chain, inputs()[0]), [])
    assert found.inputs == 0
    assert np.isnan(found.on).all()
    assert all(np.isnan(each) for each in (found.entropy, found.correlation, found.constant, found.participation))
