"""What a report says beside its tables."""

from __future__ import annotations

import json
from pathlib import Path

from toy_study import planned, rows

from synbb.experiments.analysis import comparison_of
from synbb.experiments.report import device_lines, write_report

UNITS = "on_rate,kappa,capacity,clipped,group,direction\n0.2,0.5,64,0,a,fan_in\n0.3,0.4,64,0,a,fan_in\n"


def test_rows_of_two_devices_are_told() -> None:
    (line,) = device_lines([{"device": "cpu"}, {"device": "NVIDIA H100"}, {"device": "cpu"}, {"device": ""}, {}])
    assert "NVIDIA H100 (1), cpu (2)" in line


def test_rows_of_one_device_are_not() -> None:
    assert device_lines([{"device": "cpu"}, {"device": "cpu"}, {"device": ""}, {}]) == []


def test_the_balance_of_another_run_at_the_same_place_is_not_drawn(tmp_path: Path) -> None:
    study, runs, table = planned(tmp_path, densities=[0.5], seeds=[0])
    for run in runs:
        table.append(run.cell, run.config_hash, {"main": "accuracy", "accuracy": 0.5})
    (reference,) = (run for run in runs if run.cell.method == study.reference)
    reference.folder.mkdir(parents=True)
    (reference.folder / "balance.csv").write_text(UNITS)
    for config_hash in ("0123456789ab", reference.config_hash):
        (reference.folder / "scored.json").write_text(json.dumps({"config_hash": config_hash, "row": {}}))
        write_report(study, runs, table, comparison_of(study, runs, table), tmp_path)
        assert (tmp_path / "balance.png").exists() == (config_hash == reference.config_hash)


def test_runs_of_seeds_without_all_folds_are_told(tmp_path: Path) -> None:
    folds = {"one": {}, "two": {"data.held_out": 1}}
    study, runs, table = planned(tmp_path, densities=[0.5], folds=folds)
    for run in runs:
        if (run.cell.fold, run.cell.seed) != ("two", 1):
            table.append(run.cell, run.config_hash, {"main": "accuracy", "accuracy": 0.5})
    lines = write_report(study, runs, table, comparison_of(study, runs, table), tmp_path)
    told = "3 finished runs stand behind no mean: their seed lacks folds that another seed of the method has."
    assert lines.index(told) == [line.startswith("9 of 12 runs") for line in lines].index(True) + 1
    assert "accuracy, mean and SD of 1 seed x 2 folds" in lines
    assert told in (tmp_path / "summary.md").read_text()


def test_methods_with_a_density_of_their_own_are_named(tmp_path: Path) -> None:
    methods = {"dense": {"method": "none"}, "tuned": {"method": "magnitude", "density": 0.1}, "set": {"method": "set"}}
    study, runs, table = planned(tmp_path, methods=methods, reference="set", seeds=[0])
    for run in runs:
        table.append(run.cell, run.config_hash, {"main": "accuracy", "accuracy": 0.5})
    lines = write_report(study, runs, table, comparison_of(study, runs, table), tmp_path)
    assert "Not at equal density: dense at 1, tuned at 0.1, run once and compared at every density." in lines


def test_a_local_budget_is_told_with_what_came_of_it(tmp_path: Path) -> None:
    """Its method is run once, without a density, and is not taken for a dense one."""
    methods = {
        "dense": {"method": "none"},
        "local": {"method": "bb", "tau": 0.3, "act": "over_budget"},
        "again": {"method": "fixed", "after": "local"},
        "set": {"method": "set"},
    }
    for densities in ([0.5], [0.5, 0.25]):
        output = tmp_path / str(len(densities))
        study, runs, table = planned(output, methods=methods, reference="set", densities=densities)
        for run in runs:
            assert run.config.pruning.tau == (0.3 if run.cell.method == "local" else None)
            realised = {"dense": 1.0, "local": 0.18, "again": 0.18}.get(run.cell.method, run.cell.density)
            score = {"main": "accuracy", "accuracy": 0.5, "realised_density": realised + 0.01 * run.cell.seed}
            table.append(run.cell, run.config_hash, score)
        assert sum(run.cell.method == "local" for run in runs) == 2
        lines = write_report(study, runs, table, comparison_of(study, runs, table), output)
        named = ["local (tau 0.3, density 0.185)", "again (tau 0.3, density 0.185)"]
        told = f"Not at equal density: dense at 1, {', '.join(named)}, run once and compared at every density."
        assert told in lines
        assert any(line.split()[:2] == ["0.185", "local"] for line in lines)
        differences = rows(output / "differences.csv")
        assert {row["method_density"] for row in differences if row["method"] in ("local", "again")} == {"0.185"}
        drawn = (output / "score-against-density.svg").read_text()
        assert all(name in drawn for name in named)
        assert "dense (" not in drawn
