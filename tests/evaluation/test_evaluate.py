from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from synbb.cli import evaluate as evaluate_file
from synbb.errors import SynbbError
from synbb.evaluation.evaluate import evaluate_volumes
from synbb.volumes import Box
from synbb.volumes.box import parse_region

CITATION = "A <b>careful</b> & long citation"


def scene(seed=0, shape=(6, 48, 64)):
    """raw, truth mask, probabilities: three blobs, one of which is missed, and one false blob."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(90, 160, shape, np.uint8)
    truth = np.zeros(shape, np.uint8)
    probabilities = rng.integers(0, 60, shape, np.uint8)
    for z, y, x in ((1, 8, 8), (3, 30, 20), (4, 10, 50)):
        truth[z : z + 2, y : y + 7, x : x + 7] = 255
        raw[z : z + 2, y : y + 7, x : x + 7] = 20
    for z, y, x in ((1, 9, 8), (3, 30, 21), (2, 36, 50)):
        probabilities[z : z + 2, y : y + 7, x : x + 7] = rng.integers(150, 256, (2, 7, 7))
    return raw, truth, probabilities


@pytest.fixture
def volumes(store):
    raw, truth, probabilities = scene()
    about = {"kind": "probabilities", "run_id": "run-7", "model_sha256": "ab12", "threshold": 0.5}
    return {
        "raw": store("raw.zarr", raw),
        "truth": store("truth.zarr", truth),
        "probabilities": store("p.zarr", probabilities, attributes={**about, "citation": CITATION, "licence": "CC0"}),
    }


@pytest.fixture
def objects(store, volumes):
    from scipy import ndimage

    found = volumes["probabilities"].read(volumes["probabilities"].box) >= 128
    labels = ndimage.label(found, np.ones((3, 3, 3)))[0].astype(np.uint32)
    return store("o.zarr", labels, attributes={"kind": "objects"})


def test_everything_is_scored_and_written(volumes, objects, tmp_path):
    out = tmp_path / "report"
    scores = evaluate_volumes(**volumes, objects=objects, output=out, distance_nm=150)
    assert json.loads((out / "scores.json").read_text()) == scores
    assert scores["schema_version"] == 1
    _, truth, probabilities = scene()
    area = average_precision_score(truth.ravel() > 0, probabilities.ravel())
    assert scores["voxels"]["average_precision"] == pytest.approx(area)
    at = scores["voxels"]["at_threshold"]
    chosen = probabilities >= 128
    assert at["threshold"] == 0.5
    assert at["precision"] == pytest.approx((truth[chosen] > 0).mean())
    assert at["recall"] == pytest.approx(chosen[truth > 0].mean())
    assert scores["voxels"]["best"]["chosen_on"] == "the scored voxels themselves"
    assert scores["voxels"]["best"]["f1"] >= at["f1"]
    by = scores["objects"]["by_distance"]
    assert (by["truth"], by["found"], by["predicted"], by["correct"]) == (3, 2, 3, 2)
    assert scores["about"]["run_id"] == "run-7"
    with (out / "objects.csv").open() as file:
        kinds = [row["kind"] for row in csv.DictReader(file)]
    assert sorted(kinds) == ["false", "matched", "matched", "missed"]
    pictures = sorted(out.glob("section_*.png"))
    assert pictures
    assert Image.open(pictures[0]).size[0] > 500
    assert not list(out.glob(".*"))  # nothing half-written


class Page(HTMLParser):
    """Text and outside references of a page; fails on a tag that is closed wrongly."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "circle", "path", "polyline"):
            self.open.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith("data:")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone_and_says_what_was_scored(volumes, objects, tmp_path):
    evaluate_volumes(**volumes, objects=objects, against=volumes["probabilities"], output=tmp_path / "r")
    html = (tmp_path / "r" / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert page.references == []
    assert "url(" not in html
    assert "<script" not in html
    text = re.sub(r"\s+", " ", " ".join(page.text))
    for wanted in ("run-7", "ab12", CITATION, "CC0", "0:6,0:48,0:64", "chosen on the scored voxels themselves"):
        assert wanted in text
    assert "40 × 10 × 10 nm" in text
    assert "differ by 0.0000 on average" in text
    assert html.count('class="marker') == 4  # two thresholds of two curves
    assert html.count("data:image/png") == len(list((tmp_path / "r").glob("section_*.png")))


def test_without_a_threshold_only_the_best_is_shown(volumes, tmp_path, store):
    bare = store("bare.zarr", scene()[2])
    scores = evaluate_volumes(truth=volumes["truth"], probabilities=bare, output=tmp_path / "r")
    assert scores["voxels"]["at_threshold"] is None
    assert scores["voxels"]["best"]["f1"] > 0.4
    assert "none was given" in scores["threshold"]["source"]
    given = evaluate_volumes(truth=volumes["truth"], probabilities=bare, output=tmp_path / "r", threshold=0.7)
    assert given["voxels"]["at_threshold"]["threshold"] == 0.7


def test_a_truth_without_foreground_gives_an_explanation(volumes, tmp_path, store):
    empty = store("empty.zarr", np.zeros((6, 48, 64), np.uint8))
    scores = evaluate_volumes(**{**volumes, "truth": empty}, output=tmp_path / "r")
    assert scores["voxels"]["average_precision"] is None
    assert scores["voxels"]["best"] is None
    page = (tmp_path / "r" / "report.html").read_text()
    assert "foreground in the truth, so recall has no meaning" in page
    assert "NaN" not in (tmp_path / "r" / "scores.json").read_text()


@pytest.mark.parametrize("region", ["0:6,0:48,0:50", "-20:220,-5:475,-5:495nm"])
def test_all_scores_are_of_the_voxels_that_all_volumes_cover(region, volumes, objects, tmp_path, store):
    part = store("part.zarr", scene()[2][2:, :, 10:], offset=(80.0, 0.0, 100.0))
    scores = evaluate_volumes(
        truth=volumes["truth"],
        probabilities=part,
        against=volumes["probabilities"],
        objects=objects,
        region=parse_region(region),
        output=tmp_path / "r",
    )
    assert scores["region"]["voxels"] == "2:6,0:48,10:50"
    assert scores["region"]["nm"] == [[60.0, -5.0, 95.0], [220.0, 475.0, 495.0]]
    assert scores["voxels"]["scored"] == scores["against"]["scored"] == 4 * 48 * 40
    assert scores["difference"] == {"mean": 0.0, "max": 0.0}
    assert "2:6,0:48,10:50" in scores["objects"]["note"]


def test_what_the_truth_ignores_may_hold_no_numbers(tmp_path, store):
    raw, truth, probabilities = scene()
    raw, p = raw.astype(np.float32), np.float32(probabilities / 255)
    raw[:, 0, 0] = p[1, 40, 5] = np.nan
    named = np.uint64(truth)
    named[1, 40, 5] = 0xFFFFFFFFFFFFFFFD
    given = {
        "truth": store("t.zarr", named),
        "raw": store("r.zarr", raw),
        "against": store("q.zarr", np.float32(truth / 255)),
    }
    scores = evaluate_volumes(**given, probabilities=store("p.zarr", p), output=tmp_path / "out", threshold=0.5)
    assert scores["voxels"]["ignored"] == 1
    gap = np.abs(p - np.float32(truth / 255))
    assert scores["difference"] == pytest.approx({"mean": np.nanmean(gap), "max": np.nanmax(gap)})
    p[1, 40, 6] = np.nan
    with pytest.raises(SynbbError, match=r"p2\.zarr: values from nan"):
        evaluate_volumes(**given, probabilities=store("p2.zarr", p), output=tmp_path / "out", threshold=0.5)


def test_a_second_evaluation_replaces_the_first(volumes, tmp_path):
    evaluate_volumes(**volumes, output=tmp_path / "r")
    assert list((tmp_path / "r").glob("section_*.png"))
    without = {name: volume for name, volume in volumes.items() if name != "raw"}
    evaluate_volumes(**without, output=tmp_path / "r")
    assert not list((tmp_path / "r").glob("section_*.png"))


def test_an_evaluation_without_objects_removes_the_table_of_an_earlier_one(volumes, objects, tmp_path):
    evaluate_volumes(**volumes, objects=objects, output=tmp_path / "r")
    (tmp_path / "r" / "cases.csv").write_text("of a run that was scored here")
    (tmp_path / "r" / "notes.txt").write_text("mine")
    evaluate_volumes(**volumes, output=tmp_path / "r")
    left = {file.name for file in (tmp_path / "r").iterdir()}
    assert {name for name in left if not name.startswith("section_")} == {"scores.json", "report.html", "notes.txt"}


@pytest.mark.parametrize("name", ["section_0000.png", "objects.csv", "cases.csv", "report.html", "scores.json"])
def test_files_that_no_evaluation_wrote_are_neither_replaced_nor_removed(name, volumes, objects, tmp_path, monkeypatch):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / name).write_text("[1, 2]")
    monkeypatch.setattr("synbb.evaluation.evaluate.score_volumes", None)  # it is told before anything is scored
    with pytest.raises(SynbbError, match=f"holds {name}, which a report would replace, and no scores.json of an earl"):
        evaluate_volumes(**volumes, objects=objects, output=tmp_path / "r")
    assert [file.name for file in (tmp_path / "r").iterdir()] == [name]
    assert (tmp_path / "r" / name).read_text() == "[1, 2]"


