"""Small volumes for the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synbb.volumes import Volume, create_volume

VOXEL = (40.0, 10.0, 10.0)


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Volume]:
    """Write an array as OME-Zarr and open it: store(name, array, offset=..., attributes=...)."""

    def write(name: str, array: np.ndarray, **options: Any) -> Volume:
        settings = {"voxel_size": VOXEL, "chunks": (4, 8, 8), **options}
        writable = create_volume(tmp_path / name, shape=array.shape, dtype=array.dtype, **settings)
        writable.write(writable.box, array)
        return writable.volume

    return write
