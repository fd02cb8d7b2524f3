"""Jobs that a stand-in for ``sbatch`` really runs: workers of a dask cluster, and a job array. No SLURM is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import stand_in_sbatch
import yaml
from predict_process import predict_blocks
from predicting import BLOCKS, marked, voxels
from tiny import config, trained, write_pair

from synbb.inference.cluster import ClusterDriver
from synbb.inference.cluster_start import connected
from synbb.inference.output import verify_output
from synbb.prediction.volumes import predict
from synbb.volumes import open_volume

CLUSTERS = Path(__file__).parents[2] / "configs" / "clusters"


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where submitted jobs are kept; none outlives the test."""
    kept = stand_in_sbatch.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    yield kept
    for job in stand_in_sbatch.running(kept):
        stand_in_sbatch.end(job)


def wait_until(true: Any, what: str, seconds: float = 200.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def test_jobs_of_the_example_are_workers_and_one_that_dies_is_replaced(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path, jobs: Path
) -> None:
    pytest.importorskip("dask_jobqueue")
    values = yaml.safe_load((CLUSTERS / "slurm.yaml").read_text())
    here = Path(__file__).parent
    values |= {"jobs": 1, "minimum": 1}
    values["options"] |= {
        "cores": 1,
        "memory": "1GB",
        "interface": "lo",
        "local_directory": str(tmp_path),
        "job_script_prologue": ["export OMP_NUM_THREADS=1", f"export PYTHONPATH={here}"],  # where the network is
    }
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(values))
    output, ended = tmp_path / "out.zarr", []

    def run() -> None:
        driver = ClusterDriver(lambda: connected(str(file)), worker_timeout=180)
        ended.append(predict_blocks(str(raw), str(output), 0.1, driver=driver))

    thread = Thread(target=run, daemon=True)
    thread.start()
    wait_until(lambda: output.exists() and marked(output) >= 10, "no block was marked")
    (first,) = stand_in_sbatch.running(jobs)
    stand_in_sbatch.end(first)
    thread.join(200)
    assert [summary.done for summary in ended] == [BLOCKS]
    assert len(list(jobs.glob("[0-9]*"))) >= 2, "another job was submitted"
    np.testing.assert_array_equal(voxels(output), undisturbed)
    wait_until(lambda: not stand_in_sbatch.running(jobs), "jobs are left")


def test_the_job_array_shares_one_output(tmp_path: Path, jobs: Path) -> None:
    write_pair(tmp_path / "data")
    run, _ = trained(config(tmp_path / "data", training__steps=2), tmp_path / "run")
    raw = tmp_path / "data" / "raw.zarr"
    predict(run.path, str(raw), tmp_path / "alone.zarr", write_block=(4, 8, 8), say=lambda _: None)
    synbb = tmp_path / "bin" / "synbb"
    synbb.write_text(f'#!/bin/sh\nexec {sys.executable} -m synbb "$@"\n')
    synbb.chmod(0o755)
    script = tmp_path / "array.sh"
    script.write_text((CLUSTERS / "sbatch_array.sh").read_text().replace("--array=0-7", "--array=0-1"))
    output = tmp_path / "shared.zarr"
    words = ["sbatch", script, run.path, raw, output, "--block", "4,8,8", "--lease-expiry", "2"]
    said = subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert said.startswith("Submitted batch job ")
    assert len(stand_in_sbatch.running(jobs)) == 2
    wait_until(lambda: marked(output) >= 5, "no block was marked")
    stand_in_sbatch.end(stand_in_sbatch.running(jobs)[0])
    wait_until(lambda: not stand_in_sbatch.running(jobs), "the array never ends")
    told = "".join(path.read_text() for path in jobs.glob("log-*"))
    assert "Traceback" not in told
    assert open_volume(output).attributes["complete"] is True, told
    assert verify_output(output) == []
    np.testing.assert_array_equal(voxels(output), voxels(tmp_path / "alone.zarr"))
