"""Settings of small studies, and what they leave."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import yaml

from synbb.experiments.config import StudySettings
from synbb.experiments.plan import PlannedRun, plan
from synbb.pruning.rows import RunTable
from synbb.schema import validated

RUN: dict[str, Any] = {
    "task": "toy_task:Points",
    "data": {"noise": 0.2},
    "training": {
        "steps": 30,
        "batch_size": 32,
        "learning_rate": 0.02,
        "validate_every": 30,
        "checkpoint_every": 10,
        "calibration_patches": 50,
        "accelerator": "cpu",
    },
    "pruning": {"refresh": 5, "connection": "weight", "gate": 0.0},
}
STUDY: dict[str, Any] = {
    "run": RUN,
    "methods": {"dense": {"method": "none"}, "magnitude": {"method": "magnitude"}, "random": {"method": "random"}},
    "densities": [0.5, 0.25],
    "seeds": [0, 1],
    "reference": "magnitude",
}
# Of the same run at another time or by another call.
VARYING = {"seconds", "scoring_seconds", "steps_per_second", "commit"}


def study(**changes: Any) -> dict[str, Any]:
    """Values of a study; ``changes`` replace whole keys, those below ``run`` as ``run__training__steps``."""
    values = copy.deepcopy(STUDY)
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = copy.deepcopy(value)
    return values


def write_study(folder: Path, name: str = "study", **changes: Any) -> Path:
    """``NAME.yaml`` in ``folder``, with the toy task beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy_task.py").write_text((Path(__file__).parent / "toy_task.py").read_text())
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(study(**changes), sort_keys=False))
    return file


def planned(folder: Path, **changes: Any) -> tuple[StudySettings, list[PlannedRun], RunTable]:
    """A study whose output is ``folder``, its runs, and its table, which may be empty yet."""
    settings = validated(StudySettings, study(**changes), "study")
    return settings, plan(settings, folder, "study"), RunTable(folder / "runs.csv")


def rows(table: Path) -> list[dict[str, str]]:
    """All rows of a table."""
    with table.open(newline="") as handle:
        return list(csv.DictReader(handle))


def lasting(found: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows without what differs between equal runs, in one order."""
    kept = [{name: value for name, value in row.items() if name not in VARYING} for row in found]
    return sorted(kept, key=lambda row: (row["fold"], row["method"], row["density"], row["seed"]))
