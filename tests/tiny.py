"""Tiny annotated volumes and configs: a run on them takes a second."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from synbb.tasks.annotated import AnnotatedVolume, VolumeSettings
from synbb.training import RunConfig, RunFolder, load_config, make_task, train
from synbb.volumes import Volume, create_volume

VOXEL = (40.0, 8.0, 8.0)
SHAPE = (8, 64, 64)


def write_volume(path: Path, array: np.ndarray, **options: Any) -> Volume:
    """Store an array as OME-Zarr."""
    given = {"voxel_size": VOXEL, "chunks": (4, 32, 32), **options}
    writable = create_volume(path, shape=array.shape, dtype=array.dtype, **given)
    writable.write(writable.box, array)
    return writable.volume


def grey_and_labels(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise with dark blobs, four in each half of the rows, and their labels 1, 2, ... (uint8)."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(110, 200, shape, dtype=np.uint8)
    labels = np.zeros(shape, dtype=np.uint8)
    quarter, half = shape[1] // 4, shape[2] // 2
    for row in range(4):
        for column in range(2):
            z, y, x = 1 + (row + column) % 3, row * quarter + 3, column * half + 6
            labels[z : z + 4, y : y + 9, x : x + 14] = 2 * row + column + 1
    raw[labels > 0] //= 3
    return raw, labels


def write_pair(folder: Path, **options: Any) -> None:
    """``raw.zarr`` and ``labels.zarr``."""
    folder.mkdir(parents=True, exist_ok=True)
    raw, labels = grey_and_labels(**options)
    write_volume(folder / "raw.zarr", raw, attributes={"licence": "CC0", "citation": "nobody"})
    write_volume(folder / "labels.zarr", labels)


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Values of a config on the volumes of :func:`write_pair`; ``changes`` have dotted keys with ``__`` for dots."""
    part = {"raw": str(folder / "raw.zarr"), "labels": str(folder / "labels.zarr")}
    values: dict[str, Any] = {
        "task": "synapse",
        "seed": 3,
        "data": {
            "volumes": [
                {"name": "top", **part, "regions": ["0:8,0:32,0:64"], "split": "train"},
                {"name": "bottom", **part, "regions": ["0:8,32:64,0:64"], "split": "validation"},
            ],
            "patch": [4, 16, 16],
            "cache_mib": 8,
        },
        "model": {"voxel_size": list(VOXEL), "filters": [4, 8, 8]},
        "training": {
            "steps": 12,
            "batch_size": 2,
            "learning_rate": 0.01,
            "validate_every": 6,
            "checkpoint_every": 5,
            "calibration_patches": 50,
            "accelerator": "cpu",
        },
        "pruning": {"density": 0.5, "refresh": 2},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = copy.deepcopy(value)
    return values


def write_config(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """``NAME.yaml`` in ``folder``, where the volumes are too."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(settings(folder, **changes), sort_keys=False))
    return file


def config(folder: Path, **changes: Any) -> RunConfig:
    """Validated settings."""
    return load_config(write_config(folder, "validated", **changes))


def trained(given: RunConfig, output: Path, *, resume: bool = False) -> tuple[RunFolder, list[str]]:
    """Train in this process; the run and what was said."""
    said: list[str] = []
    task = make_task(given)
    try:
        said += task.prepare()
        run = RunFolder.open(output) if resume else RunFolder.create(output, given, data=task.facts())
        train(given, task, run, resume=resume, say=said.append)
    finally:
        task.close()
    return run, said


def annotated(working: tuple[float, float, float] = VOXEL, **entry: Any) -> AnnotatedVolume:
    """An opened entry of ``data.volumes``."""
    values = {"name": "it", "split": "train", **entry}
    return AnnotatedVolume(VolumeSettings(**values), working, percentiles=(1.0, 99.0))
