"""The law: degrees, offsets, integers, and why it is the optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.pruning.balance import apportion, balance_fit, binary_entropy, degrees, log_odds, solve_offset

BETA = 1 / 0.15
rates = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(np.array)


def test_log_odds_of_known_rates():
    assert log_odds(np.array([0.5, 0.2, 0.8])) == pytest.approx([0, np.log(4), -np.log(4)])
    assert log_odds(np.array([np.nan]))[0] == 0
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()


def test_entropy_of_known_rates():
    assert binary_entropy(np.array([0, 0.5, 1, 0.25])) == pytest.approx([0, 1, 0, 0.8112781244591328])


@given(rates, st.floats(-1, 2), st.floats(0.1, 100))
def test_busier_units_never_get_more(on_rates, offset, beta):
    order = np.argsort(on_rates)
    found = degrees(log_odds(on_rates), np.full(len(on_rates), 32.0), offset, beta, 1.0)[order]
    assert (np.diff(found) <= 1e-9).all()
    assert found.min() >= 1
    assert found.max() <= 32


def test_a_unit_half_on_gets_exactly_the_offset():
    assert degrees(log_odds(np.array([0.5])), np.array([40.0]), 0.25, BETA, 1.0)[0] == 10


def test_law_is_the_unique_maximum_of_entropy_under_a_traffic_price():
    """At price beta bits-in-nats a connection, H(a) - beta k a peaks where log((1 - a) / a) = beta k, only there."""
    grid = np.linspace(1e-4, 1 - 1e-4, 200_001)
    entropy = binary_entropy(grid) * np.log(2)
    for price in (0.1, 0.5, 1.0, 2.5):
        objective = entropy - price * grid
        best = grid[np.argmax(objective)]
        assert log_odds(np.array([best]))[0] == pytest.approx(price, abs=1e-3)
        slope = np.diff(objective)
        assert np.count_nonzero(np.diff(np.sign(slope[slope != 0]))) == 1  # rises, then falls: one maximum


def test_traffic_at_balance_peaks_where_the_method_says():
    kappa = np.linspace(0.001, 10, 100_001)  # beta k
    traffic = kappa / (1 + np.exp(kappa))  # beta a k
    assert kappa[np.argmax(traffic)] == pytest.approx(1.278, abs=1e-3)
    assert traffic.max() == pytest.approx(0.2785, abs=1e-4)


@given(rates, st.floats(0, 1), st.floats(0.1, 50), st.integers(1, 64))
def test_offset_meets_every_reachable_budget(on_rates, share, beta, capacity):
    odds, capacities = log_odds(on_rates), np.full(len(on_rates), float(capacity))
    least, most = float(len(odds)), float(capacities.sum())
    budget = least + share * (most - least)
    found = degrees(odds, capacities, solve_offset(odds, capacities, budget, beta), beta, 1.0)
    assert found.sum() == pytest.approx(budget, abs=1e-6)


def test_density_is_not_monotone_in_beta():
    """Why d0 is solved and beta is not."""
    on_rates = np.random.default_rng(0).beta(6, 4, 5000)  # mean 0.6
    densities = [degrees(log_odds(on_rates), np.ones(5000), 0.25, beta, 0.0).mean() for beta in (0.1, 1.5, 100)]
    assert densities[1] < densities[0]
    assert densities[1] < densities[2]


@pytest.mark.parametrize("budget", [3, 41])
def test_budget_out_of_reach_names_the_range(budget):
    with pytest.raises(SynbbError, match=r"out of reach: 4 units take at least 4 .* at most 40; .* between 0\.1000"):
        solve_offset(np.zeros(4), np.full(4, 10.0), budget, BETA)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30).map(np.array))
def test_integers_sum_exactly_and_stay_within_one(real):
    total = round(real.sum())
    whole = apportion(real, total)
    assert whole.sum() == total
    assert (np.abs(whole - real) < 1 + 1e-9).all()


def test_largest_remainders_win_and_ties_go_by_index():
    assert apportion(np.array([1.5, 1.5, 1.5, 1.5]), 6).tolist() == [2, 2, 1, 1]
    assert apportion(np.array([1.2, 1.7, 1.1]), 4).tolist() == [1, 2, 1]


def test_apportioning_something_else_is_a_defect():
    with pytest.raises(ValueError, match="too far"):
        apportion(np.array([1.5, 1.5]), 9)


def _obeying(capacity: int, seed: int = 0, units: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """On-rates spread as measured (mean 0.5, SD 0.15) and the integer degrees the law grants at density 0.5."""
    on_rates = np.clip(np.random.default_rng(seed).normal(0.5, 0.15, units), 0.02, 0.98)
    capacities = np.full(units, float(capacity))
    budget = round(0.5 * capacities.sum())
    real = degrees(log_odds(on_rates), capacities, solve_offset(log_odds(on_rates), capacities, budget, BETA), BETA, 1)
    return on_rates, apportion(real, budget), capacities


@pytest.mark.parametrize(("capacity", "least"), [(16, 0.94), (64, 0.99), (256, 0.999)])
def test_integers_blur_the_fit_as_little_as_the_method_says(capacity, least):
    fit = balance_fit(*_obeying(capacity), least_capacity=0)
    assert least <= fit.r_squared <= 1
    assert fit.slope == pytest.approx(BETA, rel=0.08)


def test_fit_leaves_out_small_units_and_small_groups():
    on_rates, live, capacities = _obeying(16)
    assert np.isnan(balance_fit(on_rates, live, capacities).r_squared)
    live, capacities = np.arange(20, 30), np.full(10, 64.0)  # ten units that all count
    on_rates = 1 / (1 + np.exp(BETA * (live / 64 - 0.2)))
    ten = balance_fit(on_rates, live, capacities)
    assert ten.slope == pytest.approx(BETA)
    assert ten.unclipped == 10
    assert np.isnan(balance_fit(on_rates[:9], live[:9], capacities[:9]).slope)


@pytest.mark.parametrize("flat", ["degrees", "rates"])
def test_what_does_not_vary_has_no_fit(flat):
    on_rates, live, capacities = _obeying(64)
    if flat == "degrees":
        live = np.full_like(live, 20)
    else:
        on_rates = np.full_like(on_rates, 0.3)
    fit = balance_fit(on_rates, live, capacities)
    assert np.isnan(fit.slope)
    assert np.isnan(fit.r_squared)


def test_groups_with_offsets_of_their_own_fit_one_slope():
    on_rates, live, capacities = _obeying(128)
    shifted = live.copy()
    shifted[200:] -= 25  # the second group had another d0
    groups = np.repeat([0, 1], 200)
    alone = balance_fit(on_rates, shifted, capacities)
    grouped = balance_fit(on_rates, shifted, capacities, groups=groups)
    assert grouped.r_squared > 0.98 > alone.r_squared
    assert grouped.slope == pytest.approx(BETA, rel=0.05)


def test_clipped_units_are_counted_and_not_fitted():
    on_rates, live, capacities = _obeying(64)
    before = balance_fit(on_rates, live, capacities).unclipped
    free = np.flatnonzero((live > 1) & (live < 64))
    live[free[:100]] = 64
    fit = balance_fit(on_rates, live, capacities)
    assert fit.unclipped == before - 100
    assert fit.clipped_share == pytest.approx(1 - fit.unclipped / 400)
    assert fit.r_squared > 0.98


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_degrees_unrelated_to_rates_do_not_fit(seed):
    rng = np.random.default_rng(seed)
    fit = balance_fit(rng.uniform(0.1, 0.9, 300), rng.integers(2, 63, 300), np.full(300, 64.0))
    assert fit.r_squared < 0.1


def test_a_dense_network_has_no_fit():
    fit = balance_fit(np.linspace(0.1, 0.9, 50), np.full(50, 64), np.full(50, 64))
    assert np.isnan(fit.slope)
    assert fit.clipped_share == 1
