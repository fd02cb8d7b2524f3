"""From drawn people to scores in one call of the pipeline; a second call does nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pipeline_call import ROOT, call


@pytest.mark.slow
def test_pipeline_on_drawn_people(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs" / "faces" / "phantom-faces.yaml").read_text())
    config["training"] |= {"steps": 80, "validate_every": 80, "checkpoint_every": 40}
    (tmp_path / "people.yaml").write_text(yaml.safe_dump(config))
    said = call("faces", tmp_path, "people.yaml")
    run = tmp_path / "runs" / "people"
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    found = scores["scores"]["rank_1"]["value"]
    assert found > 0.2, "chance is 0.05"
    assert scores["about"]["licence"] == "CC0-1.0"
    assert f"rank-1 identification {found:.3f}\n" in said
    assert len((run / "embeddings-phantom-faces.csv").read_text().splitlines()) == 201
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = call("faces", tmp_path, "people.yaml")
    assert again.count("current") == 4
    assert f"rank-1 identification {found:.3f} (scored before)" in again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
