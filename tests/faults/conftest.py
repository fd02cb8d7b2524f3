"""A small volume, and what one undisturbed process makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from predicting import SHAPE, run, voxels

from synbb.volumes.writing import create_volume


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("input") / "raw.zarr"
    made = create_volume(where, shape=SHAPE, dtype="uint8", voxel_size=(50.0, 9.2, 9.2), chunks=(4, 16, 16))
    made.write(made.box, np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8))
    return where


@pytest.fixture(scope="session")
def undisturbed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    where = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    finished = run(raw, where)
    assert finished.status == 0, finished.text
    return voxels(where)
