"""A disk that is really full: a small tmpfs, mounted in a namespace of its own, which needs no rights.

Where that is not allowed, the test is skipped and says so; limits on the size of files
(``test_predict_interrupted.py``) then stand for the disk alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predicting import BLOCKS

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.fixture(scope="module")
def found(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``full_disk_process.py`` saw."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "disk").mkdir()
    if shutil.which(NAMESPACE[0]) is None:
        pytest.skip("NO FULL DISK WAS TESTED: there is no unshare here")
    tried = subprocess.run(
        [*NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder / "disk")],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"NO FULL DISK WAS TESTED: no tmpfs may be mounted here ({tried.stderr.strip()})")
    script = Path(__file__).with_name("full_disk_process.py")
    ended = subprocess.run(
        [*NAMESPACE, sys.executable, str(script), str(raw), str(folder / "disk"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def test_predict_ends_with_status_3_and_goes_on_when_there_is_room(
    found: dict[str, Any], undisturbed: np.ndarray
) -> None:
    full, again = found["predict"], found["predict again"]
    assert full["status"] == 3, full
    assert "the disk (or its quota) is full: No space left on device" in full["said"]
    assert "finished blocks are kept" in full["said"]
    assert "Traceback" not in full["said"]
    assert 0 < full["marked"] < BLOCKS
    assert full["damaged"] == [], "what is marked is whole"
    assert again["status"] == 0, again
    assert f"summary {BLOCKS} {BLOCKS - full['marked']} {full['marked']}" in again["said"]
    assert again["damaged"] == []
    assert found["voxels"] == hashlib.sha256(undisturbed.tobytes()).hexdigest()
    assert found["names"] == ["out.zarr", "out.zarr.ledger.jsonl"]


@pytest.mark.parametrize("what", ["labels", "table"])
def test_segment_ends_with_status_3_and_leaves_nothing(found: dict[str, Any], what: str) -> None:
    full, again = found[what], found["segment again"]
    assert full["status"] == 3, full
    assert full["said"].count("\n") == 1, "one line"
    assert "the disk (or its quota) is full: No space left on device" in full["said"]
    assert {"labels": ".o.zarr", "table": ".o.csv"}[what] in full["said"]
    assert full["left"] == ["ballast"]
    assert again["status"] == 0, again
    assert again["left"] == ["o.csv", "o.zarr"]
