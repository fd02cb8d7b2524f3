"""Scores of a run on a split of its own config, whatever its task."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from synbb import __version__
from synbb.errors import SynbbError
from synbb.evaluation.report import prepare_folder
from synbb.evaluation.run_report import write_run_scores
from synbb.prediction.trained import Trained, device_named
from synbb.pruning.resampling import interval
from synbb.tasks.base import Table
from synbb.training.start import make_task

SPLITS = ("test", "validation")


def evaluate_run(
    run_path: Path,
    output: Path,
    *,
    split: str = "test",
    which: str = "last",
    device: str = "auto",
    allow_unfinished: bool = False,
    decoding: str | None = None,
    beam: int | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Score a run on the test or validation split of its config.

    Args:
        run_path: folder of the run.
        output: folder for ``scores.json``, ``report.html`` and, where the task tells single cases, ``cases.csv``.
        split: ``test``, or ``validation``, on which thresholds were chosen.
        which: weights, ``last`` or ``best`` on the validation split.
        device: of torch, or ``auto``.
        allow_unfinished: score although the masks are not final.
        decoding: of speech on the test split, ``greedy`` or ``beam``; None is that of the run.
        beam: hypotheses that are kept; None is the run's.
        say: prints a line for a person.

    Returns:
        What ``scores.json`` holds.

    Raises:
        SynbbError: no such run, weights, split or decoding, or a place that is no folder for a report.
        RunEnded: the disk is full.
    """
    if split not in SPLITS:
        raise SynbbError(f"--split {split!r} is none of {', '.join(SPLITS)}")
    trained = Trained.open(run_path, which, allow_unfinished=allow_unfinished).decoded(decoding, beam)
    if split == "validation" and (decoding is not None or beam is not None):
        raise SynbbError(
            "--decoding and --beam: the validation split is decoded greedily, as in training; leave them out"
        )
    run, place = trained.run, device_named(device)
    task = make_task(trained.config)
    prepare_folder(output)  # now: what is in the way would be told after all the work else
    notes: list[str] = []
    cases: Table | None = None
    try:
        for line in task.prepare(run.data_facts()):
            say(line)
        net = trained.load(task.build_model()).to(place)
        if split == "test":
            found = task.score(net, place, trained.decision)
            scores, main, counts = ({}, "", {}) if found is None else (found.scores, found.main, found.resampled)
            notes += [] if found is None else found.notes
            cases = None if found is None else found.cases
        else:
            validated = task.validate(net, place)
            scores, main = ({}, "") if validated is None else (validated.scores, validated.main)
            counts = {}
            notes.append(
                "thresholds and best weights were chosen on this split: its scores are not those of unseen data"
            )
    finally:
        task.close()
    if not scores:
        raise SynbbError(f"{run_path}: the run's config names no {split} split")
    facts = run.data_facts()
    result = {
        "synbb_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": str(run_path),
        "run_id": run.info()["id"],
        "task": trained.config.task,
        "split": split,
        "weights": which,
        "step": trained.about["step"],
        "density": trained.about["density"],
        "model_sha256": trained.about["sha256"],
        "decision": trained.decision,
        "main": main,
        "scores": {name: _figure(value, counts.get(name)) for name, value in scores.items()},
        "about": {key: facts[key] for key in ("licence", "citation") if facts.get(key)},
        "notes": notes,
    }
    write_run_scores(output, result, None if cases is None else (cases.columns, cases.rows))
    return result


def _figure(value: float, counts: Any) -> dict[str, Any]:
    """A figure with its 95 % interval over held-out units, where they were counted; null where it has no meaning."""
    figure: dict[str, Any] = {"value": _plain(value)}
    if counts is not None:
        low, high = interval(counts)
        figure |= {"low": _plain(low), "high": _plain(high), "units": counts.units}
    return figure


def _plain(value: float) -> float | int | None:
    return None if value != value else int(value) if isinstance(value, int) else float(value)
