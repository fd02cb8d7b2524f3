"""The page of a run's scores."""

from __future__ import annotations

from synbb.evaluation.run_report import run_page

RESULT = {
    "synbb_version": "0",
    "created": "2026-11-28",
    "run": "runs/one",
    "run_id": "ab",
    "task": "synapse",
    "split": "test",
    "weights": "last",
    "step": 250,
    "density": 0.25,
    "model_sha256": "12",
    "decision": {
        "threshold": 0.745098,
        "objects": {"low": 0.745098, "bridge": 0, "max_size_nm3": None, "min_size_nm3": 515072.0},
    },
    "main": "pr_auc",
    "scores": {"pr_auc": {"value": 0.73, "low": 0.6, "high": 0.8, "units": {"tiles": 32}}},
    "about": {},
    "notes": [],
}


def test_what_was_decided_is_told_in_words() -> None:
    page = run_page(RESULT)
    assert "threshold 0.7451; objects: low 0.7451, bridge 0, min_size_nm3 515,072" in page
    assert "None" not in page.split("<h2>Figures</h2>")[0]


def test_a_task_that_decides_nothing() -> None:
    assert "<dt>Decision</dt><dd>none</dd>" in run_page(RESULT | {"decision": {}})
