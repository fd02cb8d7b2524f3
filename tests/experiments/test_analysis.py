"""Scores of a study whose counts are partly on another machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_study import planned

from synbb.errors import SynbbError
from synbb.experiments.analysis import comparison_of, rows_of, screened_comparison
from synbb.experiments.config import StudySettings
from synbb.experiments.plan import PlannedRun, plan
from synbb.experiments.study import look
from synbb.pruning.resampling import Resampled, save_resampled
from synbb.pruning.rows import RunTable
from synbb.schema import validated


def test_a_score_of_which_some_rows_have_counts_is_a_score_of_all(tmp_path: Path) -> None:
    values = {
        "run": {"task": "toy_task:Points", "data": {}, "training": {"steps": 30}},
        "methods": {"dense": {"method": "none"}, "random": {"method": "random"}},
        "densities": [0.5],
        "seeds": [0, 1],
        "reference": "random",
    }
    study = validated(StudySettings, values, "study")
    runs = plan(study, tmp_path, "study")
    table = RunTable(tmp_path / "runs.csv")
    for number, run in enumerate(runs):
        row = {"main": "accuracy", "accuracy": 0.5 + 0.1 * number, "f1": 0.25 * number, "seconds": 3}
        table.append(run.cell, run.config_hash, row)
    last = runs[-1]
    counts = {
        "f1": Resampled("f1", {"objects": np.ones((4, 3), np.int64)}),
        "seconds": Resampled("error_rate", {"objects": np.ones((4, 2), np.int64)}),
    }
    save_resampled(last.evidence, counts, last.config_hash)
    found = comparison_of(study, runs, table)
    assert list(found.scores) == ["accuracy", "f1", "seconds"]
    assert found.smaller_is_better == {"seconds"}
    lower = {each.score: each.difference.smaller_is_better for each in found.differences(found.scores)}
    assert lower == {"accuracy": False, "f1": False, "seconds": True}
    assert {name for points in found.points.values() for name in points} == {"accuracy", "f1", "seconds"}
    assert all("f1" in points for points in found.points.values()), "rows that came before the counts as well"
    assert found.points[last.cell]["f1"].counts is not None


def errors_of(run: PlannedRun) -> np.ndarray:
    """(6, 2) errors and words; magnitude makes more errors than the other method."""
    wrong = np.arange(6) + run.cell.seed + 3 * (run.cell.method == "magnitude")
    return np.stack([wrong, np.full(6, 20)], axis=1)


@pytest.mark.parametrize("named", [True, False])
def test_counts_of_another_run_at_the_same_place_do_not_count(tmp_path: Path, named: bool) -> None:
    methods = {"magnitude": {"method": "magnitude"}, "random": {"method": "random"}}
    study, runs, table = planned(tmp_path, methods=methods, densities=[0.5], seeds=list(range(5)), reference="random")
    for run in runs:
        counts = Resampled("error_rate", {"groups": errors_of(run)})
        table.append(run.cell, run.config_hash, {"main": "errors", "errors": counts.score()})
        save_resampled(run.evidence, {"errors": counts}, run.config_hash if named else "")
    (ours,) = comparison_of(study, runs, table).differences(["errors"])
    assert (ours.difference.units, ours.difference.verdict) == ({"groups": 6}, "behind")
    for run in runs:  # the study was run again with other settings
        counts = Resampled("error_rate", {"groups": errors_of(run) + 1})
        save_resampled(run.evidence, {"errors": counts}, "0123456789ab" if named else "")
    found = comparison_of(study, runs, table)
    (theirs,) = found.differences(["errors"])
    assert all(each["errors"].counts is None for each in found.points.values())
    assert (theirs.difference.units, theirs.difference.mean) == ({}, ours.difference.mean)
    assert theirs.difference.smaller_is_better, "that is told by the kind of the score, whoever's counts they are"


def test_densities_of_more_digits_than_a_table_holds_are_found_again(tmp_path: Path) -> None:
    values = {
        "run": {"task": "toy_task:Points", "data": {}, "training": {"steps": 30}},
        "methods": {"random": {"method": "random"}, "own": {"method": "magnitude", "density": 1 / 7}},
        "densities": [1 / 3],
        "seeds": [0, 1],
        "reference": "random",
        "screened": str(tmp_path / "runs.csv"),
    }
    study = validated(StudySettings, values, "study")
    runs = plan(study, tmp_path, "study")
    table = RunTable(tmp_path / "runs.csv")
    for number, run in enumerate(runs):
        table.append(run.cell, run.config_hash, {"main": "accuracy", "accuracy": 0.1 * number})
    assert len(rows_of(runs, table)) == len(look(runs, table).done) == 4
    assert comparison_of(study, runs, table).differences(["accuracy"])[0].difference.seeds == 2
    assert screened_comparison(study).differences(["accuracy"])[0].difference.seeds == 2


def test_rows_without_a_main_score_say_nothing(tmp_path: Path) -> None:
    study, runs, table = planned(tmp_path)
    for run in runs:
        table.append(run.cell, run.config_hash, {"main": "accuracy", "accuracy": float("nan")})
    with pytest.raises(SynbbError, match=r"runs.csv: no row of this study has a main score"):
        comparison_of(study, runs, table)
