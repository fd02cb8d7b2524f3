"""A command line to call, small volumes, and a run that is finished."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import Cli, Ended
from tiny import config, trained, write_pair

from synbb.cli.app import main


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``synbb`` in this process as its entry point does."""

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["synbb", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, error = capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, error)

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pair(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_pair(folder)
    trained(config(folder), folder / "run")
    return folder


@pytest.fixture
def raw(finished: Path) -> Path:
    return finished / "raw.zarr"
