"""Linear resampling along one axis as a few weighted reads per output voxel.

Each output voxel is the sum of ``count`` input voxels times their weights, added in a fixed order. Its
value is thus a function of its global position alone, to the last bit, whatever block it was computed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


MOST_PARTS = 8
"""Largest whole number by which an axis is enlarged part by part."""


@dataclass(frozen=True)
class Taps:
    """Inputs (global positions) and weights, both of shape (count, outputs)."""

    index: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    @property
    def first(self) -> int:
        """First input voxel that is read."""
        return int(self.index.min())

    @property
    def stop(self) -> int:
        """One past the last input voxel that is read."""
        return int(self.index.max()) + 1

    def apply(self, array: npt.NDArray[Any], axis: int, first: int) -> Floats:
        """Resample ``array`` along ``axis``; its voxel 0 has the global position ``first``."""
        if not len(self.index):
            raise ValueError("no taps")
        shape = list(array.shape)
        shape[axis] = self.index.shape[1]
        found = np.empty(shape, np.float32)
        view, out = np.moveaxis(array, axis, 0), np.moveaxis(found, axis, 0)
        weights = self.weight.astype(np.float32).reshape(*self.weight.shape, *[1] * (view.ndim - 1))
        for places in self._runs():
            for number, index in enumerate(self.index[:, places] - first):
                taken, weight = view[_as_slice(index)], weights[number, places]
                if number:
                    out[places] += taken * weight
                else:
                    np.multiply(taken, weight, out=out[places], casting="same_kind")
        return found

    def _runs(self) -> list[slice]:
        """Outputs in parts, in each of which the inputs of every tap are evenly spaced, but for a few at the ends.

        Enlarged by a whole number f, every f-th output lies alike between its inputs: f parts, as slices, take a third
        of the time that positions would.
        """
        outputs = self.index.shape[1]
        for period in range(1, MOST_PARTS + 1):
            steps = self.index[:, period:] - self.index[:, :-period]
            if not steps.size:
                break
            middle = steps.shape[1] // 2
            uneven = np.flatnonzero((steps != steps[:, [middle]]).any(axis=0))
            begin = int(uneven[uneven < middle].max(initial=-1)) + 1
            end = int(uneven[uneven > middle].min(initial=steps.shape[1])) + period
            if end - begin >= outputs - 4 * period:
                parts = [slice(begin + part, end, period) for part in range(period)]
                return [each for each in (slice(0, begin), *parts, slice(end, outputs)) if each.start < each.stop]
        return [slice(0, outputs)]


def _as_slice(index: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """The same positions as a slice where they are evenly spaced: no copy, much faster."""
    if len(index) == 1:
        return slice(int(index[0]), int(index[0]) + 1)
    steps = np.diff(index)
    step = int(steps[0])
    return slice(int(index[0]), int(index[-1]) + 1, step) if step > 0 and (steps == step).all() else index


def area_taps(start: int, stop: int, factor: float, length: int) -> Taps:
    """Mean over [w f, (w + 1) f) with fractional weights at the edges, over what exists of it.

    Args:
        start: first output voxel.
        stop: one past the last.
        factor: input voxels in an output voxel, at least 1.
        length: input voxels of the whole axis.
    """
    outputs = np.arange(start, stop, dtype=np.float64)
    begin = outputs * factor
    end = np.minimum(begin + factor, length)
    count = int(factor) if float(factor).is_integer() else ceil(factor) + 1
    index = np.floor(begin + 1e-9).astype(np.int64) + np.arange(count)[:, None]
    weight = np.clip(np.minimum(end, index + 1) - np.maximum(begin, index), 0, None)
    return Taps(np.minimum(index, length - 1), weight / weight.sum(axis=0))


def linear_taps(positions: npt.NDArray[np.float64], length: int) -> Taps:
    """Linear interpolation at ``positions`` (in input voxels, centres at whole numbers), clamped to the axis."""
    clamped = np.clip(positions, 0, length - 1)
    low = np.floor(clamped).astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    share = clamped - low
    return Taps(np.stack([low, high]), np.stack([1 - share, share]))


def resample_taps(start: int, stop: int, factor: float, length: int) -> Taps:
    """Area mean where voxels grow (``factor`` above 1), linear interpolation between centres where they shrink."""
    if factor >= 1:
        return area_taps(start, stop, factor, length)
    return linear_taps((np.arange(start, stop, dtype=np.float64) + 0.5) * factor - 0.5, length)
