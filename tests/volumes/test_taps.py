"""Resampling along an axis, part by part, against the same sums voxel by voxel: equal to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.volumes.taps import Taps, area_taps, linear_taps, resample_taps


def by_position(taps: Taps, array: np.ndarray, axis: int, first: int) -> np.ndarray:
    view = np.moveaxis(array, axis, 0)
    total = 0
    for index, weight in zip(taps.index - first, taps.weight.astype(np.float32), strict=True):
        total = total + (view[index] * weight.reshape(-1, *[1] * (array.ndim - 1))).astype(np.float32)
    return np.moveaxis(total, 0, axis)


@settings(max_examples=200)
@given(
    axis=st.integers(0, 2),
    factor=st.sampled_from([0.125, 0.2, 0.25, 1 / 3, 0.4, 0.5, 0.7, 1, 1.5, 2, 2.5, 4]) | st.floats(0.1, 5),
    length=st.integers(1, 40),
    dtype=st.sampled_from([np.uint8, np.float32]),
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_parts_give_what_positions_give(axis, factor, length, dtype, part) -> None:
    outputs = max(1, int(length / factor))
    start, stop = sorted(int(share * outputs) for share in part)
    start = min(start, outputs - 1)
    taps = resample_taps(start, max(stop, start + 1), factor, length)
    shape = [3, 3, 3]
    shape[axis] = taps.stop - taps.first
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    found = taps.apply(array, axis, taps.first)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, by_position(taps, array, axis, taps.first))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_enlarging_by_a_whole_number_goes_part_by_part(factor: int) -> None:
    taps = linear_taps((np.arange(64 * factor) + 0.5) / factor - 0.5, 64)
    parts = taps._runs()
    assert factor <= len(parts) <= factor + 2
    assert sorted(n for each in parts for n in range(64 * factor)[each]) == list(range(64 * factor))


def test_averaging_is_one_part() -> None:
    assert area_taps(0, 32, 2, 64)._runs() == [slice(0, 32, 1)]
