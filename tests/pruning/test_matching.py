"""Both degrees met: deferred acceptance by hand, its stability, and the law in two directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, balance
from synbb.pruning.actuators import keep_balanced
from synbb.pruning.connections import Budget, ConnectionTable
from synbb.pruning.matching import Side, match
from synbb.pruning.wiring import TracedLayer


def sides(scores: np.ndarray) -> tuple[Side, Side]:
    """Rows and columns of a matrix (outputs, inputs): inputs offer, outputs take."""
    outputs, inputs = scores.shape
    each = np.arange(scores.size)
    return (
        Side(each, each % inputs, scores.ravel(), inputs),
        Side(each, each // inputs, scores.ravel(), outputs),
    )


def matched(scores: np.ndarray, given_degrees: list[int], taken_degrees: list[int]) -> np.ndarray:
    made = match(*sides(scores), np.array(given_degrees), np.array(taken_degrees), np.ones(scores.size, dtype=bool))
    return made.reshape(scores.shape)


def test_three_by_four_by_hand() -> None:
    # Outputs a, b, c in rows; inputs 1 to 4 in columns. Inputs give 1, 1, 1, 1; a takes 1, b 2, c 1.
    scores = np.array(
        [
            [9.0, 8.0, 1.0, 2.0],
            [5.0, 7.0, 6.0, 1.5],
            [1.2, 1.1, 3.0, 1.4],
        ]
    )
    # 1 and 2 and 4 offer to a, 3 to b; a takes 1 and refuses 2 and 4. 2 goes to b (7), 4 to b (1.5), which has 2 and 3
    # and refuses it; 4 goes to c.
    wanted = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(matched(scores, [1, 1, 1, 1], [1, 2, 1]), wanted)


def test_who_is_refused_everywhere_keeps_its_degree() -> None:
    # Two outputs take one each, but three are offered: input 2 is refused by both and takes its strongest all the same.
    scores = np.array([[9.0, 8.0, 3.0], [5.0, 7.0, 4.0]])
    made = matched(scores, [1, 1, 1], [1, 1])
    assert made.sum(axis=0).tolist() == [1, 1, 1]
    assert made[1, 2]


@settings(max_examples=80)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6))
def test_no_pair_would_rather_have_each_other(inputs: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(inputs * outputs).reshape(outputs, inputs).astype(float)
    give, take = rng.integers(0, outputs + 1, inputs), rng.integers(0, inputs + 1, outputs)
    left = np.ones(scores.size, dtype=bool)
    made = match(*sides(scores), give, take, left).reshape(scores.shape)
    assert (made.sum(axis=0) == give).all(), "every unit that offers has its degree"
    stable = np.zeros_like(made)  # without what nobody would have taken
    degrees_in = np.zeros(outputs, dtype=int)
    degrees_out = np.zeros(inputs, dtype=int)
    for place in np.argsort(-scores, axis=None):  # with one common order the stable matching is the greedy one
        j, i = divmod(int(place), inputs)
        if degrees_in[j] < take[j] and degrees_out[i] < give[i]:
            stable[j, i] = True
            degrees_in[j] += 1
            degrees_out[i] += 1
    assert (made & stable).sum() == stable.sum()


def layer(inputs: int, outputs: int, reads: range, writes: range) -> TracedLayer:
    made = TracedLayer("layer", "linear", 1, inputs, outputs, inputs * outputs)
    made.reads = np.array([(i, i) for i in reads], dtype=np.int64).reshape(-1, 2).T
    made.writes = np.array([(j, inputs + j) for j in writes], dtype=np.int64).reshape(-1, 2).T
    return made


def kept_by(made: TracedLayer, density: float, seed: int, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Mask (outputs, inputs), on-rates of the inputs' and outputs' units."""
    shape = (made.out_channels, made.in_channels)
    table = ConnectionTable.build([made], [shape], [1])
    rng = np.random.default_rng(seed)
    rates = 1 / (1 + np.exp(rng.normal(0, 0.8, sum(shape))))
    scores = np.abs(rng.normal(size=table.count)) * np.exp(rng.normal(0, 0.5, shape[1]))[table.source]
    law = balance.Balance(balance.log_odds(rates), beta)
    kept = keep_balanced(table, scores, law, Budget("layer", np.array([density])), actuator="matched", minimum=0)
    return kept.reshape(shape), rates


@pytest.mark.parametrize(("density", "least"), [(0.25, 0.9), (0.125, 0.95), (0.0625, 0.95)])
def test_the_law_is_met_in_both_directions(density: float, least: float) -> None:
    mask, rates = kept_by(layer(96, 128, range(96), range(128)), density, seed=0, beta=4 / 3 / density)
    assert mask.sum() == round(density * mask.size)
    for degrees, own, capacity in ((mask.sum(0), rates[:96], 128), (mask.sum(1), rates[96:], 96)):
        fit = balance.balance_fit(own, degrees, np.full(len(degrees), capacity), 0.0)
        assert fit.r_squared > least


def test_channels_without_a_unit_take_no_more_than_their_share() -> None:
    # Half of the inputs are no units: they have no degree, and must not crowd the others out.
    mask, rates = kept_by(layer(96, 128, range(48), range(128)), 0.125, seed=1, beta=4 / 3 / 0.125)
    assert mask.sum() == round(0.125 * mask.size)
    assert mask[:, 48:].sum() == pytest.approx(0.125 * 48 * 128, rel=0.02)
    fit = balance.balance_fit(rates[:48], mask[:, :48].sum(0), np.full(48, 128), 0.0)
    assert fit.r_squared > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tau": 0.1}, "'matched' contradicts tau"), ({"density": 0.2, "budget": "macs"}, "contradicts budget 'macs'")],
)
def test_what_contradicts_it(options: dict[str, object], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        BudgetedBroadcast(actuator="matched", **options)  # type: ignore[arg-type]
