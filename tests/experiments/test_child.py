"""What a child of a study makes of the folder that it finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from synbb.errors import SynbbError
from synbb.experiments.child import _check_numbers, _prepare
from synbb.training.config import run_config
from synbb.training.run import RunFolder


@pytest.mark.parametrize("newer", [False, True])
def test_a_run_goes_on_with_the_masks_that_it_began_with(tmp_path: Path, newer: bool) -> None:
    masks = tmp_path / "masks.safetensors"
    masks.touch()
    volume = {"raw": "raw.zarr", "labels": "labels.zarr", "name": "a", "split": "train", "regions": ["0:8,0:32,0:64"]}
    values = {
        "task": "synapse",
        "data": {"volumes": [volume]},
        "model": {"voxel_size": [40, 8, 8]},
        "pruning": {"method": "fixed", "masks_from": str(masks)},
    }
    config = run_config(values, "study")
    run = RunFolder.create(tmp_path / "run", config)
    written = run.config_file.stat().st_mtime_ns + (1 if newer else -1)
    os.utime(masks, ns=(written, written))
    assert _prepare(run.path, config) is not newer
    assert run.path.exists() is not newer


def test_scores_are_numbers() -> None:
    _check_numbers({"main": "acc", "device": "cpu", "acc": 0.5, "n": 3, "f1": None, "slope": float("inf")}, "toy")
    for value in ("good", True):
        with pytest.raises(SynbbError, match=f"task 'toy' gives acc = {value!r}: scores are Python's numbers"):
            _check_numbers({"main": "acc", "acc": value}, "toy")
