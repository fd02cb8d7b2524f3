"""``synbb predict`` with ``--cluster`` and ``--worker`` writes what it writes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from tiny import config, trained, write_pair

from synbb.cli.app import main
from synbb.errors import SynbbError
from synbb.volumes import open_volume


def test_all_ways_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path)
    run, _ = trained(config(tmp_path), tmp_path / "run")

    def predict(output: str, *options: str) -> np.ndarray:
        arguments = ["synbb", "predict", str(run.path), "raw.zarr", output, "--block", "4,32,32", *options]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, output
        stored = open_volume(output)
        assert stored.attributes["complete"] is True
        return stored.read(stored.box)

    alone = predict("alone.zarr")
    np.testing.assert_array_equal(predict("worker.zarr", "--worker"), alone)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as workers:
        np.testing.assert_array_equal(predict("cluster.zarr", "--cluster", workers.scheduler_address), alone)
    np.testing.assert_array_equal(predict("worker.zarr"), alone)


def test_both_at_once_are_refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["synbb", "predict", "r", "i", "o", "--cluster", "local:2", "--worker"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == SynbbError.exit_status
    assert "choose one" in capfd.readouterr().err
