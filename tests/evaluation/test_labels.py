from __future__ import annotations

import numpy as np
import pytest

from synbb.evaluation.labels import foreground_and_valid


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_ordinary_masks_are_foreground_above_zero(dtype):
    labels = np.array([0, 1, 0, 1]).astype(dtype)
    foreground, valid = foreground_and_valid(labels)
    assert foreground.tolist() == [False, True, False, True]
    assert valid.all()


def test_largest_values_of_small_types_are_ordinary():
    foreground, valid = foreground_and_valid(np.array([0, 1, 227, 254, 255], np.uint8))
    assert foreground.tolist() == [False, True, True, True, True]
    assert valid.all()


def test_cremi_values():
    labels = np.array([0, 5, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFE, 0xFFFFFFFFFFFFFFFD, 0xFFFFFFFFFFFFFFFC], np.uint64)
    foreground, valid = foreground_and_valid(labels)
    assert foreground.tolist() == [False, True, False, False, False, True]
    assert valid.tolist() == [True, True, True, False, False, True]
