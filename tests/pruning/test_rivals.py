"""Each rival against scores worked by hand on a layer of 3 outputs and 4 inputs, and against what its source says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from synbb.errors import SynbbError
from synbb.pruning import (
    BudgetedBroadcast,
    Evidence,
    FixedMask,
    Magnitude,
    Pruner,
    RandomMask,
    Scored,
    Waypoints,
    controls,
    rivals,
)
from synbb.pruning.methods import CONNECTIONS, find_method

# Rows are outputs, columns inputs, as in nn.Linear.weight.
WEIGHTS = np.array([[0.9, 0.1, 0.5, 0.2], [0.3, 0.8, 0.4, 0.05], [0.6, 0.7, 0.15, 0.25]])
GRADIENTS = np.array([[0.1, 0.9, 0.2, 0.8], [0.7, 0.1, 0.1, 0.6], [0.2, 0.3, 0.5, 0.4]])
SALIENCY = np.array([[0.09, 0.3, 0.1, 0.2], [0.21, 0.08, 0.04, 0.03], [0.12, 0.25, 0.02, 0.01]])
INPUTS = np.array([1.0, 2.0, 4.0, 8.0])  # root mean square of each input
IN_RATES = np.array([0.9, 0.2, 0.6, 0.4])  # of the units that the layer reads
OUT_RATES = np.array([0.1, 0.5, 0.8])  # of those it writes


class Layer(nn.Module):
    """4 units → the 3 x 4 layer → 3 units → a head; only ``middle`` is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.first(x).relu()).relu())


def attached(kind: type[Pruner], density: float = 1 / 3, **options: Any) -> Pruner:
    torch.manual_seed(0)
    net = Layer()
    defaults: dict[str, Any] = {"warmup": 0, "ramp": 9, "refresh": 3}
    pruner = kind(density, **(defaults | options))
    pruner.attach(net, torch.zeros(2, 5), optimizer=SGD(net.parameters(), lr=0.1))
    assert list(pruner.masks) == ["middle"]
    return pruner


def evidence(pruner: Pruner, live: np.ndarray | None = None, step: int = 3) -> Evidence:
    rates = np.zeros(pruner.wiring.unit_count)
    rates[:4], rates[4:] = IN_RATES, OUT_RATES
    return Evidence(
        table=pruner.table,
        step=step,
        weights=WEIGHTS.ravel(),
        live=np.ones(12, dtype=bool) if live is None else live.ravel(),
        rates=rates,
        gradients=GRADIENTS.ravel(),
        saliency=SALIENCY.ravel(),
        inputs=np.tile(INPUTS, 3),
        seed=0,
    )


def chosen(pruner: Pruner, share: float = 1 / 3, **more: Any) -> list[list[int]]:
    return pruner.choose(share, evidence(pruner, **more)).reshape(3, 4).astype(int).tolist()


def test_magnitude_keeps_the_four_largest_weights():
    assert chosen(attached(Magnitude)) == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]


