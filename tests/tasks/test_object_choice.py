"""Rules of objects are chosen on the validation split, by the code that segments, and found again by ``segment``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import VOXEL, config, settings, trained, write_pair, write_volume

from synbb.errors import SynbbError
from synbb.evaluation.detection import ObjectTable
from synbb.evaluation.evaluate import evaluate_volumes
from synbb.evaluation.runs import label
from synbb.inference.objects import segment
from synbb.prediction.volumes import predict
from synbb.tasks.object_choice import ObjectSearch, RegionOfObjects, choose_rules
from synbb.training.config import run_config
from synbb.volumes import open_volume

SHAPE = (8, 64, 64)
THRESHOLD = 0.6
MEDIAN = 3 * 10 * 10 * float(np.prod(VOXEL))


def place(centre: tuple[int, int, int], half: tuple[int, int, int] = (1, 5, 5)) -> tuple[slice, ...]:
    return tuple(slice(c - h, c + h + (h == 1)) for c, h in zip(centre, half, strict=True))


def region(p: NDArray[Any], truth: NDArray[Any], blank: tuple[int, ...] = ()) -> RegionOfObjects:
    """A region with these probabilities and these objects (labels)."""
    ids = np.unique(truth[truth > 0])
    centroids = [np.argwhere(truth == i).mean(axis=0) * VOXEL for i in ids]
    empty = np.where(np.isin(np.arange(len(p)), blank), p[0].size, 0)
    return RegionOfObjects(np.rint(p * 255).astype(np.uint8), VOXEL, ObjectTable.of(centroids), empty)


def discs(*centres: tuple[int, int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Probability 0.9 and labels of discs of 3 x 10 x 10 voxels."""
    p, truth = np.zeros(SHAPE), np.zeros(SHAPE, np.uint8)
    for number, centre in enumerate(centres, 1):
        p[place(centre)] = 0.9
        truth[place(centre)] = number
    return p, truth


def chosen(made: RegionOfObjects, **tried: Any) -> Any:
    return choose_rules([made], ObjectSearch(**{"least_objects": 1, **tried}), THRESHOLD, MEDIAN)


def test_of_equally_good_rules_the_plainest_are_taken() -> None:
    found = chosen(region(*discs((3, 16, 16), (3, 48, 48))))
    assert found.f1 == found.plain_f1 == 1
    assert found.rules == {
        "low": THRESHOLD,
        "bridge": 0,
        "split_nm": 0,
        "min_size_nm3": pytest.approx(0.1 * MEDIAN),
        "max_size_nm3": None,
    }
    assert found.tried == 2 * 3 * 4 * 2, "without a gap no bridge is tried"


def test_touching_discs_are_split() -> None:
    p, truth = discs((3, 16, 16), (3, 16, 44))
    p[3, 14:18, 21:39] = 0.65
    found = chosen(region(p, truth))
    assert found.rules["split_nm"] == 200, "the discs are 224 nm apart"
    assert (found.plain_f1, found.f1) == (pytest.approx(2 / 3), 1), "one of two, at precision 1"


def test_halves_that_a_doubtful_middle_joins_are_one() -> None:
    p, truth = np.zeros(SHAPE), np.zeros(SHAPE, np.uint8)
    for x in (10, 28, 46):
        p[3:6, 20:30, x - 6 : x + 6] = 0.9 if x != 28 else 0.4
    p[3:6, 20:30, 16:40] = 0.4
    truth[3:6, 20:30, 4:52] = 1
    found = chosen(region(p, truth))
    assert found.rules["low"] == pytest.approx(0.5 * THRESHOLD)
    assert found.f1 == 1 > found.plain_f1


def test_a_gap_in_the_validation_regions_decides_on_bridging() -> None:
    p, truth = np.zeros(SHAPE), np.zeros(SHAPE, np.uint8)
    p[1:7, 20:30, 20:30] = 0.9
    truth[1:7, 20:30, 20:30] = 1
    p[3:5] = 0
    found = chosen(region(p, truth, blank=(3, 4)))
    assert found.rules["bridge"] == 2
    assert found.tried == 2 * 3 * 3 * 4 * 2
    assert found.f1 == 1 > found.plain_f1


def test_specks_and_smears_decide_on_the_sizes() -> None:
    p, truth = discs((3, 12, 12), (3, 12, 50))
    for x in range(0, 60, 8):
        p[3, 30:38, x : x + 5] = 0.9  # 0.13 of the median
    p[:, 44:62, :] = 0.9
    found = chosen(region(p, truth), max_size=(None, 5.0))
    assert found.rules["min_size_nm3"] == pytest.approx(0.2 * MEDIAN)
    assert found.rules["max_size_nm3"] == pytest.approx(5 * MEDIAN)
    assert found.f1 == 1 > found.plain_f1


