"""The commands on faces, end to end on a few drawn people, and what a person can get wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import Cli
from PIL import Image

from synbb.datasets.phantom_faces import FacePhantom, write_phantom_faces
from synbb.tasks.face_gallery import Gallery
from synbb.training import RunFolder, load_config
from synbb.training.start import start_run

SIZE = (32, 28)


def settings(folder: Path) -> dict[str, Any]:
    part = {"folder": str(folder / "people")}
    return {
        "task": "faces",
        "data": {
            "size": list(SIZE),
            "images": [
                {**part, "split": "train", "images": [0, 4]},
                {**part, "split": "validation", "images": [4, 5]},
                {**part, "split": "test", "images": [5, 8]},
            ],
        },
        "model": {"width": 4, "embedding": 16},
        "training": {
            "steps": 120,
            "batch_size": 16,
            "learning_rate": 0.02,
            "validate_every": 120,
            "checkpoint_every": 30,
        },
        "pruning": {"density": 0.5, "refresh": 4},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people and a trained run."""
    folder = tmp_path_factory.mktemp("faces")
    write_phantom_faces(folder / "people", FacePhantom(6, 8, SIZE))
    (folder / "faces.yaml").write_text(yaml.safe_dump(settings(folder)))
    start_run(load_config(folder / "faces.yaml"), folder / "run", resume=False, say=lambda _: None)
    return folder


@pytest.fixture
def synbb(cli: Cli) -> Any:
    def call(*arguments: object) -> tuple[int, str, str]:
        ended = cli(*arguments)
        assert "Traceback" not in ended.error
        return ended.status, ended.out, ended.error

    return call


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as handle:
        return list(csv.DictReader(handle))


def test_a_run_is_scored_on_its_own_test_split(finished: Path, synbb: Any, tmp_path: Path) -> None:
    status, out, _ = synbb("evaluate", finished / "run", "--output", tmp_path / "scores")
    assert status == 0
    assert "rank-1 identification" in out
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert (scores["schema_version"], scores["task"], scores["split"], scores["main"]) == (1, "faces", "test", "rank_1")
    rank = scores["scores"]["rank_1"]
    assert rank["units"] == {"probes": 18}
    assert 1 / 6 < rank["low"] <= rank["value"] <= rank["high"] <= 1, "better than chance"
    assert scores["density"] == pytest.approx(0.5, abs=0.01)
    cases = rows(tmp_path / "scores" / "cases.csv")
    right = [case["right"] == "yes" for case in cases]
    assert (right, sum(right) / 18) == (sorted(right), pytest.approx(rank["value"]))
    page = (tmp_path / "scores" / "report.html").read_text()
    assert "rank-1 identification" in page
    assert scores["model_sha256"] in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_validation_split_is_scored_with_a_warning(finished: Path, synbb: Any, tmp_path: Path) -> None:
    status, out, _ = synbb("evaluate", finished / "run", "--split", "validation", "--output", tmp_path / "scores")
    assert status == 0
    assert "not those of unseen data" in out
    stored = json.loads((finished / "run" / "weights" / "last.json").read_text())["validation"]
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["scores"]
    assert {name: figure["value"] for name, figure in scores.items()} == pytest.approx(stored)


def test_embeddings_of_a_folder(finished: Path, synbb: Any, tmp_path: Path) -> None:
    status, out, _ = synbb("predict", finished / "run", finished / "people", "--output", tmp_path / "e.csv")
    assert status == 0
    assert "48 files in" in out
    table = rows(tmp_path / "e.csv")
    vectors = np.array([[float(row[f"e{n}"]) for n in range(16)] for row in table])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert synbb("predict", finished / "run", finished / "people", tmp_path / "again.csv")[0] == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "e.csv").read_bytes()


