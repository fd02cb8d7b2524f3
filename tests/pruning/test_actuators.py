"""Which connections are kept: exact counts, degrees of the law, ranks within rows, intersections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.pruning import balance
from synbb.pruning.actuators import keep_balanced, keep_strongest
from synbb.pruning.connections import Budget, ConnectionTable
from synbb.pruning.pattern import eligible
from synbb.pruning.wiring import TracedLayer

BETA = 1 / 0.15


@dataclass
class Case:
    table: ConnectionTable
    scores: np.ndarray
    rates: np.ndarray

    def keep(self, density, actuator, scope="layer", minimum=1, beta=BETA):
        law = balance.Balance(balance.log_odds(self.rates), beta)
        return keep_balanced(
            self.table, self.scores, law, share_of(self.table, density, scope), actuator=actuator, minimum=minimum
        )


def share_of(table: ConnectionTable, density: float, scope: str = "layer") -> Budget:
    return Budget(scope, np.full(len(table.scopes(scope)), density))


def layer(inputs: int, outputs: int, reads: list[tuple[int, int]], writes: list[tuple[int, int]]) -> TracedLayer:
    made = TracedLayer("layer", "linear", 1, inputs, outputs, inputs * outputs)
    made.reads = np.array(sorted(reads), dtype=np.int64).reshape(-1, 2).T
    made.writes = np.array(sorted(writes), dtype=np.int64).reshape(-1, 2).T
    return made


def table_of(*layers: TracedLayer) -> ConnectionTable:
    shapes = [(each.out_channels, each.in_channels) for each in layers]
    return ConnectionTable.build(layers, shapes, [1] * len(layers))


def one_layer(inputs: int, outputs: int, seed: int = 0) -> Case:
    """Units 0 to ``inputs`` feed units from there on."""
    rng = np.random.default_rng(seed)
    table = table_of(layer(inputs, outputs, [(i, i) for i in range(inputs)], [(j, inputs + j) for j in range(outputs)]))
    return Case(table, rng.random(table.count), rng.uniform(0.05, 0.95, inputs + outputs))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One to three layers whose channels read and write any units: none, one, or several a channel."""
    units = draw(st.integers(2, 8))
    unit = st.integers(0, units - 1)
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        inputs, outputs = draw(st.integers(1, 8)), draw(st.integers(1, 8))
        reads = draw(st.sets(st.tuples(st.integers(0, inputs - 1), unit), max_size=12))
        writes = draw(st.sets(st.tuples(st.integers(0, outputs - 1), unit), max_size=12))
        layers.append(layer(inputs, outputs, list(reads), list(writes)))
    table = table_of(*layers)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    rates = rng.uniform(0, 1, units)
    rates[rng.random(units) < 0.2] = np.nan
    return Case(table, rng.integers(0, 5, table.count).astype(float), rates)  # with ties


@settings(max_examples=150)
@given(
    cases(),
    st.floats(0.02, 1),
    st.sampled_from(["fan_out", "fan_in", "both", "matched"]),
    st.sampled_from(["layer", "network"]),
)
def test_every_scope_keeps_exactly_its_share(case, density, actuator, scope):
    kept = case.keep(density, actuator, scope, minimum=0)
    assert kept.sum() == sum(round(density * len(members)) for members in case.table.scopes(scope))
    for members in case.table.scopes(scope):
        assert kept[members].sum() == round(density * len(members))