def test_a_file_where_the_report_should_go_is_refused(volumes, tmp_path):
    (tmp_path / "r").write_text("mine")
    with pytest.raises(SynbbError, match="is a file"):
        evaluate_volumes(**volumes, output=tmp_path / "r")
    assert (tmp_path / "r").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probabilities": None}, "nothing to score"),
        ({"region": Box((0, 0, 0), (6, 48, 65))}, "does not lie inside"),
        ({"threshold": 1.5}, "above 0 and at most 1"),
        ({"distance_nm": -1.0}, "distance"),
    ],
)
def test_mistakes_leave_no_scores_behind(volumes, objects, tmp_path, options, message):
    given = {**volumes, "objects": objects, **options}
    if message == "nothing to score":
        given["objects"] = None
    with pytest.raises(SynbbError, match=message):
        evaluate_volumes(**given, output=tmp_path / "r")
    assert not (tmp_path / "r" / "scores.json").exists()


# The command


def run(*arguments: str):
    app = typer.Typer()
    app.command()(evaluate_file.command)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_the_command_prints_the_scores_and_where_the_report_lies(volumes, objects, tmp_path):
    out = str(tmp_path / "r")
    result = run(
        *("--truth", volumes["truth"].path, "--probabilities", volumes["probabilities"].path),
        *("--objects", objects.path, "--raw", volumes["raw"].path),
        *("--region", "0:6,0:48,0:60", "--distance", "150", "--output", out),
    )
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "r" / "scores.json").read_text())
    assert f"{scores['voxels']['average_precision']:.3f}" in result.output
    assert "best, chosen on these voxels" in result.output
    assert "2/3" in result.output
    assert "report.html" in result.output
    assert scores["region"]["voxels"] == "0:6,0:48,0:60"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--region", "0:6,0:48"], "not of the form z0:z1"),
        (["--region", "0:7,0:48,0:64"], "does not lie inside"),
        (["--threshold", "0"], "above 0 and at most 1"),
        (["--against", "nowhere.zarr"], "nowhere.zarr"),
        (["--voxel-size", "4"], "three positive numbers"),
    ],
)
def test_the_command_names_mistakes(volumes, tmp_path, arguments, message):
    base = ["--truth", volumes["truth"].path, "--probabilities", volumes["probabilities"].path]
    result = run(*base, "--output", str(tmp_path / "r"), *arguments)
    assert isinstance(result.exception, SynbbError)
    assert message in str(result.exception)
    assert result.exception.exit_status == 2
    assert not (tmp_path / "r").exists()


