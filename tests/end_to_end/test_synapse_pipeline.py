"""From a dataset to scored synapses, in one call of the pipeline; a second call does nothing."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pipeline_call import ROOT, call, refused
from tiny import grey_and_labels, settings, write_config, write_volume

from synbb.volumes import open_volume

SHAPE = (8, 96, 64)


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_pipeline_on_a_tiny_volume(tmp_path: Path) -> None:
    raw, labels = grey_and_labels(SHAPE)
    write_volume(tmp_path / "raw.zarr", raw, attributes={"licence": "CC0", "citation": "nobody"})
    write_volume(tmp_path / "labels.zarr", labels)
    volumes = settings(tmp_path)["data"]["volumes"]
    volumes.append({**volumes[0], "name": "test", "regions": ["0:8,64:96,0:64"], "split": "test"})
    config = write_config(
        tmp_path, data__volumes=volumes, training__steps=50, training__validate_every=50, training__learning_rate=0.02
    )
    said = call("synapse", tmp_path, config)
    run = tmp_path / "runs" / "tiny"
    results = run / "test"
    for name in ("probabilities.zarr", "synapses.zarr", "synapses.csv", "evaluation/report.html"):
        assert (results / name).exists(), name
    scores = json.loads((results / "evaluation" / "scores.json").read_text())
    assert "schema_version" in scores
    voxels = scores["voxels"]
    assert 0.5 < voxels["average_precision"] <= 1
    threshold = json.loads((run / "weights" / "last.json").read_text())["decision"]["threshold"]
    assert voxels["at_threshold"]["threshold"] == pytest.approx(threshold, abs=1 / 255)
    assert voxels["best"]["f1"] >= voxels["at_threshold"]["f1"] > 0.3
    objects = scores["objects"]["by_distance"]
    assert 0 < objects["truth"] <= 4
    probabilities, found = open_volume(results / "probabilities.zarr"), open_volume(results / "synapses.zarr")
    assert probabilities.shape == found.shape == (8, 32, 64)
    assert probabilities.offset == found.offset == (0.0, 512.0, 0.0)
    assert probabilities.attributes["licence"] == found.attributes["licence"] == "CC0"
    with (results / "synapses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(np.unique(found.read(found.box))) - 1
    assert "PR-AUC" in said
    before = snapshot(tmp_path)
    again = call("synapse", tmp_path, config)
    for stage in ("train", "predict test", "segment test", "evaluate test"):
        assert f"{stage}: current" in again
    assert snapshot(tmp_path) == before

    # Another annotation is scored anew; what was predicted stays.
    labels[labels == labels.max()] = 0
    write_volume(tmp_path / "labels.zarr", labels, overwrite=True)
    again = call("synapse", tmp_path, config)
    for stage in ("train", "predict test", "segment test"):
        assert f"{stage}: current" in again
    assert "labels.zarr: changed since the training began, which is not repeated" in again
    assert "raw.zarr: changed" not in again
    assert "(scored before)" not in again
    relabelled = json.loads((results / "evaluation" / "scores.json").read_text())["objects"]["by_distance"]
    assert relabelled["truth"] == objects["truth"] - 1

    # Another volume is predicted anew, no block is kept.
    stored = probabilities.read(probabilities.box)
    write_volume(tmp_path / "raw.zarr", raw[:, ::-1], overwrite=True)
    again = call("synapse", tmp_path, config)
    assert "current" in again.split("predict test")[0], "the training"
    assert again.count("current") == 1
    assert (open_volume(results / "probabilities.zarr").read(probabilities.box) != stored).mean() > 0.1


def test_volumes_lie_in_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    monkeypatch.delitem(sys.modules, "synapse", raising=False)
    from synapse import files_of

    given = ("a/raw.zarr:2", "a/raw.zarr", "b.h5:volumes/raw", "n5://c.n5", "s3://bucket/raw.zarr")
    assert files_of(*given) == [Path(name) for name in ("a/raw.zarr", "a/raw.zarr", "b.h5", "c.n5")]


def test_a_test_entry_with_a_mask_is_refused_before_the_training(tmp_path: Path) -> None:
    volumes = settings(tmp_path)["data"]["volumes"]
    entry = {"name": "scored", "regions": ["0:8,64:96,0:64"], "split": "test", "mask": "mask.zarr"}
    volumes.append({**volumes[0], **entry})
    said = refused("synapse", tmp_path, write_config(tmp_path, data__volumes=volumes))
    assert "data.volumes 'scored': this pipeline would not heed `mask` of a test entry" in said
    assert "`synbb evaluate RUN`" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.real_data
def test_real_volume_from_fetching_to_scores(
    vnc_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from synbb.cli.app import main

    def synbb(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["synbb", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, error = capsys.readouterr()
        assert not ended.value.code, out + error
        return out

    monkeypatch.chdir(tmp_path)
    synbb("data", "fetch", "vnc", "--from", vnc_folder, "--to", "data")
    part = {
        "raw": "data/vnc/stack1_raw.zarr",
        "labels": "data/vnc/stack1_synapses.zarr",
        "extent": "0:20,0:512,0:704",  # never a column from 704 on
    }
    volumes = [
        {"name": "train", **part, "regions": ["0:20,160:480,0:704"], "split": "train"},
        {"name": "validation", **part, "regions": ["8:16,0:128,384:576"], "split": "validation"},
    ]
    file = write_config(
        tmp_path,
        "vnc",
        data__volumes=volumes,
        data__patch=[4, 32, 32],
        data__cache_mib=64,
        model__voxel_size=[50, 9.2, 9.2],
        training__steps=8,
        training__validate_every=8,
        pruning__gate=0.0,  # eight steps spread no on-rates
    )
    region = "0:8,160:288,0:128"
    said = synbb("train", file)
    assert "level 0, as stored" not in said  # 4.6 nm pixels, worked at 9.2
    assert "area mean over 2" in said
    synbb("predict", "runs/vnc", part["raw"], "out.zarr", "--region", region)
    synbb("segment", "out.zarr", "synapses.zarr", "--threshold", "0.5")
    synbb(
        "evaluate",
        *("--truth", part["labels"], "--probabilities", "out.zarr", "--objects", "synapses.zarr"),
        *("--raw", part["raw"], "--region", region, "--output", "scores"),
    )
    out = open_volume("out.zarr")
    assert out.shape == (8, 128, 128)
    assert out.voxel_size == pytest.approx((50, 4.6, 4.6), rel=0.02)
    assert "NC-SA" in out.attributes["licence"]
    scores = json.loads(Path("scores/scores.json").read_text())
    assert 0 < scores["voxels"]["average_precision"] < 1
    assert Path("scores/report.html").stat().st_size > 1000