@settings(max_examples=60)
@given(cases(), st.floats(0.02, 1), st.sampled_from(["layer", "network"]))
def test_the_strongest_are_kept_exactly(case, density, scope):
    kept = keep_strongest(case.table, case.scores, share_of(case.table, density, scope))
    for members in case.table.scopes(scope):
        assert kept[members].sum() == round(density * len(members))
        if kept[members].any() and not kept[members].all():
            assert case.scores[members][kept[members]].min() >= case.scores[members][~kept[members]].max()


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.15, 1), st.integers(0, 99), st.sampled_from(["out", "in"]))
def test_each_unit_keeps_the_apportioned_degree(inputs, outputs, density, seed, side):
    case = one_layer(inputs, outputs, seed)
    units, width, rates = (
        (inputs, outputs, case.rates[:inputs]) if side == "out" else (outputs, inputs, case.rates[inputs:])
    )
    budget = round(density * (inputs * outputs))  # 0.7 * 5 * 9 is 31.5, 0.7 * 45 a little less
    if budget < units:  # one connection each cannot be had
        return
    odds, capacities = balance.log_odds(rates), np.full(units, float(width))
    real = balance.degrees(odds, capacities, balance.solve_offset(odds, capacities, budget, BETA), BETA, 1)
    matrix = case.keep(density, f"fan_{side}").reshape(outputs, inputs)
    scores = case.scores.reshape(outputs, inputs)
    rows, strengths = (matrix.T, scores.T) if side == "out" else (matrix, scores)
    assert rows.sum(1).tolist() == balance.apportion(real, budget).tolist()
    for row, strength in zip(rows, strengths, strict=True):
        assert set(np.argsort(-strength)[: row.sum()]) == set(np.flatnonzero(row))


@pytest.mark.parametrize("side", ["fan_out", "fan_in"])
def test_equal_on_rates_give_uniform_degrees(side):
    case = one_layer(12, 10)
    case.rates[:] = 0.3
    matrix = case.keep(0.25, side).reshape(10, 12)
    degrees = matrix.sum(0 if side == "fan_out" else 1)
    assert degrees.max() - degrees.min() <= 1
    assert (np.diff(degrees) <= 0).all()  # ties by index


def test_unknown_on_rates_count_as_a_half():
    known, unknown = one_layer(12, 10), one_layer(12, 10)
    known.rates[:] = 0.5
    unknown.rates[:] = np.nan
    assert (known.keep(0.4, "fan_out") == unknown.keep(0.4, "fan_out")).all()


def test_busier_units_speak_to_fewer_and_listen_to_fewer():
    case = one_layer(16, 16)
    out = case.keep(0.3, "fan_out").reshape(16, 16).sum(0)[np.argsort(case.rates[:16])]
    into = case.keep(0.3, "fan_in").reshape(16, 16).sum(1)[np.argsort(case.rates[16:])]
    assert (np.diff(out) <= 1).all()
    assert (np.diff(into) <= 1).all()
    assert out[0] > out[-1] + 4
    assert into[0] > into[-1] + 4


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 10), st.integers(3, 10), st.floats(0.1, 0.95), st.integers(0, 99))
def test_both_is_the_intersection_of_two_row_wise_choices(inputs, outputs, density, seed):
    """The strongest of each row cut with the strongest of each column, up to the ties of the last degree."""
    case = one_layer(inputs, outputs, seed)
    matrix = case.keep(density, "both", minimum=0).reshape(outputs, inputs)
    scores = case.scores.reshape(outputs, inputs)
    in_rank = np.argsort(np.argsort(-scores, axis=1), axis=1)
    out_rank = np.argsort(np.argsort(-scores, axis=0), axis=0)
    in_degree = np.where(matrix, in_rank + 1, 0).max(1, keepdims=True)
    out_degree = np.where(matrix, out_rank + 1, 0).max(0, keepdims=True)
    inside = (in_rank < in_degree) & (out_rank < out_degree)
    assert inside.sum() - matrix.sum() <= min(inputs, outputs)


def test_both_lies_inside_each_actuator_alone_at_a_larger_budget():
    case = one_layer(16, 16, 3)
    both = case.keep(0.3, "both")
    out, into = case.keep(0.75, "fan_out"), case.keep(0.75, "fan_in")
    assert not (both & ~out).any()
    assert not (both & ~into).any()


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_a_channel_of_two_units_is_kept_only_as_far_as_both_allow(scope):
    """Channel 0 sums a busy and a quiet unit, channel 1 two quiet ones."""
    summed = layer(2, 20, [(0, 0), (0, 1), (1, 1), (1, 2)], [])
    case = Case(table_of(summed), np.random.default_rng(0).random(40), np.array([0.95, 0.2, 0.2]))
    matrix = case.keep(0.5, "fan_out", scope).reshape(20, 2)
    assert matrix.sum() == 20
    assert matrix[:, 0].sum() < matrix[:, 1].sum()