def test_people_are_enrolled_and_named(finished: Path, synbb: Any, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery.safetensors"
    some = tmp_path / "some"
    some.mkdir()
    for name in ("p01", "p02"):
        (some / name).symlink_to(finished / "people" / name)
    assert synbb("enroll", finished / "run", some, gallery)[0] == 0
    assert Gallery.read(gallery).names == ("p01", "p02")
    assert synbb("enroll", finished / "run", some, gallery)[0] == 2, "a gallery is not written over"
    status, out, _ = synbb("enroll", finished / "run", finished / "people", gallery, "--add")
    assert status == 0
    assert "6 in" in out
    known = Gallery.read(gallery)
    assert known.names == tuple(f"p{n:02d}" for n in range(1, 7))
    names = tmp_path / "names.csv"
    given = ("identify", finished / "run", gallery, finished / "people", "--output", names)
    assert synbb(*given, "--threshold", "-1")[0] == 0
    assert synbb(*given)[0] == 2, "a table is not written over"
    given = (*given, "--overwrite")
    everyone = rows(names)
    assert len(everyone) == 48
    assert all(row["identity"] == row["nearest"] for row in everyone)
    right = sum(row["nearest"] == Path(row["image"]).parent.name for row in everyone)
    assert right > 2 * 48 / 6, "twice as good as chance at the least"
    assert synbb(*given, "--threshold", "1")[0] == 0
    assert all(row["identity"] == "" for row in rows(names)), "nobody is as sure as that"
    status, out, _ = synbb(*given)
    decided = json.loads((finished / "run" / "weights" / "last.json").read_text())["decision"]["threshold"]
    assert f"at cosine {decided:.3f}" in out
    assert [row["identity"] != "" for row in rows(names)] == [float(row["cosine"]) >= decided for row in everyone]


def test_images_that_do_not_decode_are_left_out_of_the_names_and_listed(
    finished: Path, synbb: Any, tmp_path: Path
) -> None:
    gallery, photos = tmp_path / "gallery.safetensors", tmp_path / "photos"
    assert synbb("enroll", finished / "run", finished / "people", gallery)[0] == 0
    photos.mkdir()
    (photos / "good.png").write_bytes((finished / "people" / "p01" / "01.png").read_bytes())
    (photos / "bad.png").write_bytes(b"no image")
    status, out, _ = synbb("identify", finished / "run", gallery, photos, "--output", tmp_path / "names.csv")
    assert (status, "left out (1): " in out) == (0, True)
    assert [Path(row["image"]).name for row in rows(tmp_path / "names.csv")] == ["good.png"]
    assert "bad.png cannot be decoded" in rows(tmp_path / "names.left-out.csv")[0]["reason"]
    for wrong, message in (
        (["--output", photos / "good.png"], "name the output something.csv"),
        (["--output", gallery], "name the output something.csv"),
        (["--output", tmp_path / "new.csv", "--threshold", "7"], "--threshold 7 is no cosine"),
        (["--output", tmp_path / "new.csv", "--threshold", "nan"], "--threshold nan is no cosine"),
    ):
        status, _, error = synbb("identify", finished / "run", gallery, photos, *wrong)
        assert (status, message in error) == (2, True), error
    assert not (tmp_path / "new.csv").exists()


def test_a_resumed_run_is_the_run_that_never_stopped(finished: Path, tmp_path: Path) -> None:
    from synbb.errors import RunEnded
    from synbb.tasks.faces import FacesTask

    config = load_config(finished / "faces.yaml")
    original, steps = FacesTask.loss, 0

    def stop(self: FacesTask, outputs: Any, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 100:
            raise RunEnded("stopped")
        return original(self, outputs, batch)

    FacesTask.loss = stop  # type: ignore[method-assign]
    try:
        with pytest.raises(RunEnded, match="stopped"):
            start_run(config, tmp_path / "run", resume=False, say=lambda _: None)
    finally:
        FacesTask.loss = original  # type: ignore[method-assign]
    start_run(config, tmp_path / "run", resume=True, say=lambda _: None)
    weights = (RunFolder(path / "run").weights_file("last").read_bytes() for path in (finished, tmp_path))
    assert next(weights) == next(weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "RUN", "PEOPLE"], "give one OUTPUT"),
        (["predict", "RUN", "PEOPLE", "a.csv", "--output", "b.csv"], "give one OUTPUT"),
        (["predict", "RUN", "PEOPLE", "a.zarr"], "name the output something.csv"),
        (["predict", "RUN", "nowhere", "a.csv"], "nowhere: no such file or folder of images"),
        (["predict", "RUN", "PEOPLE", "a.csv", "--worker"], "--worker: of use with volumes alone"),
        (["evaluate", "--output", "s"], "give either a RUN, or --truth"),
        (["evaluate", "RUN", "--truth", "t.zarr", "--output", "s"], "give either a RUN, or --truth"),
        (["evaluate", "RUN", "--split", "train", "--output", "s"], "--split 'train' is none of test, validation"),
        (["evaluate", "nowhere", "--output", "s"], "nowhere is no run folder"),
        (["enroll", "RUN", "nowhere", "g.safetensors"], "nowhere: no such folder"),
        (["identify", "RUN", "g.safetensors", "PEOPLE", "--output", "n.csv"], "gallery g.safetensors: no such file"),
        (["identify", "RUN", "WEIGHTS", "PEOPLE", "--output", "n.csv"], "is no gallery of `synbb enroll`"),
        (["identify", "RUN", "PAGE", "PEOPLE", "--output", "n.csv"], "is none of `synbb enroll`, or damaged"),
        (["data", "phantom-faces", "f", "--size", "3"], "--size '3' must be two positive whole numbers"),
        (["data", "phantom-speech", "f", "--words", "4,2"], "--words '4,2' must be the fewest and the most words"),
    ],
)
def test_mistakes(
    finished: Path, synbb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = finished / "run"
    places = {
        "RUN": run,
        "PEOPLE": finished / "people",
        "WEIGHTS": run / "weights" / "last.safetensors",
        "PAGE": run / "config.yaml",
    }
    status, _, error = synbb(*(places.get(word, word) for word in arguments))
    assert status == 2
    assert error.startswith("synbb: ")
    assert message in error.replace("\n", " ")
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_a_gallery_of_other_weights_is_refused(finished: Path, synbb: Any, tmp_path: Path) -> None:
    other = Gallery(("a",), np.ones((1, 16)) / 4, "0" * 64)
    (tmp_path / "g.safetensors").write_bytes(other.to_bytes())
    given = (finished / "run", tmp_path / "g.safetensors", finished / "people")
    status, _, error = synbb("identify", *given, "--output", tmp_path / "n.csv")
    assert status == 2
    assert "the gallery was enrolled with weights 000000000000" in error
    status, _, error = synbb("enroll", finished / "run", finished / "people", tmp_path / "g.safetensors", "--add")
    assert status == 2
    assert Gallery.read(tmp_path / "g.safetensors").names == ("a",), "as it was"


def test_bad_images_among_good_ones_are_told(finished: Path, synbb: Any, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "new" / "a.png")
    (tmp_path / "new" / "b.png").write_bytes(b"no image")
    status, out, _ = synbb("predict", finished / "run", tmp_path / "new", tmp_path / "e.csv")
    assert status == 0
    assert "left out (1)" in out
    assert "b.png cannot be decoded" in out
    assert [Path(row["image"]).name for row in rows(tmp_path / "e.csv")] == ["a.png"]
    (tmp_path / "new" / "a.png").unlink()
    status, _, error = synbb("predict", finished / "run", tmp_path / "new", tmp_path / "f.csv")
    assert status == 2
    assert "none of its 1 images decodes" in error