def test_without_an_object_that_counts_nothing_is_chosen() -> None:
    p, _ = discs((3, 12, 12))
    assert chosen(region(p, np.zeros(SHAPE, np.uint8))) is None


def test_of_few_objects_nothing_is_chosen() -> None:
    made = region(*discs((3, 16, 16), (3, 48, 48)))
    assert chosen(made, least_objects=2) is not None
    assert chosen(made, least_objects=3) is None
    assert ObjectSearch().least_objects == 10


@pytest.mark.parametrize("seed", [0, 1])
def test_the_score_is_that_of_segment_and_evaluate(tmp_path: Path, seed: int) -> None:
    """With the chosen rules stored beside the probabilities, and nothing said."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(SHAPE) < 0.003).astype(np.uint8)
    for axis in (1, 2):
        truth |= np.roll(truth, 1, axis) | np.roll(truth, 2, axis)
    p = np.clip(0.7 * truth + rng.normal(0.15, 0.2, SHAPE), 0, 1)
    p[4] = 0
    objects, _ = label(truth > 0, 26)
    tried: dict[str, Any] = {"min_size": (0.0, 0.02), "max_size": (None, 0.1), "low": (1.0, 0.4)}
    found = chosen(region(p, objects, blank=(4,)), **tried)
    attributes = {"kind": "probabilities", "threshold": THRESHOLD, "no_data_sections": [4], **found.rules}
    stored = write_volume(tmp_path / "p.zarr", np.rint(p * 255).astype(np.uint8), attributes=attributes)
    write_volume(tmp_path / "truth.zarr", truth)
    segment(stored, tmp_path / "o.zarr")
    scores = evaluate_volumes(truth=tmp_path / "truth.zarr", objects=tmp_path / "o.zarr", output=tmp_path / "scores")
    assert scores["objects"]["by_distance"]["f1"] == pytest.approx(found.f1)
    assert found.f1 >= found.plain_f1


def test_a_run_keeps_its_choice_and_segment_finds_it(tmp_path: Path) -> None:
    write_pair(tmp_path / "data")
    run, said = trained(
        config(tmp_path / "data", training__steps=30, data__objects={"least_objects": 1}), tmp_path / "run"
    )
    about = json.loads((run.path / "weights" / "last.json").read_text())
    rules = about["decision"]["objects"]
    assert rules["tried"] == 2 * 3 * 4 * 2
    assert about["validation"]["object_f1"] == rules["object_f1"] >= rules["plain_object_f1"]
    assert "object-f1" in "".join(said)
    told: list[str] = []
    raw, out = str(tmp_path / "data" / "raw.zarr"), tmp_path / "p.zarr"
    predict(run.path, raw, out, say=told.append)
    assert "rules of objects chosen with it: low" in "".join(told)
    stored = open_volume(str(out))
    found = segment(stored, tmp_path / "o.zarr")
    for name in ("low", "bridge", "split_nm", "min_size_nm3", "max_size_nm3"):
        assert stored.attributes.get(name) == rules[name]
        assert getattr(found.rules, name) == rules[name]
    assert found.sources["low"] == "stored"
    assert found.chosen_on == "validation split of the run"
    other = segment(stored, tmp_path / "other.zarr", threshold=0.001, split_nm=70.0)
    assert other.rules.low <= other.rules.threshold == 0.001, "the stored one belongs to the stored threshold"
    assert (other.rules.split_nm, other.sources["split_nm"]) == (70.0, "given")


def test_it_can_be_left_out_and_misspelled(tmp_path: Path) -> None:
    write_pair(tmp_path / "data")
    run, _ = trained(config(tmp_path / "data", data__objects=False, training__steps=2), tmp_path / "run")
    about = json.loads((run.path / "weights" / "last.json").read_text())
    assert list(about["decision"]) == ["threshold"]
    assert "object_f1" not in about["validation"]
    values = settings(tmp_path / "data", data__objects={"splt_nm": [0, 100]})
    with pytest.raises(SynbbError, match=r"unknown key 'splt_nm' in data\.objects; did you mean 'split_nm'"):
        run_config(values, "tiny.yaml")
    values = settings(tmp_path / "data", data__objects={"low": [1.5]})
    with pytest.raises(SynbbError, match=r"data\.objects\.low"):
        run_config(values, "tiny.yaml")
