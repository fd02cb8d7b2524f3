"""``--cluster``: its three forms, the file of a batch system, and the job that is submitted (to a stand-in)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from synbb.errors import SynbbError
from synbb.inference import cluster_start
from synbb.inference.cluster_start import absolute, connected, read_cluster_file
from synbb.inference.cluster_worker import worker_device

EXAMPLE = Path(__file__).parents[2] / "configs" / "clusters" / "slurm.yaml"


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where a stand-in for sbatch puts each job script; it runs none."""
    folder = tmp_path / "submitted"
    folder.mkdir()
    (tmp_path / "bin").mkdir()
    for name, text in {
        "sbatch": f'for last; do :; done\nn=$(ls {folder} | wc -l)\ncp "$last" {folder}/$n\necho "batch job $n"',
        "scancel": "true",
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return folder


def test_the_example_is_submitted_as_written(submitted: Path) -> None:
    with connected(str(EXAMPLE), lifetime_stagger="7m") as connection:
        assert connection.threads == 64
        until = time.monotonic() + 30
        while not list(submitted.iterdir()) and time.monotonic() < until:
            time.sleep(0.05)
    scripts = [path.read_text() for path in submitted.iterdir()]
    assert len(scripts) == 1, "minimum: 1"
    for expected in (
        "#SBATCH -p gpu",
        "#SBATCH -t 04:00:00",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --cpus-per-task=8",
        "export OMP_NUM_THREADS=2",
        "--lifetime 225m --lifetime-stagger 7m",
        "--nthreads 8",
    ):
        assert expected in scripts[0]


def test_without_dask_jobqueue_it_is_named(submitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with (
        pytest.raises(SynbbError, match=r"dask-jobqueue.*-e '\.\[cluster\]'"),
        connected(str(EXAMPLE)),
    ):
        pass


def test_without_the_batch_system_its_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SynbbError, match="sbatch is not on PATH"), connected(str(EXAMPLE)):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sytem": "slurm"}, "unknown key 'sytem'; did you mean 'system'"),
        ({"system": "cron"}, "system = 'cron'"),
        ({"jobs": 0}, "jobs = 0"),
        ({"lifetime": "soon"}, "lifetime = 'soon': is no duration"),
        ({"options": {"worker_extra_args": "--resources GPU=1"}}, "worker_extra_args '--resources GPU=1' is no list"),
        ({"options": {"worker_extra_args": None}}, "worker_extra_args None is no list of words"),
        ({"options": {"worker_extra_args": [["--resources"]]}}, "is no list of words"),
    ],
)
def test_mistakes_in_the_file_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(EXAMPLE.read_text()), **change}))
    with pytest.raises(SynbbError, match=message):
        read_cluster_file(str(file))


def test_values_that_yaml_cannot_read_are_told(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("system: !!timestamp 2026-99-99")
    with pytest.raises(SynbbError, match=r"--cluster .*cluster.yaml is not valid YAML: month must be in 1..12"):
        read_cluster_file(str(file))


def test_an_unknown_option_is_named(submitted: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    values = yaml.safe_load(EXAMPLE.read_text())
    file.write_text(yaml.safe_dump({**values, "options": {**values["options"], "wall_time": "1:00"}}))
    with pytest.raises(SynbbError, match=r"cluster.yaml: options: .*wall_time"), connected(str(file)):
        pass


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("local:0", "wants a number of workers"),
        ("remote", "is none of local:N"),
        ("missing.yaml", "cannot be read"),
        ("tcp://127.0.0.1:1", "no scheduler answers"),
    ],
)
def test_other_mistakes_are_named(where: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synbb.inference.cluster_start.PATIENCE", "1s")
    with pytest.raises(SynbbError, match=message), connected(where):
        pass


@pytest.mark.parametrize("where", ["local:1", "tcp://127.0.0.1:1"])
@pytest.mark.parametrize(
    ("told", "option"), [({"lifetime": "10m"}, "--lifetime is"), ({"lifetime_stagger": "1m"}, "--lifetime-stagger is")]
)
def test_lifetimes_of_workers_that_are_no_jobs_are_refused(where: str, told: dict[str, str], option: str) -> None:
    with pytest.raises(SynbbError, match=f"{option} of use with the YAML file .* and --cluster is '{where}'"):
        connected(where, **told)


def test_words_for_the_workers_stay_beside_their_lifetime(submitted: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    values = yaml.safe_load(EXAMPLE.read_text())
    words = {"worker_extra_args": ["--nworkers", 2]}
    file.write_text(yaml.safe_dump({**values, "options": {**values["options"], **words}}))
    with cluster_start.job_cluster(read_cluster_file(str(file)), str(file)) as cluster:
        assert "--nworkers 2 --lifetime 225m --lifetime-stagger 10m" in cluster.job_script()


def test_paths_become_absolute_and_addresses_stay() -> None:
    assert absolute("raw.h5:volumes/raw") == str(Path.cwd() / "raw.h5:volumes/raw")
    assert absolute("n5://raw.n5") == f"n5://{Path.cwd() / 'raw.n5'}"
    for address in ("s3://bucket/raw.zarr", "precomputed://gs://bucket/raw"):
        assert absolute(address) == address


def test_workers_of_one_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_device("cuda:1", "0") == "cuda:1"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [worker_device("auto", name) for name in ("0", "3", "5", "SLURMCluster-2-1", "tcp://host")] == [
        "cuda:0",
        "cuda:3",
        "cuda:1",
        "cuda:1",
        "cuda:0",
    ]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert worker_device("auto", "3") == "cpu"


def test_local_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # dask by itself would set 1
    with connected("local:1") as connection:
        connection.client.wait_for_workers(1, timeout=60)
        assert connection.client.run(torch.get_num_threads).popitem()[1] == 2


@pytest.mark.parametrize(("cores", "workers", "threads"), [(16, 1, 8), (16, 4, 2), (64, 2, 4), (2, 1, 2), (2, 4, 2)])
def test_beside_gpus_local_workers_have_threads_to_read_and_write(
    cores: int, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert cluster_start._local_threads(workers) == 1 or torch.cuda.is_available()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert cluster_start._local_threads(workers) == threads


def test_threads_of_local_workers_are_theirs_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_start, "_local_threads", lambda workers: 3)
    with connected("local:2") as connection:
        connection.client.wait_for_workers(2, timeout=60)
        assert list(connection.client.nthreads().values()) == [3, 3]
        assert connection.threads == 6
