"""Held-out scores of the synapse task against scikit-learn and counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from tiny import SHAPE, annotated, grey_and_labels, settings, write_pair, write_volume

from synbb.errors import SynbbError
from synbb.evaluation.object_tables import measure_objects
from synbb.tasks.held_out import TILE, HeldOutCounts, true_objects
from synbb.training import make_task
from synbb.training.config import run_config
from synbb.volumes import Box

REGION = Box.parse("0:8,32:64,0:64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("held-out")
    write_pair(made)
    return made


def counted(folder: Path, probability: np.ndarray, region: Box, threshold: float = 0.5, least: float = 0.0, **entry):
    """Count a probability that is given, in two blocks."""
    given = {"raw": str(folder / "raw.zarr"), "labels": str(folder / "labels.zarr"), "split": "test"}
    volume = annotated(**{**given, "regions": [str(region)], **entry})
    counts = HeldOutCounts(threshold, least)
    middle = region.start[1] + region.shape[1] // 3
    z, x = (slice(a, b) for a, b in (region.slices[i].indices(10**6)[:2] for i in (0, 2)))
    boxes = [
        Box((z.start, a, x.start), (z.stop, b, x.stop))
        for a, b in ((region.start[1], middle), (middle, region.stop[1]))
    ]
    counts.add(volume, volume.regions[0], ((box, probability[box.slices]) for box in boxes))
    return counts.held_out()


def test_voxel_scores_are_those_of_scikit_learn(folder: Path) -> None:
    _, labels = grey_and_labels()
    rng = np.random.default_rng(0)
    logits = rng.normal(-4, 3, SHAPE) + 5 * (labels > 0)
    probability = (1 / (1 + np.exp(-logits))).astype(np.float32)
    found = counted(folder, probability, REGION)
    truth, p = (labels > 0)[REGION.slices].ravel(), probability[REGION.slices].ravel()
    assert found.main == "pr_auc"
    assert found.scores["pr_auc"] == pytest.approx(average_precision_score(truth, p), abs=1e-3)
    assert found.scores["voxel_f1"] == pytest.approx(f1_score(truth, np.rint(p * 255) >= 128), abs=1e-9)
    assert found.scores["foreground"] == truth.sum()
    assert found.scores["voxels"] == truth.size
    assert found.scores == pytest.approx({**found.scores, **{n: r.score() for n, r in found.resampled.items()}})


def test_tiles_hold_the_counts_of_their_voxels(tmp_path: Path) -> None:
    shape = (7, 150, 270)
    rng = np.random.default_rng(1)
    labels = (rng.random(shape) < 0.1).astype(np.uint8)
    write_volume(tmp_path / "raw.zarr", rng.integers(0, 255, shape, dtype=np.uint8))
    write_volume(tmp_path / "labels.zarr", labels)
    region = Box.parse("1:7,10:150,3:270")
    found = counted(tmp_path, rng.random(shape, dtype=np.float32), region)
    tiles = found.resampled["pr_auc"].parts["tiles"]
    inside = labels[region.slices]
    expected = []
    for z in range(0, 6, TILE[0]):
        for y in range(0, 140, TILE[1]):
            for x in range(0, 267, TILE[2]):
                part = inside[z : z + TILE[0], y : y + TILE[1], x : x + TILE[2]]
                expected.append([part.sum(), (part == 0).sum()])
    assert tiles.sum(axis=2).tolist() == expected
    assert found.scores["tiles"] == len(expected) == 2 * 2 * 3


def test_objects_by_hand(tmp_path: Path) -> None:
    """Four synapses, one found, one found in part, two missed; a blob far from all and a single voxel are invented."""
    voxel = (40.0, 40.0, 40.0)  # centroids match within 7.5 voxels
    labels, probability = np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.float32)
    for y, x in ((34, 2), (34, 22), (54, 2), (54, 22)):
        labels[2:6, y : y + 5, x : x + 6] = 1
    probability[2:6, 34:39, 2:8] = 0.9
    probability[2:4, 34:37, 22:28] = 0.7
    probability[0:3, 60:63, 50:54] = 0.8
    probability[7, 33, 63] = 0.99
    write_volume(tmp_path / "raw.zarr", 100 + labels, voxel_size=voxel)
    write_volume(tmp_path / "labels.zarr", labels, voxel_size=voxel)
    large = counted(tmp_path, probability, REGION, least=20 * 40**3, working=voxel)
    assert large.scores["objects"] == 4
    assert large.scores["object_recall"] == 0.5
    assert large.scores["object_precision"] == pytest.approx(2 / 3)
    assert large.scores["object_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    every = counted(tmp_path, probability, REGION, working=voxel)
    assert every.scores["object_precision"] == 0.5
    objects = every.resampled["object_f1"].parts["objects"]
    assert sorted(objects.tolist()) == [[0, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert every.resampled["object_f1"].parts["tiles"].tolist() == [[0, 1, 0], [0, 1, 0]]  # sections 0 to 5, 5 to 8
    assert counted(tmp_path, probability, REGION, threshold=0.75, working=voxel).scores["object_recall"] == 0.25


def test_an_object_that_a_border_cuts_counts_where_its_centre_lies(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:5, 24:34, 10:20] = 1  # most of it above row 32
    labels[2:5, 30:44, 40:50] = 1  # most of it below
    write_volume(tmp_path / "raw.zarr", np.full(SHAPE, 100, np.uint8) + labels)
    write_volume(tmp_path / "labels.zarr", labels)
    perfect = labels.astype(np.float32)
    found = counted(tmp_path, perfect, REGION)
    assert found.scores["objects"] == 1
    assert found.scores["object_f1"] == 1.0  # what is predicted of the other one is no mistake
    assert counted(tmp_path, np.zeros(SHAPE, np.float32), REGION).scores["object_recall"] == 0.0


def test_small_objects_are_the_smallest_third(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for i, width in enumerate((4, 8, 12)):
        labels[2:4, 34:38, 20 * i + 2 : 20 * i + 2 + width] = 1
    write_volume(tmp_path / "raw.zarr", np.full(SHAPE, 100, np.uint8) + labels)
    write_volume(tmp_path / "labels.zarr", labels)
    without_smallest = labels.astype(np.float32)
    without_smallest[..., :10] = 0
    found = counted(tmp_path, without_smallest, REGION)
    assert found.scores["small_objects"] == 1
    assert found.scores["small_object_recall"] == 0.0
    assert found.scores["object_recall"] == pytest.approx(2 / 3)


def test_a_run_is_scored_on_test_entries_alone(folder: Path) -> None:
    values = settings(folder)
    part = {"raw": str(folder / "raw.zarr"), "labels": str(folder / "labels.zarr")}
    values["data"]["volumes"][1]["regions"] = ["0:8,32:48,0:64"]
    values["data"]["volumes"].append({"name": "test", **part, "regions": ["0:8,48:64,0:64"], "split": "test"})
    task = make_task(run_config(values, "tiny"))
    try:
        task.prepare()
        torch.manual_seed(0)
        net = task.build_model().eval()
        one = task.score(net, "cpu", {"threshold": 0.5})
        other = task.score(net, "cpu", {"threshold": 0.005})
        assert one.scores["voxels"] == 8 * 16 * 64
        assert one.scores["pr_auc"] == other.scores["pr_auc"] > 0
        assert one.resampled["pr_auc"].units == other.resampled["pr_auc"].units
        with pytest.raises(
            SynbbError, match="cannot be scored without a threshold: add an entry with split: validation"
        ):
            task.score(net, "cpu", {})
    finally:
        task.close()
    untested = make_task(run_config(settings(folder), "tiny"))
    assert untested.score(net, "cpu", {"threshold": 0.5}) is None


def test_annotated_ids_are_the_objects_that_an_evaluation_of_them_counts(tmp_path: Path) -> None:
    ids = np.zeros(SHAPE, np.uint64)
    ids[1:5, 36:46, 4:14], ids[1:5, 36:46, 14:20] = 1, 2  # they touch
    ids[1:3, 40:45, 40:50], ids[1:3, 50:55, 40:50] = 3, 3
    write_volume(tmp_path / "raw.zarr", grey_and_labels()[0])
    stored = write_volume(tmp_path / "ids.zarr", ids)
    volume = annotated(raw=str(tmp_path / "raw.zarr"), labels=str(tmp_path / "ids.zarr"), regions=[str(REGION)])
    found, expected = true_objects(volume, REGION), measure_objects(stored, stored, region=REGION).truth
    assert found.ids.tolist() == expected.ids.tolist() == [1, 2, 3]
    assert found.voxels.tolist() == expected.voxels.tolist() == [400, 240, 200]
    from_corner = np.asarray(REGION.start) * np.asarray(stored.voxel_size)
    np.testing.assert_allclose(found.centroids + from_corner, expected.centroids)
    assert found.counted.all()
    names = {"raw": str(tmp_path / "raw.zarr"), "labels": str(tmp_path / "ids.zarr")}
    assert counted(tmp_path, (ids > 0).astype(np.float32), REGION, **names).scores["objects"] == 3
