"""What a label value means: foreground, background, or not to be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

CREMI_BACKGROUND = 0xFFFFFFFFFFFFFFFF
CREMI_IGNORED = (0xFFFFFFFFFFFFFFFD, 0xFFFFFFFFFFFFFFFE)


def foreground_and_valid(labels: NDArray[Any]) -> tuple[Mask, Mask]:
    """Split a label array into foreground and voxels that may be scored.

    An ordinary mask or label array has foreground where the value is above 0, and every voxel counts. ``uint64`` arrays
    follow CREMI and Paintera besides: 0xffffffffffffffff is background, 0xfffffffffffffffe (invalid) and
    0xfffffffffffffffd (outside) are ignored. Id 0 is background in both.

    Args:
        labels: any shape, integers, booleans or floats.

    Returns:
        Two boolean arrays of the same shape: foreground (always within valid), and valid.
    """
    foreground = labels > 0
    if labels.dtype != np.uint64:
        return foreground, np.ones(labels.shape, bool)
    valid = (labels != CREMI_IGNORED[0]) & (labels != CREMI_IGNORED[1])
    return foreground & valid & (labels != CREMI_BACKGROUND), valid
