"""Identification and verification: by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from synbb.errors import SynbbError
from synbb.evaluation.verification import (
    BINS,
    accepted_at,
    count_all_pairs,
    equal_error_threshold,
    mean_by_identity,
    pair_histograms,
    rank,
    rates,
)
from synbb.pruning.resampling import Resampled


def unit(*angles: float) -> np.ndarray:
    """Unit vectors in the plane, degrees."""
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_probes_are_named_by_the_nearest_entry() -> None:
    # b's probe lies nearer to a; c is in no gallery.
    found = rank(unit(0, 90), ["a", "b"], unit(10, 40, 80, 60), ["a", "b", "b", "c"])
    assert found.best.tolist() == [0, 0, 1, 1]
    assert found.correct.tolist() == [True, False, True, False]
    assert found.known.tolist() == [True, True, True, False]
    assert found.rank_1 == pytest.approx(2 / 3)
    np.testing.assert_allclose(found.similarity, np.cos(np.deg2rad([10, 40, 10, 30])))


def test_open_set_rates_by_hand() -> None:
    found = rank(unit(0, 90), ["a", "b"], unit(10, 85, 40, 50, 20), ["a", "b", "x", "y", "z"])
    strict = found.threshold_at(0.0)  # no stranger may be named: above the cosine of 20 degrees
    assert found.alarms_at(strict) == 0
    assert np.cos(np.deg2rad(20)) < strict < np.cos(np.deg2rad(10))
    assert found.identified_at(strict) == 1.0
    loose = found.threshold_at(1 / 3)
    assert found.alarms_at(loose) == pytest.approx(1 / 3)
    assert found.threshold_at(1.0) == float("-inf")
    assert found.identified_at(0.99) == 0.5  # cos 5 = 0.996, cos 10 = 0.985
    alone = rank(unit(0), ["a"], unit(1), ["a"])
    assert np.isnan(alone.threshold_at(0.1)), "nobody is unknown"
    assert np.isnan(alone.identified_at(alone.threshold_at(0.1))), "at no threshold, and not 0"
    assert alone.identified_at(0.5) == 1
    assert np.isnan(rank(unit(0), ["a"], unit(1), ["b"]).rank_1), "nobody is known"


def test_the_even_threshold_by_hand() -> None:
    # a and b are right at cosines of 10 and 20 degrees, a second b is taken for a; strangers come to 15 and 45.
    found = rank(unit(0, 180), ["a", "b"], unit(10, 160, 20, 15, 45), ["a", "b", "b", "x", "y"])
    # One of three known is missed and one stranger of two named above 45 degrees; above 20 two, and one: as uneven.
    even = found.even_threshold()
    assert even == pytest.approx(np.cos(np.deg2rad([45, 20])).mean())
    assert (found.identified_at(even), found.alarms_at(even)) == (pytest.approx(2 / 3), 0.5)
    apart = rank(unit(0), ["a"], unit(10, 20, 60, 80), ["a", "a", "x", "y"])
    assert apart.even_threshold() == pytest.approx(np.cos(np.deg2rad([20, 60])).mean()), (
        "halfway where nothing is wrong"
    )
    assert np.isnan(rank(unit(0), ["a"], unit(1), ["a"]).even_threshold()), "nobody is unknown"
    assert np.isnan(rank(unit(0), ["a"], unit(1), ["b"]).even_threshold()), "nobody is known"


@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from("ax")), min_size=2, max_size=30),
)
def test_no_threshold_is_more_even(probes: list[tuple[int, str]]) -> None:
    angles, names = zip(*probes, strict=True)
    found = rank(unit(0), ["a"], unit(*(4.0 * angle for angle in angles)), names)
    if len({*names}) == 1:
        assert np.isnan(found.even_threshold())
        return

    def unevenness(threshold: float) -> float:
        return abs(1 - found.identified_at(threshold) - found.alarms_at(threshold))

    others = [-2.0, *found.similarity, *np.nextafter(found.similarity, 2)]
    assert unevenness(found.even_threshold()) <= min(map(unevenness, others)) + 1e-9


def test_galleries_that_do_not_fit() -> None:
    with pytest.raises(SynbbError, match="the gallery is empty"):
        rank(np.zeros((0, 2)), [], unit(1), ["a"])
    with pytest.raises(SynbbError, match="embeddings of 3 numbers, the probes have 2"):
        rank(np.eye(3), ["a", "b", "c"], unit(1), ["a"])


def test_the_mean_of_an_identity_is_a_unit_vector_between() -> None:
    means, names = mean_by_identity(unit(80, 0, 20), ["b", "a", "a"])
    assert names == ["a", "b"]
    np.testing.assert_allclose(means, unit(10, 80), atol=1e-12)


@given(seed=st.integers(0, 10**6), identities=st.integers(2, 6), each=st.integers(2, 5))
def test_all_pairs_are_those_counted_one_by_one(seed: int, identities: int, each: int) -> None:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(identities), each)
    vectors = rng.normal(size=(len(owner), 3)) + 2 * rng.normal(size=(identities, 3))[owner]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counted = count_all_pairs(vectors, owner)
    first, second = np.triu_indices(len(owner), k=1)
    cosines = (vectors[first] * vectors[second]).sum(axis=1)
    genuine = owner[first] == owner[second]
    assert counted[:, 0].sum() == genuine.sum()
    assert counted[:, 1].sum() == (~genuine).sum()
    np.testing.assert_array_equal(counted.sum(axis=(1, 2)), np.bincount(owner[first], minlength=identities))
    area = Resampled("roc_auc", {"identities": counted}).score()
    # Cosines in one bin of 0.0005 count as ties.
    assert area == pytest.approx(roc_auc_score(genuine, np.floor((cosines + 1) * BINS / 2)), abs=1e-9)


def test_equal_error_and_acceptance_are_those_of_scikit_learns_curve() -> None:
    rng = np.random.default_rng(1)
    genuine = rng.random(4000) < 0.3
    cosines = np.clip(rng.normal(0.2 + 0.4 * genuine, 0.25), -1, 1)
    counted = pair_histograms(cosines, genuine, np.zeros(4000, np.int64), 1)
    false, true, _ = roc_curve(genuine, cosines)
    wanted = false[np.argmin(np.abs(false - (1 - true)))]
    assert Resampled("equal_error", {"pairs": counted}).score() == pytest.approx(wanted, abs=2e-3)
    at, threshold = accepted_at(counted[0], 0.01)
    assert at == pytest.approx(true[false <= 0.01].max(), abs=5e-3)
    assert (cosines[~genuine] >= threshold).mean() <= 0.01
    even = equal_error_threshold(counted[0])
    assert (cosines[~genuine] >= even).mean() == pytest.approx((cosines[genuine] < even).mean(), abs=5e-3)


def test_equal_error_by_hand() -> None:
    # Genuine at bins 1 and 3, impostors at 0 and 2: at the threshold of bin 2 half of each is wrong.
    counts = np.array([[[0, 1, 0, 1], [1, 0, 1, 0]]])
    assert Resampled("equal_error", {"pairs": counts}).score() == pytest.approx(0.5)
    assert Resampled("roc_auc", {"pairs": counts}).score() == pytest.approx(0.75)
    apart = np.array([[[0, 0, 2, 2], [3, 1, 0, 0]]])
    assert Resampled("equal_error", {"pairs": apart}).score() == 0.0
    assert Resampled("roc_auc", {"pairs": apart}).score() == 1.0
    only_genuine = np.array([[[0, 0, 2, 2], [0, 0, 0, 0]]])
    assert np.isnan(Resampled("equal_error", {"pairs": only_genuine}).score())
    assert np.isnan(Resampled("roc_auc", {"pairs": only_genuine}).score())


def test_pairs_that_are_wholly_apart_are_parted_in_the_middle() -> None:
    counted = pair_histograms(np.array([-0.5, 0.1, 0.8, 0.9]), np.array([0, 0, 1, 1], bool), np.zeros(4, np.int64), 1)
    assert equal_error_threshold(counted[0]) == pytest.approx(0.45, abs=2 * 2 / BINS)


def test_acceptance_at_just_the_false_rate_asked_for_by_hand() -> None:
    # One impostor of four in bin 2 and none above; of four genuine pairs three from there on.
    counts = np.array([[0, 1, 2, 1], [2, 1, 1, 0]])
    assert accepted_at(counts, 0.25) == (0.75, 2 * 2 / BINS - 1)
    assert accepted_at(counts, 0.24) == (0.25, 2 * 3 / BINS - 1)
    assert accepted_at(counts, 1.0) == (1.0, -1.0)


def test_rates_fall_from_one_to_nothing() -> None:
    counted = pair_histograms(np.array([-1.0, 0.0, 0.5, 1.0]), np.array([0, 1, 0, 1], bool), np.zeros(4, np.int64), 1)
    true, false = rates(counted[0])
    assert (true[0], false[0], true[-1], false[-1]) == (1, 1, 0, 0)
    assert (np.diff(true) <= 0).all()
    assert (np.diff(false) <= 0).all()
