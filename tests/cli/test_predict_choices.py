"""``synbb predict`` with everything that can be chosen, on a run that was really trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Cli
from tiny import VOXEL, config, grey_and_labels, trained, write_pair, write_volume

from synbb.inference.objects import segment
from synbb.prediction.volumes import predict
from synbb.volumes import open_volume
from synbb.volumes.convert import convert

Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, its data, and a volume with a blank section and a mask."""
    made = tmp_path_factory.mktemp("choices")
    write_pair(made / "data")
    trained(config(made / "data"), made / "run")
    raw, _ = grey_and_labels(seed=5)
    raw[3] = 0
    write_volume(made / "raw.zarr", raw)
    inside = np.zeros(raw.shape, np.uint8)
    inside[:, :40] = 1
    write_volume(made / "mask.zarr", inside)
    write_volume(made / "far.zarr", inside, offset=(0.0, 1e6, 0.0))
    return made


@pytest.fixture
def call(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """``synbb predict RUN raw.zarr OUT ...``: exit status, and what was printed."""
    monkeypatch.chdir(tmp_path)

    def made(*options: object) -> tuple[int, str]:
        ended = cli("predict", folder / "run", folder / "raw.zarr", "out.zarr", *options)
        return ended.status, ended.out + ended.error

    return made


def test_a_dry_run_says_what_it_takes_and_writes_nothing(call: Call, tmp_path: Path) -> None:
    status, said = call("--dry-run", "--dtype", "float32", "--flips", "yx", "--floor", "0.1")
    assert status == 0
    assert "voxels of 40 x 8 x 8 nm, worked at 40 x 8 x 8 nm (level 0, as stored)" in said
    assert "normalisation " in said
    assert "1 block of 8 x 64 x 64 voxels, halo " in said
    assert "1 file of 8 x 64 x 64 voxels, at most 131 kB (float32)" in said
    assert "Mvox/s written (1 block: network" in said
    assert "mean over mirror images along y, x" in said
    assert "probabilities below 0.1 are written as 0" in said
    assert "dry run: nothing was written" in said
    assert list(tmp_path.iterdir()) == []
    assert "--floor 0.999 lies above" in call("--dry-run", "--floor", "0.999")[1]
    assert "lies above" not in call("--dry-run", "--floor", "0.00001")[1]


def test_sections_without_data_and_what_is_outside_of_the_mask(call: Call, folder: Path) -> None:
    status, said = call("--mask", folder / "mask.zarr", "--dtype", "float32")
    assert status == 0
    assert "measured on this volume, inside the mask" in said
    assert "no data: sections 3 hold none at all, 7 others in part; see out.zarr.no_data.csv" in said
    found = open_volume("out.zarr")
    values = found.read(found.box)
    assert (values[3] == 0).all()
    assert (values[:, 40:] == 0).all()
    assert (values[[0, 1, 2, 4, 5, 6, 7], :40] > 0).all()
    assert found.voxel_size == VOXEL


def test_segment_at_once(call: Call, tmp_path: Path) -> None:
    status, said = call("--segment", "objects.zarr", "--drop-probabilities")
    assert status == 0
    assert "removed out.zarr" in said
    assert sorted(path.name for path in tmp_path.iterdir() if "no_data" not in path.name) == [
        "objects.csv",
        "objects.zarr",
    ]
    assert open_volume("objects.zarr").attributes["kind"] == "objects"
    status, said = call("--segment", "objects.zarr")
    assert status == 2
    assert "objects.zarr exists; choose another name for --segment" in said
    assert not (tmp_path / "out.zarr").exists()
    # The same name for another prediction: its labels are others, and it stays.
    assert call("--region", "0:4,0:64,0:64")[0] == 0
    status, said = call("--region", "0:4,0:64,0:64", "--segment", "objects.zarr", "--drop-probabilities")
    assert status == 2
    assert "objects.zarr exists" in said
    assert (tmp_path / "out.zarr").exists()


def test_labels_that_were_made_of_the_output_are_done(call: Call) -> None:
    call()
    segment(open_volume("out.zarr"), "own.zarr", threshold=0.001)
    assert call("--segment", "objects.zarr")[0] == 0
    made = Path("objects.csv").stat()
    status, said = call("--segment", "objects.zarr")
    assert status == 0
    assert "nothing to do: all 1 blocks of out.zarr are finished" in said
    assert "labels objects.zarr were made of them before" in said
    assert Path("objects.csv").stat() == made
    for others in (["--segment", "own.zarr"], ["--segment", "objects.zarr", "--verify"]):
        status, said = call(*others)
        assert status == 2
        assert f"{others[1]} exists; choose another name for --segment, or remove it" in said


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("out.zarr", "--segment out.zarr and OUTPUT out.zarr lie in one place"),
        ("out.zarr/objects.zarr", "--segment out.zarr/objects.zarr and OUTPUT out.zarr lie in one place"),
        ("file/objects.zarr", "file: this folder cannot be made"),
        ("there.zarr", "there.csv exists; choose another name for --segment, or remove it"),
        ("objects.tif", "what is written here is OME-Zarr"),
    ],
)
def test_labels_that_cannot_be_written_are_refused_before_anything_is_predicted(
    call: Call, tmp_path: Path, labels: str, message: str
) -> None:
    for name in ("file", "there.csv"):
        (tmp_path / name).write_text("")
    status, said = call("--segment", labels)
    assert status == 2
    assert message in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there.csv"]


