"""Small volumes for the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from synbb.volumes import Volume, create_volume

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

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
