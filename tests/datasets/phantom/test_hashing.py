from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from synbb.datasets.phantom.hashing import hash_at, noise_plane, normal_scalar, uniform_at


@given(st.integers(0, 2**40), st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
def test_a_draw_depends_on_its_place_only(seed: int, y: int, x: int) -> None:
    alone = hash_at(seed, "s", y, x)[0]
    among = hash_at(seed, "s", np.array([[y - 1], [y]]), np.array([x, x + 1]))
    assert among[1, 0] == alone
    assert len(np.unique(among)) == 4


def test_streams_and_seeds_differ() -> None:
    index = np.arange(1000)
    draws = [uniform_at(seed, stream, index) for seed in (0, 1) for stream in ("a", "b", "ab")]
    correlations = np.corrcoef(draws)[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 0.15
    assert all(abs(d.mean() - 0.5) < 0.05 and d.min() >= 0 and d.max() < 1 for d in draws)


def test_noise_is_white_with_unit_variance_and_the_same_in_any_window() -> None:
    rows, columns = np.arange(200), np.arange(-50, 250)
    noise = noise_plane(3, "grain", 7, rows, columns)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    for shifted in (noise[1:].ravel() * noise[:-1].ravel(), noise[:, 1:].ravel() * noise[:, :-1].ravel()):
        assert abs(float(shifted.mean())) < 0.02
    assert np.array_equal(noise_plane(3, "grain", 7, rows[40:60], columns[100:130]), noise[40:60, 100:130])
    assert not np.array_equal(noise_plane(3, "grain", 8, rows, columns), noise)


def test_normal_scalars_have_mean_zero_and_variance_one() -> None:
    draws = [normal_scalar(0, "n", z) for z in range(2000)]
    assert abs(np.mean(draws)) < 0.1
    assert abs(np.std(draws) - 1) < 0.1