def test_channels_that_are_no_units_are_ranked_at_the_same_density():
    """Input channels 0 to 3 come from a transposed layer: no unit, no on-rate."""
    case = one_layer(8, 10)
    case.table = table_of(layer(8, 10, [(i, i) for i in range(4, 8)], []))
    matrix = case.keep(0.3, "fan_out").reshape(10, 8)
    assert matrix[:, :4].sum() == 12
    assert matrix[:, 4:].sum() == 12
    free = case.scores.reshape(10, 8)[:, :4]
    assert free[matrix[:, :4]].min() > free[~matrix[:, :4]].max()


@pytest.mark.parametrize("costs", [None, np.ones(160)])
def test_what_a_pattern_leaves_of_channels_that_are_no_units_meets_the_whole_budget(costs):
    """Of the first layer no channel is a unit, of the second half of them are; 2 of 4 inputs are eligible."""
    bare, half = layer(8, 10, [], []), layer(8, 10, [(i, i) for i in range(4, 8)], [])
    table, scores = table_of(bare, half), np.random.default_rng(0).random(160)
    law = balance.Balance(np.zeros(8), BETA)
    allowed = eligible(table, scores, [bare, half], (2, 4))
    budget = Budget("layer", np.array([0.4, 0.4]), costs)
    kept = keep_balanced(table, scores, law, budget, actuator="fan_out", minimum=0, eligible=allowed)
    first, second = (each.reshape(10, 8) for each in table.split(kept))
    assert first.sum() == 32
    assert (second[:, :4].sum(), second[:, 4:].sum()) == (16, 16)
    assert not (kept & ~allowed).any()


def test_network_scope_moves_connections_to_quiet_layers():
    loud, quiet = layer(8, 16, [(i, i) for i in range(8)], []), layer(8, 16, [(i, 8 + i) for i in range(8)], [])
    table = table_of(loud, quiet)
    case = Case(table, np.random.default_rng(0).random(table.count), np.repeat([0.8, 0.2], 8))
    first, second = table.split(case.keep(0.4, "fan_out", "network"))
    assert first.sum() + second.sum() == round(0.4 * 256)
    assert first.sum() < second.sum()
    first, second = table.split(case.keep(0.4, "fan_out", "layer"))
    assert first.sum() == second.sum()


@pytest.mark.parametrize("actuator", ["fan_out", "fan_in"])
def test_minimum_degrees_hold_and_can_put_a_density_out_of_reach(actuator):
    case = one_layer(10, 10)
    case.rates[:] = np.linspace(0.001, 0.999, 20)
    matrix = case.keep(0.3, actuator, minimum=2).reshape(10, 10)
    assert matrix.sum(0 if actuator == "fan_out" else 1).min() == 2
    with pytest.raises(SynbbError, match="out of reach"):
        case.keep(0.19, actuator, minimum=2)


def test_an_unreachable_intersection_is_refused_whatever_the_scores():
    for seed in range(5):
        case = one_layer(10, 10, seed)
        case.keep(0.15, "both", minimum=1)
        with pytest.raises(SynbbError, match="out of reach"):
            case.keep(0.05, "both", minimum=1)


@pytest.mark.parametrize(("actuator", "scope"), [("fan-out", "layer"), ("fan_out", "model")])
def test_misspelt_choices_are_named(actuator, scope):
    with pytest.raises(SynbbError, match=r"'(fan-out|model)' is not one of"):
        one_layer(4, 4).keep(0.5, actuator, scope)
