"""Paired differences against worked numbers, and against simulated truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from synbb.pruning.paired import (
    LEAST_SEEDS,
    Difference,
    PairedBootstrap,
    Point,
    complete,
    holm,
    seed_means,
    smallest_detectable,
    summary,
    t_quantile,
    t_tail,
)
from synbb.pruning.resampling import Resampled


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 4, 19, 300])
def test_students_distribution(freedom: float) -> None:
    for t in (0.0, 0.3, 1.0, 2.776, 8.0):
        assert t_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-5)
    for probability in (0.5, 0.8, 0.975, 0.9995):
        assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-4, abs=1e-6)


def test_smallest_detectable_has_the_power_it_says() -> None:
    sd, n, m = 0.02, 5, 10
    least = smallest_detectable(sd, n, m)
    critical = stats.t.ppf(1 - 0.025 / m, n - 1)
    assert stats.nct.sf(critical, n - 1, least * math.sqrt(n) / sd) == pytest.approx(0.8, abs=1e-4)
    draws = np.random.default_rng(0).normal(least, sd, (4000, n))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05 / m) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 12])
def test_smallest_detectable_with_few_and_many_seeds(seeds: int) -> None:
    critical = stats.t.ppf(0.975, seeds - 1)
    least = smallest_detectable(1.0, seeds, 1) * math.sqrt(seeds)
    assert stats.nct.sf(critical, seeds - 1, least) == pytest.approx(0.8, abs=2e-3)


def test_summary_and_difference_by_hand() -> None:
    ours = {
        ("a", 0): Point(0.5),
        ("a", 1): Point(0.7),
        ("b", 0): Point(0.3),
        ("b", 1): Point(0.5),
        ("a", 2): Point(0.9),
    }
    theirs = {
        ("a", 0): Point(0.4),
        ("a", 1): Point(0.5),
        ("b", 0): Point(0.2),
        ("b", 1): Point(0.2),
        ("b", 7): Point(1),
    }
    found = summary(ours)  # seed 2 has the first fold alone
    assert (found.mean, found.seeds, found.folds) == (pytest.approx(np.mean([0.4, 0.6])), 2, 2)
    assert found.sd == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert seed_means(ours) == {0: pytest.approx(0.4), 1: pytest.approx(0.6)}
    gap = PairedBootstrap().difference(ours, theirs)  # seeds 0 and 1: (0.1 + 0.1) / 2 and (0.2 + 0.3) / 2
    assert gap.mean == pytest.approx(0.175)
    assert gap.sd == pytest.approx(np.std([0.1, 0.25], ddof=1))
    assert (gap.seeds, gap.folds, gap.low, gap.high, gap.p) == (2, 2, None, None, None)
    assert gap.verdict == "no claim: 2 paired seeds"


def test_folds_that_a_method_lacks_move_no_mean_and_make_no_pairs() -> None:
    ours = {
        (fold, seed): Point(score + 0.01 * seed) for fold, score in (("easy", 0.9), ("hard", 0.5)) for seed in range(5)
    }
    theirs = {key: point for key, point in ours.items() if key[0] == "easy" or key[1] == 0}
    assert (summary(theirs).mean, summary(theirs).seeds, summary(theirs).folds) == (pytest.approx(0.7), 1, 2)
    found = PairedBootstrap().difference(theirs, ours)
    assert (found.mean, found.seeds, found.folds, found.low) == (0, 1, 2, None)
    assert found.verdict == "no claim: 1 paired seeds"
    easy = PairedBootstrap().difference({key: p for key, p in ours.items() if key[0] == "easy"}, ours)
    assert (easy.seeds, easy.folds) == (5, 1), "pairs of the folds that both have"


def test_complete_seeds() -> None:
    assert complete([]) == []
    assert complete([("b", 1), ("a", 0)]) == [("a", 0)], "of two that are alike the first"
    assert complete([("a", 0), ("b", 2), ("a", 2), ("b", 1), ("a", 1)]) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_no_pair_no_difference() -> None:
    found = PairedBootstrap().difference({("a", 0): Point(1.0)}, {("a", 1): Point(1.0)})
    assert math.isnan(found.mean)
    assert found.seeds == 0
    missing = PairedBootstrap().difference({("a", 0): Point(math.nan)}, {("a", 0): Point(1.0)})
    assert missing.seeds == 0


def accuracies(rng: np.random.Generator, seeds: int, units: int, gap: float) -> tuple[dict, dict]:
    """Two methods on the same units: hard and easy ones, good and bad seeds, and ``gap`` in the chance of being right.

    The effect of a seed is part of the paired difference with SD 0.04.
    """
    ours, theirs = {}, {}
    hard = rng.normal(0, 0.15, units)
    for seed in range(seeds):
        good, own = rng.normal(0, 0.05), rng.normal(0, 0.04)
        for points, shift in ((ours, gap + own), (theirs, 0.0)):
            right = rng.random((units, 10)) < np.clip(0.6 + hard + good + shift, 0, 1)[:, None]
            counts = np.stack([right.sum(axis=1), np.full(units, 10)], axis=1)
            each = Resampled("ratio", {"objects": counts})
            points["fold", seed] = Point(each.score(), each)
    return ours, theirs


def test_a_known_difference_is_found() -> None:
    ours, theirs = accuracies(np.random.default_rng(3), 8, 200, 0.2)
    found = holm([PairedBootstrap().difference(ours, theirs)])[0]
    assert found.units == {"objects": 200}
    assert found.low < 0.2 < found.high
    assert found.low > 0.05
    assert found.verdict == "ahead"
    back = holm([PairedBootstrap().difference(theirs, ours)])[0]
    assert back.verdict == "behind"
    assert back.mean == pytest.approx(-found.mean)
    assert [replace(each, smaller_is_better=True).verdict for each in (found, back)] == ["behind", "ahead"]


@pytest.mark.parametrize(("seeds", "units"), [(5, 60), (10, 30)])
def test_intervals_cover_the_truth(seeds: int, units: int) -> None:
    """Nominal 95 %; of 200 studies with a true difference of 0.1 at least 91 % must cover it, and not all."""
    rng = np.random.default_rng(seeds)
    covered, excluded = 0, 0
    for _ in range(200):
        found = PairedBootstrap(400).difference(*accuracies(rng, seeds, units, 0.1))
        covered += found.low <= 0.1 <= found.high
        excluded += found.low > 0
    assert 182 <= covered <= 199
    assert excluded > 60


def test_seeds_alone_where_the_counts_of_one_run_are_lost() -> None:
    ours, theirs = accuracies(np.random.default_rng(3), LEAST_SEEDS, 50, 0.2)
    theirs["fold", 2] = Point(theirs["fold", 2].score)
    found = PairedBootstrap().difference(ours, theirs)
    assert found.units == {}
    assert found.low < found.mean < found.high
    gaps = np.array([ours[key].score - theirs[key].score for key in ours])
    t_interval = stats.t.interval(0.95, LEAST_SEEDS - 1, gaps.mean(), stats.sem(gaps))
    assert found.high - found.low == pytest.approx(t_interval[1] - t_interval[0], rel=0.4)
    assert found.p == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue, rel=0.3)


def test_the_same_units_are_drawn_for_both() -> None:
    """Methods that are wrong on the same units differ by their gap alone, however much the units differ."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 50, 40)
    ours, theirs = {}, {}
    for seed in range(5):
        for points, extra in ((ours, 5), (theirs, 0)):
            each = Resampled("ratio", {"objects": np.stack([right + extra, np.full(40, 100)], axis=1)})
            points["fold", seed] = Point(each.score(), each)
    found = PairedBootstrap().difference(ours, theirs)
    assert (found.low, found.high) == (pytest.approx(0.05), pytest.approx(0.05))


def test_holm_by_hand() -> None:
    def of(p: float | None) -> Difference:
        return Difference(0.1, 0.1, None, None, p, LEAST_SEEDS, 1, {})

    found = holm([of(0.004), of(0.04), of(None), of(0.03), of(0.9)])  # of five, one of which is not yet there
    assert [each.p_adjusted for each in found] == [
        pytest.approx(0.02),
        pytest.approx(0.12),
        None,
        pytest.approx(0.12),
        1.0,
    ]
    assert [each.verdict for each in found] == [
        "ahead",
        "no difference shown",
        "no claim",
        *["no difference shown"] * 2,
    ]
    assert {each.comparisons for each in found} == {5}