@pytest.mark.parametrize(("version", "stored"), [("0.5", "OME-Zarr 0.5 (zarr v3)"), ("0.4", "OME-Zarr 0.4 (zarr v2)")])
def test_a_prediction_is_converted_to_levels_and_segmented_alike(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, stored: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path / "raw.zarr", grey_and_labels(shape=(8, 256, 256))[0])
    predict(folder / "run", "raw.zarr", Path("out.zarr"), say=lambda _: None)
    convert("out.zarr", "levels.zarr", pyramid=True, ome_version=version)
    made, plain = open_volume("levels.zarr"), open_volume("out.zarr")
    assert made.format == stored
    assert made.attributes == {**plain.attributes, "converted_from": "out.zarr"}
    coarse = made.levels[1]
    step = tuple(round(b / a) for a, b in zip(made.voxel_size, coarse.voxel_size, strict=True))
    assert step == (1, 2, 2)
    fine = plain.read(plain.box).reshape(8, 128, 2, 128, 2)
    assert np.abs(coarse.read(coarse.box) - fine.mean(axis=(2, 4))).max() <= 0.5
    both = [segment(volume, name) for volume, name in ((plain, "a.zarr"), (made, "b.zarr"))]
    assert both[0].rules == both[1].rules
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


def test_blended_windows(call: Call) -> None:
    status, said = call("--overlap", "0.5", "--window", "4,32,32")
    assert status == 0
    assert "blended windows of 4 x 32 x 32 voxels in steps of 2 x 16 x 16" in said
    status, said = call()
    assert status == 2
    assert "window was [4, 32, 32], is now None" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--drop-probabilities"], "leaves nothing without --segment"),
        (["--segment", "o.zarr", "--worker"], "would be done by every --worker at once; run synbb segment when"),
        (["--flips", "yt"], "--flips 'yt': name axes among z, y, x"),
        (["--missing", "ignore"], "--missing 'ignore' is not one of error, skip"),
        (["--floor", "2"], "floor 2.0 must lie in [0, 1)"),
        (["--overlap", "1"], "overlap 1.0 must lie in [0, 1)"),
        (["--window", "8,8", "--overlap", "0.5"], "--window"),
        (["--window", "8,64,64"], "--window is of use with --overlap alone"),
        (["--retries", "4"], "--retries is of use with --cluster or --worker alone"),
        (["--worker", "--lifetime", "10m"], "--lifetime is of use with --cluster alone"),
        (["--cluster", "local:0"], "local:N wants a number of workers"),
        (["--cluster", "nowhere.yaml", "--dry-run"], "nowhere.yaml: cannot be read"),
        (["--decoding", "beam"], "--decoding: of use with runs on speech, and "),
        (["--mask", "nowhere.zarr"], "no such file or folder"),
    ],
)
def test_choices_that_make_no_sense(call: Call, options: list[str], message: str, tmp_path: Path) -> None:
    status, said = call(*options)
    assert status == 2
    assert message in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_mask_elsewhere_is_refused_with_both_places(call: Call, folder: Path) -> None:
    status, said = call("--mask", folder / "far.zarr")
    assert status == 2
    assert "lies at y 999996 to 1.00051e+06 nm" in said
    assert "do not meet" in said
