"""From made-up speech to transcripts in one call of the pipeline; a second call does nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from pipeline_call import ROOT, call


@pytest.mark.slow
def test_pipeline_on_made_up_speech(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs" / "speech" / "phantom-speech.yaml").read_text())
    config["training"] |= {"steps": 30, "validate_every": 30, "checkpoint_every": 30}
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(config))
    said = call("speech", tmp_path, "words.yaml")
    run = tmp_path / "runs" / "words"
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    found = scores["scores"]["word_accuracy"]
    assert found["units"] == {"speakers": 4}
    assert scores["scores"]["wer"]["value"] == pytest.approx(1 - found["value"])
    assert scores["about"]["licence"] == "CC0-1.0"
    assert f"word accuracy, 1 - WER {found['value']:.3f}\n" in said
    with (run / "evaluation" / "cases.csv").open() as file:
        cases = list(csv.DictReader(file))
    wrong = [int(case["wrong_words"]) for case in cases]
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) / sum(int(case["words"]) for case in cases) == pytest.approx(scores["scores"]["wer"]["value"])
    assert cases[0]["said"] in (run / "evaluation" / "report.html").read_text()
    with (run / "transcripts-phantom-speech.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 400
    assert {*rows[0]} == {"audio", "text", "seconds"}
    pruning = json.loads((run / "pruning.json").read_text())
    assert pruning["density"] == pytest.approx(0.25, abs=0.001)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = call("speech", tmp_path, "words.yaml")
    assert again.count("current") == 4
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