def test_sections_that_state_no_voxel_size_are_given_one(volumes, tmp_path):
    _, truth, _ = scene()
    folder = tmp_path / "sections"
    folder.mkdir()
    for z, section in enumerate(truth):
        Image.fromarray(section).save(folder / f"{z:02d}.png")
    base = ["--truth", str(folder), "--probabilities", volumes["probabilities"].path, "--output", str(tmp_path / "r")]
    assert isinstance(run(*base).exception, SynbbError)
    assert run(*base, "--voxel-size", "40,10,10").exit_code == 0


# The page in a browser


def test_the_page_in_a_browser(volumes, objects, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine: the page is not looked at in a browser")
    evaluate_volumes(**volumes, objects=objects, output=tmp_path / "r")
    html = tmp_path / "r" / "report.html"
    probe = (
        "<script>addEventListener('load', () => { const d = document; d.title = JSON.stringify({"
        "wide: d.documentElement.scrollWidth - innerWidth, broken: [...d.images].filter(i => !i.naturalWidth).length,"
        "pictures: d.images.length, curve: d.querySelector('.curve').getTotalLength(),"
        "clipped: [...d.querySelectorAll('svg text')].filter(t => { const b = t.getBoundingClientRect(), "
        "s = t.ownerSVGElement.getBoundingClientRect(); return b.left < s.left - 1 || b.right > s.right + 1 || "
        "b.top < s.top - 1 || b.bottom > s.bottom + 1; }).map(t => t.textContent)}); });</script>"
    )
    probed = tmp_path / "probed.html"
    probed.write_text(html.read_text().replace("</head>", probe + "</head>"))
    for width in (1200, 560):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
        flags += [f"--user-data-dir={tmp_path / f'profile{width}'}", f"--window-size={width},900", "--dump-dom"]
        command = [browser, *flags, probed.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
        assert title, done.stderr[-2000:]
        seen = json.loads(title.group(1))
        assert seen["wide"] <= 0  # nothing sticks out
        assert seen["broken"] == 0
        assert seen["pictures"] == len(list(Path(tmp_path / "r").glob("section_*.png"))) > 0
        assert seen["curve"] > 100
        assert seen["clipped"] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"truth": "raw", "probabilities": "probabilities"},
            r"--truth, holds grey values .*name the volume of an annot",
        ),
        ({"truth": "probabilities", "objects": "objects"}, "given as --truth, holds probabilities"),
        ({"truth": "labels", "probabilities": "raw"}, "given as --probabilities, holds grey values"),
        ({"truth": "labels", "probabilities": "labels"}, "given as --probabilities, holds an annotation"),
        ({"truth": "labels", "probabilities": "objects"}, "given as --probabilities, holds objects"),
        ({"truth": "labels", "probabilities": "probabilities", "against": "raw"}, "given as --against, holds grey"),
        ({"truth": "labels", "objects": "probabilities"}, "given as --objects, holds probabilities"),
        ({"truth": "objects", "objects": "labels"}, "they seem to be exchanged"),
    ],
)
def test_volumes_that_cannot_be_meant_are_refused(given, message, objects, tmp_path, store):
    raw, truth, probabilities = scene()
    kinds = {"raw": raw, "labels": truth, "probabilities": probabilities}
    there = {kind: store(f"kind-{kind}.zarr", values, attributes={"kind": kind}) for kind, values in kinds.items()}
    there["objects"] = objects
    chosen = {name: there[kind] for name, kind in given.items()}
    with pytest.raises(SynbbError, match=message):
        evaluate_volumes(output=tmp_path / "scores", **chosen)
    assert not (tmp_path / "scores").exists()
