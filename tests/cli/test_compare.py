"""``synbb compare`` on the command line: what it says of mistakes, and what a dry run prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from synbb.cli.app import main


def study(folder: Path, **changes: object) -> Path:
    """Settings of a study on volumes that are not there: a dry run opens none."""
    volume = {"raw": "raw.zarr", "labels": "labels.zarr"}
    values = {
        "run": {
            "data": {
                "volumes": [
                    {**volume, "name": "a", "split": "train", "regions": ["0:8,0:32,0:64"]},
                    {**volume, "name": "b", "split": "test", "regions": ["0:8,64:96,0:64"]},
                ]
            },
            "model": {"voxel_size": [40, 8, 8]},
        },
        "methods": {"dense": {"method": "none"}, "bb": {"method": "bb"}, "late": {"method": "fixed", "after": "bb"}},
        "densities": [0.1],
        "seeds": [0, 1],
        "reference": "bb",
        **changes,
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def synbb(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["synbb", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    given = ("compare", study(tmp_path), "seeds=[3]", "--output", folder, "--only", "late, dense", "--dry-run")
    assert synbb(*given, monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines[:3]] == [
        "all dense density 1 seed 3",
        "all bb density 0.1 seed 3",
        "all late density 0.1 seed 3",
    ]
    assert f"0 of 3 runs done, 3 to do; table {folder / 'runs.csv'}" in lines
    assert "2 comparisons with bb in each score, 1 seeds" in lines
    assert not folder.exists()


def test_methods_that_are_run_once_are_compared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study(tmp_path, reference="dense", densities=[0.1, 0.2])
    given = ("compare", file, "methods.late={method: magnitude, density: 0.3}", "--output", tmp_path, "--dry-run")
    assert synbb(*given, monkeypatch=monkeypatch) == 0
    assert "3 comparisons with dense in each score, 2 seeds" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"reference": "bbb"}, [], "reference 'bbb' is none of the methods; did you mean 'bb'?"),
        ({"densities": [0]}, [], "study.yaml: densities.0 = 0: Input should be greater than 0"),
        ({}, ["--only", "bx"], "--only 'bx' is none of the study's methods; did you mean 'bb'?"),
        ({}, ["--folds", "b"], "--folds 'b' is none of the study's folds"),
        ({}, ["seed=3"], "study.yaml: unknown key 'seed'; did you mean 'seeds'?"),
        ({}, ["methods.dense.method=bb", "methods.dense.density=0"], "methods.dense.density = 0 is no number above 0"),
        ({"base": "nowhere.yaml"}, [], "config nowhere.yaml: no such file"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert synbb("compare", study(tmp_path, **changes), *arguments, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err
    assert message in said.replace("\n", " ")
    assert "Traceback" not in said
