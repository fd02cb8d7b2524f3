"""The page of a run's scores."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from synbb.errors import SynbbError
from synbb.evaluation.run_report import run_page, write_run_scores

if TYPE_CHECKING:
    from pathlib import Path

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


def test_cases_are_written_and_go_with_the_next_report(tmp_path: Path) -> None:
    write_run_scores(tmp_path, RESULT, (["file", "wer"], [["a.wav", "0.5"]]))
    assert (tmp_path / "cases.csv").read_text() == "file,wer\na.wav,0.5\n"
    assert json.loads((tmp_path / "scores.json").read_text()) == {"schema_version": 1, **RESULT}
    write_run_scores(tmp_path, RESULT)
    assert {file.name for file in tmp_path.iterdir()} == {"scores.json", "report.html"}


def test_long_paths_are_shortened_and_texts_are_not(tmp_path: Path) -> None:
    said = "the quick brown and/or the lazy his/her dog"
    page = run_page(RESULT, (["audio", "said"], [["/data/an4/wav/an4test_clstk/fcaw/an406.wav", said]]))
    assert "<td>…/fcaw/an406.wav</td>" in page
    assert f"<td>{said}</td>" in page


def test_names_of_files_that_are_no_utf8_are_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"J\xf6rg/1.png")
    result = RESULT | {"notes": [f"test: 1 image left out: {name}"]}
    write_run_scores(tmp_path, result, (["image", "shows"], [[name, "x"]]))
    assert (tmp_path / "cases.csv").read_bytes() == b"image,shows\nJ\xf6rg/1.png,x\n"
    assert json.loads((tmp_path / "scores.json").read_bytes())["notes"] == result["notes"]
    assert "left out: J\\udcf6rg/1.png" in (tmp_path / "report.html").read_text()


def test_sections_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "section_0001.png").write_bytes(b"mine")
    with pytest.raises(SynbbError, match=r"holds section_0001.png, which a report would replace"):
        write_run_scores(tmp_path, RESULT)
    assert (tmp_path / "section_0001.png").read_bytes() == b"mine"
