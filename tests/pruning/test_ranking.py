"""Orders of connections against numpy's stable sorts, ties and missing values among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synbb.pruning.ranking import numbered, ranks, ranks_in_rows, strongest

FEW = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0, 2.0])  # so that ties are the rule
SCORES = arrays(np.float64, st.integers(1, 40), elements=FEW)


@given(SCORES, st.integers(-2, 45), st.integers(0, 2**31))
def test_the_strongest_are_those_of_a_stable_sort(scores: np.ndarray, count: int, seed: int) -> None:
    members = np.sort(np.random.default_rng(seed).permutation(len(scores))[: max(len(scores) // 2, 1)])
    by_sort = members[np.argsort(-scores[members], kind="stable")[: max(count, 0)]]
    found = strongest(members, scores, count)
    assert found.tolist() == sorted(by_sort.tolist())


def test_what_is_no_number_is_below_everything() -> None:
    scores = np.array([np.nan, -np.inf, 3.0, np.nan, 1.0])
    assert strongest(np.arange(5), scores, 2).tolist() == [2, 4]
    assert len(strongest(np.arange(5), scores, 4)) == 4
    assert strongest(np.arange(5), np.full(5, np.nan), 2).tolist() == [0, 1]


@given(SCORES)
def test_ranks_are_places_in_a_stable_sort(values: np.ndarray) -> None:
    expected = np.argsort(np.argsort(values, kind="stable"), kind="stable") / len(values)
    np.testing.assert_array_equal(ranks(values), expected)


@pytest.mark.parametrize("apart", [1, 70_000])  # more rows than 16 bits can number take another way
@given(scores=SCORES, seed=st.integers(0, 2**31))
def test_ranks_in_rows_begin_with_the_strongest_of_each(apart: int, scores: np.ndarray, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 4, len(scores)) * apart
    found = ranks_in_rows(scores, rows, np.bincount(rows, minlength=3 * apart + 1))
    for row in np.unique(rows):
        own = np.flatnonzero(rows == row)
        np.testing.assert_array_equal(own[found[own].argsort()], own[np.argsort(-scores[own], kind="stable")])
        assert sorted(found[own].tolist()) == list(range(len(own)))


@given(arrays(np.int64, st.integers(0, 30), elements=st.integers(0, 12)))
def test_numbered_is_what_unique_says(units: np.ndarray) -> None:
    present, places = numbered(units)
    expected, inverse = np.unique(units, return_inverse=True)
    assert present.tolist() == expected.tolist()
    assert places.tolist() == inverse.tolist()
