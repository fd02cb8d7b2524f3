"""What is counted, how it is divided between layers, local budgets, and the closed loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_networks import Chain, mlp, train
from torch import nn
from torch.optim import SGD

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, ClosedLoop, CubicSchedule, Magnitude, Pruner, Waypoints
from synbb.pruning.actuators import keep_balanced
from synbb.pruning.allocation import connection_costs, erk_proportions, shares_in_proportion
from synbb.pruning.balance import Balance, LocalBudget, log_odds
from synbb.pruning.connections import Budget
from synbb.pruning.controls import UniformDegrees
from synbb.pruning.evidence import Evidence
from synbb.pruning.feedback import BetaFeedback, LayerFeedback
from synbb.pruning.schedule import FromStart, waypoints

GIVEN = torch.zeros(1, 1, 8, 8)


def trained(kind: type[Pruner] = BudgetedBroadcast, steps: int = 10, width: int = 16, **options: Any) -> Pruner:
    torch.manual_seed(0)
    net = Chain(width)
    made = SGD(net.parameters(), lr=0.05)
    defaults: dict[str, Any] = {"warmup": 1, "ramp": 8, "refresh": 2, "count_every": 1, "gate": 0.0, "minimum": 0}
    pruner = kind(options.pop("density", 0.3), **(defaults | options))
    pruner.attach(net, GIVEN, optimizer=made)
    train(net, pruner, made, range(steps))
    return pruner


# ---- currencies ----


@pytest.mark.parametrize("scope", ["layer", "network"])
@pytest.mark.parametrize("actuator", ["fan_in", "fan_out", "both"])
@pytest.mark.parametrize("budget", ["traffic", "macs"])
def test_a_budget_is_met_from_below_to_less_than_one_connection(budget, actuator, scope):
    pruner = trained(budget=budget, actuator=actuator, scope=scope)
    costs = connection_costs(budget, pruner.table, pruner.layers, pruner.decided_rates)
    assert costs is not None
    kept = pruner.kept()
    for members in pruner.table.scopes(scope):
        spent, allowed = costs[members][kept[members]].sum(), 0.3 * costs[members].sum()
        assert spent <= allowed * (1 + 1e-6)
        assert spent > allowed - costs[members].max() - 1e-9


def test_traffic_is_the_rate_of_the_unit_a_connection_leaves():
    pruner = trained(steps=3)
    rates = pruner.activity.rates()
    costs = connection_costs("traffic", pruner.table, pruner.layers, rates)
    assert costs is not None
    first = pruner.layers[0]
    expected = np.array([rates[unit] for _, unit in first.reads.T.tolist()])
    assert costs[: pruner.table.layer_sizes[0]].reshape(16, 16) == pytest.approx(np.tile(expected, (16, 1)))
    assert connection_costs("density", pruner.table, pruner.layers, rates) is None


def test_multiply_accumulates_weigh_layers_by_their_positions():
    class Narrowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.wide = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
            self.deep, self.head = nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.Conv2d(8, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.deep(self.wide(self.first(x).relu()).relu()).relu())

    net = Narrowing()
    pruner = Magnitude(0.5, scope="network", budget="macs", warmup=0, ramp=0)
    pruner.attach(net, GIVEN, optimizer=SGD(net.parameters(), lr=0.1))
    costs = connection_costs("macs", pruner.table, pruner.layers, np.zeros(pruner.wiring.unit_count))
    assert costs is not None
    assert set(costs[:64]) == {9 * 64.0}  # a kernel slice of 3 x 3 at 8 x 8 positions
    assert set(costs[64:]) == {9 * 16.0}


# ---- between layers ----


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.integers(1, 1000)), min_size=1, max_size=8),
    st.floats(0.01, 1),
)
def test_shares_take_the_budget_and_stay_in_bounds(layers, share):
    proportions, sizes = (np.array(each, dtype=float) for each in zip(*layers, strict=True))
    found = shares_in_proportion(proportions, sizes, share)
    assert float(found @ sizes) == pytest.approx(share * sizes.sum(), rel=1e-6)
    assert (found >= 0).all()
    assert (found <= 1).all()
    free = found < 1
    if free.sum() > 1:
        assert found[free] / proportions[free] == pytest.approx(np.full(free.sum(), (found / proportions)[free][0]))


def test_erk_by_hand():
    net = mlp(5, 8, 16, 4, 2)
    pruner = Magnitude(0.25, allocation="erk", warmup=0, ramp=0)
    pruner.attach(net, torch.zeros(1, 5), optimizer=SGD(net.parameters(), lr=0.1))
    shapes = [(16, 8), (4, 16)]
    assert erk_proportions(pruner.layers, shapes) == pytest.approx([24 / 128, 20 / 64])
    # c (24 + 20) = 0.25 * 192: c = 12/11
    net(torch.randn(4, 5)).sum().backward()
    pruner._optimizer.step()
    pruner.step()
    assert int(pruner.masks["2"].sum()) == round(24 * 12 / 11)
    assert int(pruner.masks["4"].sum()) == round(20 * 12 / 11)


def test_a_layer_that_erk_would_fill_twice_is_dense_and_the_rest_shares_what_is_left():
    found = shares_in_proportion(np.array([10.0, 1.0, 1.0]), np.array([10.0, 100.0, 100.0]), 0.2)
    assert found == pytest.approx([1.0, 0.16, 0.16])


# ---- local budgets ----


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.9), st.sampled_from(["fan_in", "fan_out"]))
def test_no_unit_exceeds_its_local_budget_and_none_below_it_is_touched(seed, tau, actuator):
    net = mlp(3, 10, 12, 2)
    pruner = Magnitude(0.5).attach(net, torch.zeros(1, 3), optimizer=SGD(net.parameters(), lr=0.1))
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.01, 1, pruner.wiring.unit_count)
    kept = keep_balanced(
        pruner.table,
        rng.random(pruner.table.count),
        LocalBudget(rates),
        Budget("layer", np.array([1.0])),
        actuator=actuator,
        minimum=0,
        parameter=tau,
    ).reshape(12, 10)
    degree, own, full = (kept.sum(0), rates[:10], 12) if actuator == "fan_out" else (kept.sum(1), rates[10:], 10)
    assert (own * degree / full <= tau + 1e-9).all()
    assert (degree[own <= tau] == full).all()
    over = own > tau
    assert (own[over] * (degree[over] + 1) / full > tau - 1e-9).all()  # as much as it may, and no less


def test_acting_only_on_units_over_budget_solves_the_local_budget_for_the_density():
    pruner = trained(act="over_budget", density=0.4)
    assert pruner.kept().sum() == 2 * round(0.4 * 256)
    local = trained(tau=0.2, density=1.0)
    assert 0.2 < local.density() < 1
    rates = local.decided_rates
    into = local.table.fan_in(local.kept(), local.wiring.unit_count)
    capacity = local.table.fan_in(np.ones(local.table.count, dtype=bool), local.wiring.unit_count)
    masked = capacity > 0
    assert (rates[masked] * into[masked] / capacity[masked] <= 0.2 + 1e-9).all()


# ---- settings ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "4:2"}, "not of the form N:M"),
        ({"pattern": "2:4", "density": 0.6}, "contradicts pattern 2:4"),
        ({"allocation": "erk", "scope": "network"}, "divides a budget between layers"),
        ({"tau": 0.2, "density": 0.5}, "contradicts tau"),
        ({"tau": 1.5, "density": 1.0}, "tau 1.5 must lie in"),
        ({"budget": "watts"}, "budget 'watts' is not one of density, traffic, macs"),
        ({"beta": "large"}, "beta 'large' is not one of scaled, auto"),
        ({"gate": 0.7}, "gate 0.7 must lie in"),
        ({"window": 0}, "window of 0 steps"),
        ({"drop": 2.0}, "drop 2.0 must lie in"),
        ({"threshold_shift": -1.0}, "must not be negative"),
        ({"schedule": CubicSchedule(0.5, 1, 4, 1)}, "contradicts the schedule, which ends at 0.5"),
        ({"layers": ["nothing*"]}, "'nothing\\*' fits no layer"),
    ],
)
def test_settings_that_contradict_each_other(options, message):
    net = mlp(4, 16, 32, 2)
    made = SGD(net.parameters(), lr=0.1)
    with pytest.raises(SynbbError, match=message):
        BudgetedBroadcast(**({"density": 0.3} | options)).attach(net, torch.zeros(1, 4), optimizer=made)


def test_layers_can_be_named_the_first_and_the_head_too():
    net = mlp(4, 16, 8, 2)
    pruner = Magnitude(0.5, layers=["0", "4"])
    pruner.attach(net, torch.zeros(1, 4), optimizer=SGD(net.parameters(), lr=0.1))
    assert list(pruner.masks) == ["0", "4"]


# ---- beta and the closed loop ----


def test_scaled_beta_grows_as_the_budget_shrinks():
    pruner = trained(beta="scaled", steps=10, density=0.25)
    assert pruner.beta == pytest.approx(4 / 3 / 0.25)
    assert trained(beta="scaled", density=0.1).beta == pytest.approx(40 / 3)


def evidence(saliency: np.ndarray, pruner: Pruner) -> Evidence:
    count = pruner.table.count
    return Evidence(
        table=pruner.table,
        step=1,
        weights=np.ones(count),
        live=np.ones(count, dtype=bool),
        rates=np.full(pruner.wiring.unit_count, 0.5),
        gradients=np.zeros(count),
        saliency=saliency,
        inputs=np.zeros(count),
        seed=0,
    )


def test_budget_flows_to_the_layer_whose_margin_hurts_more_until_margins_are_even():
    pruner = trained(steps=2)
    loop = LayerFeedback(2)
    saliency = np.where(pruner.table.layer == 0, 1.0, 16.0)
    loop.observe(evidence(saliency, pruner))
    assert loop.proportions == pytest.approx([0.25**0.25, 4.0**0.25])  # (1/4)^gain and (16/4)^gain
    for _ in range(40):
        loop.observe(evidence(saliency, pruner))
    assert loop.proportions == pytest.approx([0.25, 4.0])  # as far as it may go
    even = LayerFeedback(2)
    even.observe(evidence(np.ones(pruner.table.count), pruner))
    assert even.proportions == pytest.approx([1.0, 1.0])
    even.observe(evidence(np.zeros(pruner.table.count), pruner))  # nothing seen, nothing learnt
    assert even.proportions == pytest.approx([1.0, 1.0])


def test_beta_goes_where_more_saliency_is_kept_and_stays_where_noise_decides():
    pruner = trained(steps=2)
    saliency = np.zeros(pruner.table.count)
    saliency[:10] = 1.0

    def keep(beta: float) -> np.ndarray:
        kept = np.zeros(pruner.table.count, dtype=bool)
        kept[: int(min(10, 4 + beta))] = True
        return kept

    loop = BetaFeedback(2.0)
    loop.observe(evidence(saliency, pruner), keep)
    assert loop.beta == 3.0
    flat = BetaFeedback(2.0)
    flat.observe(evidence(saliency, pruner), lambda _: saliency > 0)
    assert flat.beta == 2.0


def test_the_closed_loop_needs_one_number_and_resumes_where_it_was():
    torch.manual_seed(0)
    net = Chain(16)
    made = SGD(net.parameters(), lr=0.05)
    loop = ClosedLoop(0.3, warmup=1, ramp=12, refresh=2, gate=0.0, minimum=0)
    loop.attach(net, GIVEN, optimizer=made)
    train(net, loop, made, range(16))
    assert loop.density() == pytest.approx(0.3, abs=2 / loop.table.count)
    densities = list(loop.layer_densities().values())
    assert densities[0] != densities[1]
    other = Chain(16)
    again = ClosedLoop(0.3, warmup=1, ramp=12, refresh=2, gate=0.0, minimum=0)
    again.attach(other, GIVEN, optimizer=SGD(other.parameters(), lr=0.05))
    again.load_state_dict(loop.state_dict())
    assert again.beta == loop.beta
    assert again.own_state() == loop.own_state()


# ---- regrowth, thresholds ----


def test_regrowth_by_gradient_brings_back_the_largest_gradients_from_zero():
    torch.manual_seed(0)
    net = mlp(6, 20, 20, 3)
    optimizer = SGD(net.parameters(), lr=0.05)
    pruner = BudgetedBroadcast(0.4, regrowth="gradient", ramp=40, refresh=4, gate=0.0, minimum=0, count_every=1)
    pruner.attach(net, torch.zeros(1, 6), optimizer=optimizer)
    grown = 0
    for _ in range(44):
        before = pruner.kept()
        optimizer.zero_grad()
        net(torch.randn(32, 6)).square().mean().backward()
        optimizer.step()
        if pruner.step():
            new = torch.from_numpy((pruner.kept() & ~before).reshape(20, 20))
            grown += int(new.sum())
            assert (net[2].weight[new] == 0).all()
    assert grown > 20
    assert pruner.density() == 0.4


def test_the_threshold_actuator_is_off_and_lowers_busy_units_when_on():
    still = trained(steps=1, warmup=0, ramp=4, refresh=1)
    moved = trained(steps=1, warmup=0, ramp=4, refresh=1, threshold_shift=0.5)
    lowered = []
    for name, norm in still.model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            shift = (norm.bias - moved.model.get_submodule(name).bias).detach()
            by_gain = (shift - 0.5 * norm.weight.abs()).abs() < 1e-6
            assert ((shift.abs() < 1e-7) | by_gain).all()
            lowered.append(int(by_gain.sum()))
    # Half of the units or so are busier than their layer's mean; those that feed the head have no masked audience.
    assert 2 < lowered[0] < 14
    assert 2 < lowered[1] < 14
    assert lowered[2] == 0


# ---- schedules ----


def test_a_budget_of_ones_own_over_steps_may_rise_again():
    schedule = waypoints([[0.1, 1.0], [0.5, 0.2], [0.9, 0.4]], 100, 5)
    assert [schedule.target(step) for step in (0, 10, 30, 50, 70, 90, 100)] == pytest.approx(
        [1, 1, 0.6, 0.2, 0.3, 0.4, 0.4]
    )
    assert (schedule.density, schedule.least) == (0.4, 0.2)
    assert schedule.end == 90
    assert [step for step in range(1, 101) if schedule.refreshes(step)] == list(range(10, 91, 5))
    with pytest.raises(SynbbError, match="rising steps"):
        Waypoints(((5, 0.5), (5, 0.4)), 1)
    pruner = trained(schedule=Waypoints(((0, 1.0), (4, 0.2), (8, 0.5)), 1), density=0.5, steps=5)
    assert pruner.density() < 0.3
    train(pruner.model, pruner, pruner._optimizer, range(5, 9))
    assert pruner.density() == pytest.approx(0.5, abs=0.01)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(0.01, 1)), min_size=1, max_size=5, unique_by=lambda each: each[0]),
    st.integers(1, 30),
)
def test_the_least_budget_is_that_of_some_choice_of_masks(points, refresh):
    schedule = Waypoints(tuple(sorted(points)), refresh)
    assert schedule.least == min(schedule.target(step) for step in range(schedule.end + 1) if schedule.refreshes(step))


def test_a_budget_out_of_reach_in_the_middle_is_refused_at_the_start():
    for density in (0.5, 1.0):
        schedule = Waypoints(((0, 1.0), (4, 0.01), (8, density)), 2)
        with pytest.raises(SynbbError, match="out of reach"):
            trained(schedule=schedule, density=density, minimum=1, steps=0)
    rare = Waypoints(((0, 1.0), (4, 0.01), (8, 0.5)), 8)  # nothing is chosen in step 4
    assert trained(schedule=rare, density=0.5, minimum=1).density() == pytest.approx(0.5, abs=0.01)


def test_sparse_from_the_start():
    schedule = FromStart(0.2, last=30, refresh=10)
    assert [step for step in range(50) if schedule.refreshes(step)] == [0, 10, 20, 30]
    assert schedule.target(0) == 0.2
    once = FromStart(0.2, last=0, refresh=10, first=1)
    assert [step for step in range(50) if once.refreshes(step)] == [1]
    assert once.target(0) == 1.0
    assert once.is_final(1)
    assert [step for step in range(50) if FromStart(0.2, last=25, refresh=10).refreshes(step)] == [0, 10, 20, 25]


# ---- the law from the first step on ----


@pytest.mark.parametrize("actuator", ["fan_in", "fan_out", "both", "matched"])
@pytest.mark.parametrize("regrowth", ["natural", "gradient", "random"])
def test_the_law_from_the_start_holds_its_density_at_every_step(regrowth, actuator):
    pruner = trained(steps=0, from_start=True, regrowth=regrowth, actuator=actuator, drop=0.5)
    intended = [round(0.3 * size) for size in pruner.table.layer_sizes]
    exchanged = 0
    for step in range(12):
        before = pruner.kept()
        assert [int(part.sum()) for part in pruner.table.split(before)] == intended
        train(pruner.model, pruner, pruner._optimizer, range(step, step + 1))
        exchanged += int((pruner.kept() & ~before).any())
        assert pruner.final == (step >= 8)
    assert exchanged >= 2


def test_the_law_from_the_start_begins_with_equal_degrees_and_then_follows_on_rates():
    pruner = trained(steps=0, from_start=True, regrowth="random", width=48, beta=1.0)
    first = pruner.table.fan_in(pruner.kept(), pruner.wiring.unit_count)
    judged = np.unique(pruner.table.in_pairs[1])
    assert np.ptp(first[judged]) <= 1
    train(pruner.model, pruner, pruner._optimizer, range(9))
    degrees = pruner.table.fan_in(pruner.kept(), pruner.wiring.unit_count)[judged]
    odds = log_odds(pruner.decided_rates)[judged]
    assert np.ptp(degrees) > 1
    for group in pruner.wiring.groups[1:3]:
        own = (judged >= group.first) & (judged < group.first + group.size)
        assert np.corrcoef(degrees[own], odds[own])[0, 1] > 0.97


def test_the_law_from_the_start_waits_for_on_rates_that_say_something():
    still = trained(steps=7, from_start=True, regrowth="random", gate=0.4)
    assert np.isnan(still.decided_rates).all()
    moved = trained(steps=7, from_start=True, regrowth="random", gate=0.0)
    assert (still.kept() != moved.kept()).any()
    with pytest.warns(UserWarning, match=r"below the gate of 0\.4"):
        train(still.model, still, still._optimizer, range(7, 9))
    assert not np.isnan(still.decided_rates).all()


def test_exchange_falls_to_nothing_at_the_last_refresh():
    """With equal degrees nothing but the exchange moves a connection."""
    pruner = trained(UniformDegrees, steps=2, from_start=True, regrowth="random", drop=0.5, warmup=0)
    early = pruner.churn
    assert 0.2 < early < 0.5  # 0.43 of the live connections are up for exchange; some are drawn again
    train(pruner.model, pruner, pruner._optimizer, range(2, 6))
    assert 0 < pruner.churn < early
    train(pruner.model, pruner, pruner._optimizer, range(6, 8))
    assert pruner.churn == 0


@pytest.mark.parametrize("options", [{"tau": 0.2, "density": 1.0}, {"schedule": Waypoints(((0, 0.3), (8, 0.3)), 2)}])
def test_from_start_contradicts_budgets_that_move(options):
    with pytest.raises(SynbbError, match="from_start contradicts"):
        BudgetedBroadcast(from_start=True, **({"density": 0.3} | options))


# ---- the law, whatever the numbers ----


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.9), st.sampled_from(["fan_in", "fan_out"]))
def test_units_in_another_order_keep_the_same_degrees(seed, share, actuator):
    """Permutation-equivariant: on-rates that are all different decide degrees, never the place of a unit."""
    rng = np.random.default_rng(seed)
    net = mlp(3, 9, 9, 2)
    pruner = Magnitude(0.5).attach(net, torch.zeros(1, 3), optimizer=SGD(net.parameters(), lr=0.1))
    rates, scores = rng.permutation(np.linspace(0.05, 0.95, 18)), rng.random((9, 9))
    order = rng.permutation(9)

    def keep(rates: np.ndarray, scores: np.ndarray) -> np.ndarray:
        law, budget = Balance(log_odds(rates), 3.0), Budget("layer", np.array([share]))
        return keep_balanced(pruner.table, scores.ravel(), law, budget, actuator=actuator, minimum=0).reshape(9, 9)

    moved = rates.copy()
    if actuator == "fan_out":
        moved[:9] = rates[:9][order]
        assert (keep(moved, scores[:, order]) == keep(rates, scores)[:, order]).all()
    else:
        moved[9:] = rates[9:][order]
        assert (keep(moved, scores[order]) == keep(rates, scores)[order]).all()


def test_ties_go_by_index_every_time():
    net = mlp(3, 6, 6, 2)
    pruner = Magnitude(0.5).attach(net, torch.zeros(1, 3), optimizer=SGD(net.parameters(), lr=0.1))
    law, budget = Balance(np.zeros(12), 3.0), Budget("layer", np.array([0.25]))
    kept = keep_balanced(pruner.table, np.ones(36), law, budget, actuator="fan_in", minimum=0).reshape(6, 6)
    assert kept.sum(1).tolist() == [2, 2, 2, 1, 1, 1]
    assert kept.sum(0).tolist() == [6, 3, 0, 0, 0, 0]
