"""What a threshold means: foreground is p >= threshold, and a uint8 value v is the probability v / 255."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from synbb.evaluation.labels import Mask

UINT8_LEVELS: NDArray[np.float64] = np.arange(256) / 255.0
# A threshold that went through float32 or a rounded printout still means the level it was taken from.
_SLACK = 1e-6


def check_threshold(threshold: float, name: str = "threshold") -> float:
    """Return the threshold as a float in (0, 1].

    Raises:
        SynbbError: it is not a number above 0 and at most 1.
    """
    value = float(threshold)
    if not 0.0 < value <= 1.0:  # false for NaN too
        raise SynbbError(
            f"{name} {threshold} is not a probability above 0 and at most 1 (128 of a uint8 volume is 0.502)"
        )
    return value


def stored_threshold(attributes: Mapping[str, Any], path: str) -> float | None:
    """The threshold in the ``synbb`` attributes of the probabilities at ``path``, None when there is none.

    Raises:
        SynbbError: what is stored there is no probability.
    """
    value = attributes.get("threshold")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SynbbError(f"{path}: the stored threshold {value!r} is not a number; give --threshold")
    return check_threshold(value, f"{path}: the stored threshold")


def lowest_uint8(threshold: float) -> int:
    """The smallest uint8 value that is foreground: the smallest v with v / 255 >= threshold."""
    return int(np.searchsorted(UINT8_LEVELS, check_threshold(threshold) - _SLACK))


def check_dtype(dtype: np.dtype[Any], path: str = "probabilities") -> None:
    """Refuse what cannot be a probability volume.

    Raises:
        SynbbError: the type is neither uint8 nor a float.
    """
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        raise SynbbError(f"{path}: probabilities are uint8 (value / 255) or floats in [0, 1], not {dtype}")


def check_range(probabilities: NDArray[Any], path: str = "probabilities") -> None:
    """Refuse floats that are no probabilities.

    Raises:
        SynbbError: a value is NaN or outside [0, 1].
    """
    if probabilities.dtype == np.uint8 or not probabilities.size:
        return
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= 0.0 and high <= 1.0):
        raise SynbbError(f"{path}: values from {low} to {high} are not probabilities in [0, 1] (logits, or NaN?)")


def foreground(probabilities: NDArray[Any], threshold: float) -> Mask:
    """Where p >= threshold.

    Args:
        probabilities: any shape, uint8 (value / 255) or floats in [0, 1].
        threshold: in (0, 1].
    """
    if probabilities.dtype == np.uint8:
        return probabilities >= np.uint8(lowest_uint8(threshold))
    return probabilities >= check_threshold(threshold)


def as_probability(values: NDArray[Any]) -> NDArray[np.float64]:
    """Stored values as probabilities in float64."""
    scale = 255.0 if values.dtype == np.uint8 else 1.0
    return values.astype(np.float64) / scale
