"""What a person can get wrong with a run that is finished: volumes, options and outputs that do not fit it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from commands import Cli, assert_refused
from tiny import config, grey_and_labels, trained, write_config, write_pair, write_volume

from synbb.volumes import open_volume


def test_predicting_and_predicting_again(cli: Cli, finished: Path, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    arguments = ("predict", finished / "run", raw, out, "--region", "0:8,30:64,2:64")
    first = cli(*arguments)
    assert first.status == 0, first.error
    assert "as in training on this volume" in first.out
    volume = open_volume(out)
    info = json.loads((finished / "run" / "weights" / "last.json").read_text())
    assert volume.shape == (8, 34, 62)
    assert volume.offset == (0.0, 240.0, 16.0)
    stored = volume.attributes
    assert stored["threshold"] == info["decision"]["threshold"]
    assert stored["model_sha256"] == info["sha256"]
    assert stored["run_id"] == json.loads((finished / "run" / "run.json").read_text())["id"]
    assert stored["licence"] == "CC0"
    assert stored["citation"] == "nobody"
    assert stored["region"] == "0:8,30:64,2:64"
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    second = cli(*arguments)
    assert second.status == 0
    assert "nothing to do" in second.out
    spans = ",".join(f"{a:g}:{b:g}" for a, b in zip(*volume.extent, strict=True))
    third = cli(*arguments[:-1], f"{spans}nm")  # the same voxels
    assert third.status == 0, third.error
    assert "nothing to do" in third.out
    changed = {path for path in tmp_path.rglob("*") if path.is_file() and files.get(path) != path.stat().st_mtime_ns}
    assert not {path for path in changed if "lock" not in path.name}


def test_the_output_of_another_run_is_refused(cli: Cli, finished: Path, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    assert cli("predict", finished / "run", raw, out).status == 0
    before = out.joinpath("zarr.json").read_bytes()
    write_pair(tmp_path / "data")
    other, _ = trained(config(tmp_path / "data", seed=8), tmp_path / "other")
    ended = cli("predict", other.path, raw, out)
    assert ended.status == 2
    assert "out.zarr" in ended.error
    assert "Traceback" not in ended.error
    assert out.joinpath("zarr.json").read_bytes() == before


def test_an_output_that_is_something_else(cli: Cli, finished: Path, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "thesis.txt").write_text("x")
    ended = cli("predict", finished / "run", raw, tmp_path / "out.zarr")
    assert ended.status == 2
    assert "out.zarr" in ended.error
    assert [path.name for path in (tmp_path / "out.zarr").iterdir()] == ["thesis.txt"]


def test_masks_that_are_not_final_are_refused_unless_told(cli: Cli, data: Path, tmp_path: Path, monkeypatch) -> None:
    from synbb.training import loop

    original = loop._step
    monkeypatch.setattr(
        loop, "_step", lambda s, n, b: (_ for _ in ()).throw(KeyboardInterrupt) if n == 6 else original(s, n, b)
    )
    ended = cli("train", write_config(data), "training.validate_every=3", "--output", tmp_path / "run")
    assert ended.status != 0
    monkeypatch.undo()
    out = tmp_path / "results" / "out.zarr"
    out.parent.mkdir()
    arguments = ("predict", tmp_path / "run", data / "raw.zarr", out)
    assert_refused(cli(*arguments), out, "step 6 of 12", "masks", "--allow-unfinished")
    told = cli(*arguments, "--allow-unfinished")
    assert told.status == 0, told.error
    assert open_volume(out).shape == (8, 64, 64)
    assert cli("evaluate", tmp_path / "run", "--output", tmp_path / "scores").status == 2
    told = cli(
        "evaluate", tmp_path / "run", "--output", tmp_path / "scores", "--allow-unfinished", "--split", "validation"
    )
    assert told.status == 0, told.error


def test_weights_that_do_not_exist(cli: Cli, finished: Path, raw: Path, output: Path) -> None:
    ended = cli("predict", finished / "run", raw, output, "--weights", "worst")
    assert_refused(ended, output, "no weights 'worst'", "last and best")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--region", "0:8,0:65,0:64"], ["region z 0:8, y 0:65, x 0:64", "raw.zarr", "y 0:64"]),
        (["--region", "0:8"], ["'0:8'", "z0:z1,y0:y1,x0:x1"]),
        (["--block", "8,64"], ["--block", "'8,64'", "z,y,x"]),
        (["--block", "8,²,64"], ["--block", "positive"]),
        (["--block", "8,0,64"], ["--block", "positive"]),
        (["--precision", "8"], ["precision", "'8'", "bf16"]),
        (["--dtype", "int9"], ["dtype", "int9", "uint8"]),
        (["--device", "cuda:7"], ["--device cuda:7", "cpu"]),
        (["--device", "tpu"], ["--device tpu", "cpu"]),
    ],
)
def test_wrong_options_of_predict(
    cli: Cli, finished: Path, raw: Path, output: Path, options: list[str], parts: list[str]
) -> None:
    if "cuda:7" in options:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    assert_refused(cli("predict", finished / "run", raw, output, *options), output, *parts)


def test_volumes_that_do_not_fit_the_run(cli: Cli, finished: Path, data: Path, output: Path) -> None:
    assert_refused(cli("predict", finished / "run", data / "gone.zarr", output), output, "gone.zarr")
    write_volume(data / "thick.zarr", grey_and_labels()[0], voxel_size=(60.0, 8.0, 8.0))
    ended = cli("predict", finished / "run", data / "thick.zarr", output)
    assert_refused(ended, output, "thick.zarr", "40 nm", "60 x 8 x 8")
    tifffile.imwrite(data / "raw.tif", grey_and_labels()[0], photometric="minisblack")
    ended = cli("predict", finished / "run", data / "raw.tif", output)
    assert_refused(ended, output, "raw.tif", "voxel size")
    array = zarr.create_array(str(data / "four.zarr"), shape=(2, 8, 64, 64), dtype="u1")
    array[:] = 3
    ended = cli("predict", finished / "run", data / "four.zarr", output, "--voxel-size", "40,8,8")
    assert_refused(ended, output, "four.zarr", "ax")


def test_a_volume_of_its_own_is_measured_anew_and_may_be_resampled(
    cli: Cli, finished: Path, data: Path, tmp_path: Path
) -> None:
    write_volume(data / "other.zarr", (grey_and_labels(seed=5)[0] // 2), voxel_size=(40.0, 4.0, 4.0))
    ended = cli("predict", finished / "run", data / "other.zarr", tmp_path / "out.zarr")
    assert ended.status == 0, ended.error
    assert "measured on this volume" in ended.out
    assert "40 x 8 x 8" in ended.out
    assert open_volume(tmp_path / "out.zarr").voxel_size == (40.0, 4.0, 4.0)


def test_predictions_that_are_not_finished_are_not_scored(cli: Cli, data: Path, output: Path) -> None:
    about = {"kind": "probabilities", "complete": False}
    part = write_volume(output.parents[1] / "p.zarr", np.zeros((8, 64, 64), np.uint8), attributes=about)
    ended = cli("evaluate", "--output", output, "--truth", data / "labels.zarr", "--probabilities", part.path)
    assert_refused(ended, output, "p.zarr is not finished: blocks are missing; call synbb predict again first")


@pytest.mark.parametrize("option", [["--region", "0:2,0:3,0:4"], ["--threshold", "7"], ["--voxel-size", "1,1,1"]])
def test_what_a_run_does_not_heed_is_refused(cli: Cli, finished: Path, output: Path, option: list[str]) -> None:
    ended = cli("evaluate", finished / "run", "--output", output, *option)
    assert_refused(ended, output, f"{option[0]}: of use with --truth alone", "is a run, scored on a split of its own")


def test_what_volumes_do_not_heed_is_refused(cli: Cli, data: Path, output: Path) -> None:
    labels = data / "labels.zarr"
    ended = cli("evaluate", "--output", output, "--truth", labels, "--objects", labels, "--split", "validation")
    assert_refused(ended, output, "--split: of use with a RUN alone, and here volumes are scored")


def test_values_that_are_no_numbers_are_the_inputs_fault(cli: Cli, finished: Path, output: Path) -> None:
    grey, _ = grey_and_labels()
    broken = grey.astype(np.float32)
    broken[2, 3, 4:6] = np.nan
    raw = write_volume(output.parents[1] / "nan.zarr", broken)
    ended = cli("predict", finished / "run", raw.path, output)
    assert ended.status == 2
    assert "nan.zarr: 2 of " in ended.error
    assert "are no numbers (NaN or infinite); write 0 in their place first" in ended.error
    assert "2 voxels are NaN or infinite" in cli("info", raw.path).out


@pytest.mark.parametrize("name", ["o.tif", "o.h5", "precomputed://o", "s3://bucket/o"])
def test_outputs_that_promise_another_format(cli: Cli, finished: Path, raw: Path, output: Path, name: str) -> None:
    place = name if "://" in name else output.with_name(name)
    ended = cli("predict", finished / "run", raw, place)
    assert_refused(ended, output, "what is written here is OME-Zarr, in a folder; give a name such as out.zarr")


def test_an_output_that_is_the_input(cli: Cli, finished: Path, raw: Path) -> None:
    before = open_volume(raw).read(open_volume(raw).box)
    ended = cli("predict", finished / "run", raw, raw)
    assert (ended.status, "is the input itself; give another output" in ended.error) == (2, True)
    assert np.array_equal(open_volume(raw).read(open_volume(raw).box), before)


def test_a_file_where_the_folder_of_objects_should_be(cli: Cli, tmp_path: Path) -> None:
    write_volume(tmp_path / "p.zarr", np.zeros((8, 64, 64), np.uint8))
    (tmp_path / "README.md").write_text("here")
    ended = cli("segment", tmp_path / "p.zarr", tmp_path / "README.md" / "o.zarr", "--threshold", "0.5")
    assert ended.status == 2
    assert "README.md: this folder cannot be made" in ended.error
    assert "Traceback" not in ended.error


def test_volumes_of_another_kind_as_mask_and_as_grey_values(cli: Cli, finished: Path, raw: Path, output: Path) -> None:
    grey, found = (
        write_volume(output.parents[1] / f"{kind}.zarr", np.ones((8, 64, 64), np.uint32), attributes={"kind": kind})
        for kind in ("raw", "objects")
    )
    ended = cli("predict", finished / "run", raw, output, "--mask", grey.path)
    assert_refused(ended, output, "given as --mask, holds grey values", "name the volume of a mask")
    given = ["--truth", finished / "labels.zarr", "--objects", found.path, "--raw", found.path]
    assert_refused(cli("evaluate", "--output", output, *given), output, "given as --raw, holds objects")


def test_a_mask_without_tissue_is_named(cli: Cli, finished: Path, output: Path) -> None:
    nothing = write_volume(output.parents[1] / "mask.zarr", np.zeros((8, 64, 64), np.uint8))
    new = write_volume(output.parents[1] / "new.zarr", grey_and_labels(seed=5)[0])
    ended = cli("predict", finished / "run", new.path, output, "--mask", nothing.path)
    assert_refused(ended, output, "or outside of the mask; check the mask")


def test_a_report_does_not_go_into_a_volume(cli: Cli, finished: Path) -> None:
    labels = finished / "labels.zarr"
    ended = cli("evaluate", "--output", labels, "--truth", labels, "--objects", labels)
    assert (ended.status, "is a volume; give another folder" in ended.error) == (2, True)
    assert not (labels / "scores.json").exists()


@pytest.mark.parametrize(
    ("size", "hint"),
    [("8,8,40", "voxel sizes are z, y, x: is it 40 x 8 x 8?"), ("0.04,0.008,0.008", "not in micrometres: is it 40 x")],
)
def test_a_voxel_size_in_another_order_or_unit(cli: Cli, finished: Path, output: Path, size: str, hint: str) -> None:
    stack = output.parents[1] / "stack.tif"
    tifffile.imwrite(stack, grey_and_labels()[0])
    ended = cli("predict", finished / "run", stack, output, "--voxel-size", size)
    assert_refused(ended, output, hint)


def test_a_run_folder_given_as_config(cli: Cli, finished: Path) -> None:
    ended = cli("train", finished / "run", "--resume")
    assert (ended.status, "is a run folder, not a config; give the config" in ended.error) == (2, True)


def test_things_that_are_no_run(cli: Cli, data: Path, output: Path) -> None:
    for command in (("predict", data, data / "raw.zarr", output), ("prune-report", data)):
        assert_refused(cli(*command), output, str(data), "no run folder")
