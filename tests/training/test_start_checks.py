"""What is looked at before the first step: test entries, guards, tasks of runs that are resumed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny import config, settings, trained, write_config, write_pair

from synbb.errors import SynbbError
from synbb.pruning.masks import save_masks
from synbb.training import load_config, make_task
from synbb.training.start import _warnings, start_run


def prepared(folder: Path, test: dict[str, object]) -> list[str]:
    volumes = settings(folder)["data"]["volumes"]
    volumes.append({**volumes[0], "name": "scored", "split": "test", **test})
    task = make_task(load_config(write_config(folder, data__volumes=volumes)))
    try:
        return task.prepare()
    finally:
        task.close()


def test_a_wrong_test_entry_is_found_before_training(tmp_path: Path) -> None:
    write_pair(tmp_path, shape=(8, 96, 64))
    with pytest.raises(SynbbError, match=r"'scored': region 0:8,64:200,0:64 is empty or not inside"):
        prepared(tmp_path, {"regions": ["0:8,64:200,0:64"]})
    lines = prepared(tmp_path, {"regions": ["0:8,64:96,0:64"], "raw": str(tmp_path / "later.zarr")})
    assert any("later.zarr is not there; it is only needed to be scored" in line for line in lines)


def test_splits_without_a_guard_are_told(tmp_path: Path) -> None:
    write_pair(tmp_path, shape=(8, 400, 64))

    def told(*regions: str) -> list[str]:
        names = ("train", "validation", "test")
        volumes = [
            {**settings(tmp_path)["data"]["volumes"][0], "name": name, "split": name, "regions": [region]}
            for name, region in zip(names, regions, strict=True)
        ]
        task = make_task(load_config(write_config(tmp_path, data__volumes=volumes)))
        try:
            return [line for line in task.prepare() if "leave a guard" in line]
        finally:
            task.close()

    assert not told("0:8,0:100,0:64", "0:8,150:250,0:64", "0:8,300:400,0:64")
    close = told("0:8,0:100,0:64", "0:8,102:250,0:64", "0:8,300:400,0:64")
    assert len(close) == 1
    assert close[0].startswith("train (train) and validation (validation) lie 2 voxels apart along y, and the network")


def test_a_run_of_another_task_is_named_as_such(tmp_path: Path) -> None:
    write_pair(tmp_path)
    trained(config(tmp_path), tmp_path / "run")
    other = {"task": "faces", "data": {"images": [{"folder": "nowhere", "split": "train"}]}, "model": {}}
    from synbb.training.config import run_config

    with pytest.raises(SynbbError, match="holds a run of task 'synapse', and this config is of task 'faces'"):
        start_run(run_config(other, "test"), tmp_path / "run", resume=True, say=lambda _: None)


def test_emulated_precision_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path)
    monkeypatch.setattr(sys.modules[start_run.__module__], "emulates_bf16", lambda: True)
    for number, (precision, told) in enumerate((("bf16-mixed", True), ("32-true", False))):
        said: list[str] = []
        chosen = {"training__precision": precision, "training__accelerator": "cpu", "training__steps": 1}
        start_run(config(tmp_path, **chosen), tmp_path / str(number), resume=False, say=said.append)
        assert any("has no instructions for bf16" in line for line in said) == told


@pytest.mark.parametrize(
    ("pruning", "jumps"),
    [
        ({"method": "magnitude"}, 3),  # of 12 steps, the ramp is 5
        ({"method": "magnitude", "refresh": 1}, None),
        ({"method": "bb", "density": 0.25, "tau": 0.3}, 3),
        ({"method": "magnitude", "density": 1}, None),
        ({"method": "none"}, None),
        ({"method": "random-from-start"}, None),
        ({"method": "snip"}, None),
        ({"method": "set"}, None),
        ({"method": "rigl"}, None),
        ({"method": "bb", "from_start": True}, None),
        ({"method": "magnitude", "schedule": [[0, 1], [1, 0.5]]}, None),
        ({"method": "magnitude", "schedule": [[0.5, 1], [0.75, 0.5]]}, 2),
        ({"method": "magnitude", "refresh": 1, "schedule": [[0.5, 1], [0.75, 0.5]]}, 3),
        ({"method": "fixed", "masks_from": "run/masks.safetensors"}, None),
    ],
    ids=str,
)
def test_few_jumps_are_told_where_the_density_falls(
    pruning: dict[str, object], jumps: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    save_masks({"a": torch.ones(2, 2).triu() > 0}, "run/masks.safetensors")
    told = _warnings(config(tmp_path, pruning={"density": 0.5, "refresh": 2, **pruning}))
    assert [line.split(":")[0] for line in told] == ([f"the density falls in few jumps, {jumps}"] if jumps else [])
    held = _warnings(config(tmp_path, pruning={"density": 0.5, "refresh": 2, **pruning}, training__start_from="run"))
    assert not held, "the masks of that run are kept"


def test_what_ends_before_a_checkpoint_leaves_no_run(tmp_path: Path) -> None:
    write_pair(tmp_path)
    wrong = config(tmp_path, pruning__method="os:getcwd", pruning__ramp=0, pruning__warmup=0)
    with pytest.raises(TypeError, match="getcwd"):  # a defect of a score of one's own keeps its traceback
        start_run(wrong, tmp_path / "run", resume=False, say=lambda _: None)
    assert not (tmp_path / "run").exists()
