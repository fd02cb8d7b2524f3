"""The commands on speech: from made-up words to transcripts, and what they refuse."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pipeline_call import ROOT
from typer.testing import CliRunner

from synbb.cli.app import app
from synbb.datasets.phantom_speech import SpeechPhantom, write_phantom_speech


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with words, a config and a trained run."""
    folder = tmp_path_factory.mktemp("speech")
    write_phantom_speech(folder / "words", SpeechPhantom(speakers=4, utterances=4, vocabulary=2, words=(1, 2)))
    corpus = {"corpus": str(folder / "words")}
    config = {
        "task": "speech",
        "data": {
            "corpora": [
                {**corpus, "split": "train", "speakers": [0, 2]},
                {**corpus, "split": "validation", "speakers": [2, 3]},
                {**corpus, "split": "test", "speakers": [3, 4]},
            ],
            "features": {"mels": 20},
        },
        "model": {"width": 16, "layers": 1, "heads": 2, "hidden": 16},
        "training": {"steps": 4, "validate_every": 4, "batch_size": 4},
        "pruning": {"refresh": 1, "gate": 0, "connection": "weight"},
    }
    (folder / "words.yaml").write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["train", str(folder / "words.yaml"), "--output", str(folder / "run")])
    assert result.exit_code == 0, result.output
    return folder


def call(place: Path, *arguments: object, status: int = 0) -> str:
    """What a command says; PLACE stands for the folder."""
    words = [str(word).replace("PLACE", str(place)) for word in arguments]
    result = CliRunner().invoke(app, words)
    said = result.output + (str(result.exception) if result.exception else "")
    assert (result.exit_code == 0) == (status == 0), said
    return said


def test_transcripts_are_written_once_and_files_that_are_none_listed(place: Path, tmp_path: Path) -> None:
    (place / "words" / "broken.wav").write_bytes(b"nothing that sounds")
    try:
        said = call(place, "predict", "PLACE/run", "PLACE/words", "--output", tmp_path / "t.csv")
    finally:
        (place / "words" / "broken.wav").unlink()
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {*rows[0]} == {"audio", "text", "seconds"}
    assert "times as fast as it was spoken" in said
    assert "left out (1)" in said
    assert "broken.wav" in (tmp_path / "t.left-out.csv").read_text()
    before = (tmp_path / "t.csv").read_text()
    said = call(place, "predict", "PLACE/run", "PLACE/words", tmp_path / "t.csv", status=2)
    assert "t.csv exists; choose another name, or pass --overwrite" in said
    assert (tmp_path / "t.csv").read_text() == before
    call(place, "predict", "PLACE/run", "PLACE/words/s01", tmp_path / "t.csv", "--overwrite")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5
    assert not (tmp_path / "t.left-out.csv").exists(), "that of the call before"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dry-run"], "--dry-run: of use with volumes alone"),
        (["--precision", "bf16", "--flips", "x"], "--precision, --flips: of use with volumes alone"),
    ],
)
def test_options_for_volumes_are_refused(place: Path, tmp_path: Path, options: list[str], said: str) -> None:
    assert said in call(place, "predict", "PLACE/run", "PLACE/words", tmp_path / "t.csv", *options, status=2)
    assert not list(tmp_path.iterdir())


def test_a_single_file_that_is_no_audio_is_named_once(place: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("words")
    said = call(place, "predict", "PLACE/run", tmp_path / "text.wav", tmp_path / "t.csv", status=2)
    assert said.count("text.wav") == 1


def test_scores_have_a_page_and_a_case_for_each_utterance(place: Path, tmp_path: Path) -> None:
    said = call(place, "evaluate", "PLACE/run", "--output", tmp_path / "scores")
    assert "test: 4 utterances of 1 speaker, " in said
    assert len((tmp_path / "scores" / "cases.csv").read_text().splitlines()) == 5
    assert "Cases, the worst first" in (tmp_path / "scores" / "report.html").read_text()
    assert "by the run's pruning.statistic" in call(place, "prune-report", "PLACE/run")


def test_a_trained_run_is_decoded_as_asked(place: Path, tmp_path: Path) -> None:
    for name, options in {"greedy": [], "narrow": ["--beam", 1], "wide": ["--beam", 50]}.items():
        decoding = ["--decoding", "beam", *options] if options else []
        call(place, "predict", "PLACE/run", "PLACE/words", tmp_path / f"{name}.csv", *decoding)
    texts = {name: [row["text"] for row in _rows(tmp_path / f"{name}.csv")] for name in ("greedy", "narrow", "wide")}
    assert len({*map(tuple, texts.values())}) == 3, "each finds something else of a network that knows next to nothing"
    said = call(place, "evaluate", "PLACE/run", "--output", tmp_path / "scores", "--decoding", "beam", "--beam", 50)
    assert "decoded by a beam of 50 hypotheses" in said.replace("\n", " ")
    texts_of = {row["audio"]: row["text"] for row in _rows(tmp_path / "wide.csv")}
    cases = [row for row in _rows(tmp_path / "scores" / "cases.csv") if not row["audio"].endswith("04.wav")]
    assert len(cases) == 3, "the fourth is longer than any of training, and cut in two where it is predicted"
    assert all(row["written"] == texts_of[row["audio"]] for row in cases)
    assert "decoding: greedy" in (place / "run" / "config.yaml").read_text(), "what the run holds stays"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["evaluate", "PLACE/run", "--output", "OUT", "--decoding", "best"], "decoding = 'best': Input should be"),
        (["evaluate", "PLACE/run", "--output", "OUT", "--beam", "4"], "pass --decoding beam"),
        (["evaluate", "PLACE/run", "--output", "OUT", "--decoding", "beam", "--split", "validation"], "greedily"),
        (["evaluate", "--truth", "T", "--objects", "O", "--output", "OUT", "--beam", "4"], "--beam: of use with a RUN"),
        (["predict", "PLACE/run", "PLACE/words", "OUT.csv", "--decoding", "joint"], "decoding = 'joint'"),
    ],
)
def test_decodings_that_are_none_are_refused(place: Path, tmp_path: Path, command: list[str], said: str) -> None:
    assert said in call(place, *(word.replace("OUT", str(tmp_path / "out")) for word in command), status=2)
    assert not list(tmp_path.iterdir())


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return list(csv.DictReader(file))


def test_a_pipeline_refuses_the_config_of_another_before_any_work(tmp_path: Path) -> None:
    config = ROOT / "configs" / "synapse" / "phantom.yaml"
    ended = subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / "speech.py"), str(config)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "is of task 'synapse': run it with pipelines/synapse.py" in ended.stderr
    assert not list(tmp_path.iterdir())