def test_snip_keeps_the_four_most_sensitive():
    assert chosen(attached(rivals.Snip)) == [[0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]


def test_taylor_keeps_the_four_most_salient_and_what_is_cut_stays_cut():
    pruner = attached(rivals.Taylor)
    assert chosen(pruner) == [[0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    live = np.ones((3, 4), dtype=bool)
    live[0, 1] = live[2, 1] = False
    assert chosen(pruner, live=live) == [[0, 0, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]


def test_wanda_compares_weight_times_input_within_each_output():
    # |w| x norm: [.9 .2 2. 1.6], [.3 1.6 1.6 .4], [.6 1.4 .6 2.]; one in four of each row, what is left over by index.
    assert chosen(attached(rivals.Wanda), share=0.25) == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert chosen(attached(rivals.Wanda), share=0.5) == [[0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 0, 1]]


def test_apoz_takes_from_units_seldom_on_and_activity_alone_from_busy_ones():
    # Inputs by on-rate: 1 (0.2), 3 (0.4), 2 (0.6), 0 (0.9). Four of twelve: one whole audience and the largest weight.
    assert chosen(attached(rivals.Apoz)) == [[1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert chosen(attached(rivals.ActivityOnly)) == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]]


def test_random_owes_nothing_to_the_evidence_and_is_nested():
    pruner = attached(RandomMask, seed=5)
    few, many = np.array(chosen(pruner, share=0.25)), np.array(chosen(pruner, share=0.5))
    order = np.argsort(-np.random.default_rng(5).random(12))
    assert set(np.flatnonzero(few)) == set(order[:3])
    assert (many >= few).all()
    assert many.sum() == 6


@pytest.mark.parametrize(("kind", "grown"), [(rivals.RigL, GRADIENTS), (rivals.Set, None)])
def test_dropping_the_weakest_and_growing_the_same_number(kind, grown):
    pruner = attached(kind, density=0.5, drop=0.5)
    live = np.zeros((3, 4), dtype=bool)
    live[0, 0] = live[0, 2] = live[1, 1] = live[1, 3] = live[2, 0] = live[2, 3] = True
    kept = np.array(chosen(pruner, share=0.5, live=live, step=0), dtype=bool)  # half of six
    assert kept.sum() == 6
    assert not kept[1, 3]  # 0.05, 0.25 and 0.5 are the weakest live ones
    assert not kept[2, 3]
    assert not kept[0, 2]
    new = kept & ~live
    assert new.sum() == 3
    if grown is not None:
        assert set(zip(*np.nonzero(new), strict=True)) == {(0, 1), (0, 3), (1, 0)}  # gradients 0.9, 0.8, 0.7
    # A cosine: the whole share at the start, half of it in the middle, nothing at the end.
    assert pruner.fraction(0) == 0.5
    assert pruner.fraction(9) == pytest.approx(0)
    assert pruner.fraction(4.5) == pytest.approx(0.25)


@pytest.mark.parametrize("kind", [rivals.Set, rivals.RigL])
@pytest.mark.parametrize(
    "options",
    [
        {"schedule": Waypoints(((0, 1.0), (6, 0.5), (12, 0.3)), 3)},
        {"schedule": Waypoints(((0, 0.2), (12, 0.3)), 3)},
        {"budget": "macs", "scope": "network", "ramp": 12, "refresh": 3},
        {"allocation": "loss", "ramp": 12, "refresh": 3},
    ],
)
def test_exchanging_connections_keeps_to_the_budget_whatever_it_is(kind, options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 8), nn.ReLU())
    net.append(nn.Linear(8, 3))
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = kind(0.3, **options).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    for step in range(1, 13):
        optimizer.zero_grad()
        net(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
        if pruner.step():
            assert pruner.density() == pytest.approx(pruner.schedule.target(step), abs=2 / pruner.table.count)
    assert pruner.final
    assert pruner.density() == pytest.approx(0.3, abs=2 / pruner.table.count)


@pytest.mark.parametrize("kind", [rivals.Set, rivals.RigL])
def test_exchanging_connections_keeps_the_pattern(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 3))
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = kind(0.5, pattern="2:4", ramp=12, refresh=3).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    for _ in range(12):
        optimizer.zero_grad()
        net(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
        before = pruner.masks["2"].clone()
        if pruner.step() and pruner.schedule.end > pruner.steps:
            assert (pruner.masks["2"] & ~before).any()
        assert int(pruner.masks["2"].view(20, 4, 4).sum(dim=2).max()) == 2


def test_within_a_pattern_connections_grow_in_every_place():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = rivals.Set(0.25, pattern="2:4", ramp=40, refresh=2).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    grown = torch.zeros(4, dtype=torch.long)
    for _ in range(40):
        before = pruner.masks["2"].clone()
        optimizer.zero_grad()
        net(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
        pruner.step()
        grown += (pruner.masks["2"] & ~before).view(-1, 4).sum(0)
    assert grown.min() > 0.7 * grown.max()


@pytest.mark.parametrize(
    ("kind", "training", "frozen", "message"),
    [
        (rivals.Wanda, False, False, "no input of masked layer '2' was seen in the last 4 steps: run the model"),
        (rivals.Taylor, True, True, "no gradient of a masked layer was seen in the last 4 steps: do these"),
    ],
)
def test_what_a_method_never_saw_is_an_error_and_no_choice_by_index(kind, training, frozen, message):
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 3))
    net[2].weight.requires_grad_(not frozen)
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = kind(0.5, ramp=4, refresh=2)
    if frozen:
        with pytest.warns(UserWarning, match=r"1 of 1 masked layers do not train \(2 \.\.\.\)"):
            pruner.attach(net, torch.zeros(1, 6), optimizer=optimizer)
    else:
        pruner.attach(net, torch.zeros(1, 6), optimizer=optimizer)
    net.train(training)

    def refreshes() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            net(torch.randn(16, 6)).square().mean().backward()
            optimizer.step()
            pruner.step()

    with pytest.raises(SynbbError, match=message):
        refreshes()


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_dynamic_sparse_training_exchanges_the_intended_number_and_never_leaves_its_density(method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    optimizer = SGD(net.parameters(), lr=0.1)
    kind, _ = find_method(method, units=False)
    pruner = kind(0.2, ramp=40, refresh=10, drop=0.3).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    assert pruner.kept().sum() == 320  # from before the first step
    for step in range(1, 61):
        before, live = pruner.kept(), net[2].weight.detach().clone()
        optimizer.zero_grad()
        net(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
        moved = net[2].weight.detach().clone()
        refreshed = pruner.step()
        exchanged = int((pruner.kept() & ~before).sum())
        expected = round(0.15 * (1 + np.cos(np.pi * step / 40)) * 320) if step % 10 == 0 and step <= 40 else 0
        assert exchanged == expected, step
        assert refreshed == (step % 10 == 0 and step <= 40)
        assert pruner.kept().sum() == 320
        grown = torch.from_numpy((pruner.kept() & ~before).reshape(40, 40))
        assert (net[2].weight[grown] == 0).all()  # grown connections begin at zero
        dropped = torch.from_numpy((~pruner.kept() & before).reshape(40, 40))
        stayed = torch.from_numpy((pruner.kept() & before).reshape(40, 40))
        if exchanged:
            assert moved[dropped].abs().max() <= moved[stayed].abs().min()
        assert live.shape == moved.shape


def test_rigl_grows_where_the_dense_gradient_is_largest():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    optimizer = SGD(net.parameters(), lr=0.05)
    pruner = rivals.RigL(0.3, ramp=20, refresh=5, drop=0.3, window=1)
    pruner.attach(net, torch.zeros(1, 6), optimizer=optimizer)
    for step in range(1, 6):
        x = torch.randn(16, 6)
        if step == 5:  # the step whose gradient counts: worked out on a copy without hooks
            copy = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
            copy.load_state_dict(net.state_dict())
            copy(x).square().sum().backward()
            dense = copy[2].weight.grad.abs().numpy().ravel()
        before = pruner.kept()
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
        pruner.step()
    new = pruner.kept() & ~before
    assert new.sum() > 5
    others = ~before & ~new
    assert dense[new].min() >= dense[others].max()


def test_snip_looks_once_at_the_first_gradient_of_the_initial_weights():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    optimizer = SGD(net.parameters(), lr=0.05)
    pruner = rivals.Snip(0.1, scope="network").attach(net, torch.zeros(1, 6), optimizer=optimizer)
    x = torch.randn(16, 6)
    initial = net[2].weight.detach().clone()
    net(x).square().sum().backward()
    expected = (initial * net[2].weight.grad).abs().detach().numpy().ravel()
    optimizer.step()
    assert pruner.step()
    assert pruner.final
    assert set(np.flatnonzero(pruner.kept())) == set(np.argsort(-expected)[:40])


def test_wanda_reads_the_inputs_of_training_passes():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = SGD(net.parameters(), lr=0.0)
    pruner = rivals.Wanda(0.5, warmup=1, ramp=0, window=1).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    x = torch.randn(64, 6)
    with torch.no_grad():
        norms = net[1](net[0](x)).square().mean(0).sqrt()
    net.eval()
    net(x * 100)  # no training pass
    net.train()
    net(x).sum().backward()
    optimizer.step()
    pruner.step()
    scores = net[2].weight.detach().abs() + pruner.state_dict()["latent"]["2"].abs()
    best = torch.argsort(scores * norms, dim=1, descending=True)[:, :4]
    for row, kept in zip(best, pruner.masks["2"], strict=True):
        assert set(row.tolist()) == set(torch.nonzero(kept).flatten().tolist())


# ---- controls ----


def degrees(kind: type[BudgetedBroadcast], **options: Any) -> list[int]:
    pruner = attached(kind, density=0.5, beta=4.0, gate=0.0, actuator="fan_out", **options)
    return pruner.choose(0.5, evidence(pruner)).reshape(3, 4).sum(0).tolist()


def test_the_law_and_its_controls_grant_these_audiences():
    # kappa = d0 + log((1-a)/a)/4 for a = .9 .2 .6 .4 is d0 + (-.549, .347, -.101, .101); of three consumers each, six
    # in all: d0 = 0.551 gives .005 2.69 1.35 1.96, so 0 (minimum 1) 3 1 2 with d0 lowered for the minimum.
    assert degrees(BudgetedBroadcast) == [1, 2, 1, 2]
    assert degrees(BudgetedBroadcast, minimum=0) == [0, 3, 1, 2]
    assert degrees(controls.InvertedRates, minimum=0) == [3, 0, 2, 1]
    assert degrees(controls.UniformDegrees) == [2, 2, 1, 1]  # 1.5 each, ties by index
    # Above 0.7 few (0.9), below 0.3 many (0.2): d0 + (-1, 1, 0, 0)/4 of three.
    assert degrees(controls.TwoThresholds, minimum=0) == [1, 2, 2, 1]


@pytest.mark.parametrize("control", [controls.UniformDegrees, controls.InvertedRates, controls.TwoThresholds])
def test_controls_of_log_odds_refuse_local_budgets_which_do_not_look_at_them(control):
    with pytest.raises(SynbbError, match=rf"'{control.method}' contradicts act 'over_budget'.* 'permuted'"):
        control(0.25, act="over_budget")
    with pytest.raises(SynbbError, match=rf"'{control.method}' contradicts tau 0.2"):
        control(tau=0.2)


def test_controls_of_on_rates_change_local_budgets():
    own, others = (degrees(kind, act="over_budget", seed=2) for kind in (BudgetedBroadcast, controls.PermutedRates))
    assert own != others


def test_permuted_rates_are_those_of_other_units_of_the_same_group():
    pruner = attached(controls.PermutedRates, density=0.5, gate=0.0, seed=1)
    seen = pruner.rates_for_law(evidence(pruner))
    assert sorted(seen[:4]) == sorted(IN_RATES)
    assert sorted(seen[4:]) == sorted(OUT_RATES)
    assert seen.tolist() != [*IN_RATES, *OUT_RATES]
    assert (seen == pruner.rates_for_law(evidence(pruner))).all()


def test_frozen_rates_are_those_of_the_first_refresh():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = SGD(net.parameters(), lr=0.5)
    pruner = controls.FrozenRates(0.4, ramp=8, refresh=2, gate=0.0, count_every=1, decay=0.5)
    pruner.attach(net, torch.zeros(1, 6), optimizer=optimizer)
    first = None
    for _ in range(8):
        optimizer.zero_grad()
        net(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
        if pruner.step() and first is None:
            first = pruner.activity.rates()
    assert first is not None
    assert np.abs(pruner.activity.rates() - first).max() > 0.01
    assert (pruner.rates_for_law(pruner._gathering.evidence(pruner.steps)) == first).all()
    state = pruner.state_dict()
    pruner.detach()
    again = controls.FrozenRates(0.4, ramp=8, refresh=2, gate=0.0, count_every=1, decay=0.5)
    again.attach(net, torch.zeros(1, 6), optimizer=optimizer)
    again.load_state_dict(state)
    assert (again.rates_for_law(again._gathering.evidence(again.steps)) == first).all()


# ---- masks from elsewhere, scores of one's own ----


def test_a_fixed_mask_holds_from_the_first_step_and_shuffling_keeps_its_density():
    mask = {"middle": torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)}
    net = Layer()
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = FixedMask(mask).attach(net, torch.zeros(2, 5), optimizer=optimizer)
    assert torch.equal(pruner.masks["middle"], mask["middle"])
    assert (net.middle.weight[~mask["middle"]] == 0).all()
    assert pruner.final
    other = Layer()
    moved = FixedMask(mask, shuffle=True, seed=3)
    moved.attach(other, torch.zeros(2, 5), optimizer=SGD(other.parameters(), lr=0.1))
    assert int(moved.masks["middle"].sum()) == 3
    assert not torch.equal(moved.masks["middle"], mask["middle"])
    with pytest.raises(SynbbError, match=r"masks of another network: middle has \(2, 4\)"):
        FixedMask({"middle": torch.ones(2, 4, dtype=torch.bool)}).attach(Layer(), torch.zeros(2, 5))


def test_a_score_of_ones_own_is_a_rival_in_one_line():
    pruner = attached(Scored, score=lambda seen: seen.weights * seen.gradients)
    product = (WEIGHTS * GRADIENTS).ravel()
    assert set(np.flatnonzero(chosen(pruner))) == set(np.argsort(-product)[:4])
    with pytest.raises(SynbbError, match="one finite number for each of 12 connections"):
        attached(Scored, score=lambda seen: seen.weights[:3])


def test_every_method_meets_the_density_it_was_given():
    for name, (kind, _) in CONNECTIONS.items():
        if name == "fixed":
            continue
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))
        optimizer = SGD(net.parameters(), lr=0.1)
        options: dict[str, Any] = {"gate": 0.0}
        pruner = kind(0.3, warmup=1, ramp=6, refresh=2, count_every=1, **options)
        pruner.attach(net, torch.zeros(1, 6), optimizer=optimizer)
        for _ in range(8):
            optimizer.zero_grad()
            net(torch.randn(16, 6)).square().mean().backward()
            optimizer.step()
            pruner.step()
        assert pruner.kept().sum() == round(0.3 * 384), name
        assert pruner.final, name


def test_an_unknown_method_is_named_with_those_there_are():
    with pytest.raises(SynbbError, match="'magnitud' is none for connections; there are bb, bb-auto"):
        find_method("magnitud", units=False)
    with pytest.raises(SynbbError, match="'wanda' is none for whole units"):
        find_method("wanda", units=True)
