"""Everything a person can get wrong ends in one clear message, a stated exit status, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from tiny import config, grey_and_labels, settings, trained, write_config, write_pair, write_volume

from synbb.cli.app import main
from synbb.volumes import open_volume


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    error: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``synbb`` in this process as its entry point does."""

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["synbb", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, error = capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, error)

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pair(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_pair(folder)
    trained(config(folder), folder / "run")
    return folder


def assert_refused(ended: Ended, output: Path, *parts: str, status: int = 2) -> None:
    """One message that holds all ``parts``, no traceback, nothing left beside ``output``."""
    assert ended.status == status, ended.error
    assert ended.error.startswith("synbb: ")
    assert "Traceback" not in ended.error
    for part in parts:
        assert part in ended.error, ended.error
    assert not list(output.parent.iterdir())


def with_volumes(folder: Path, change: Callable[[list[dict]], None]) -> Path:
    volumes = settings(folder)["data"]["volumes"]
    change(volumes)
    return write_config(folder, data__volumes=volumes)


def test_unknown_key(cli: Cli, data: Path, output: Path) -> None:
    ended = cli("train", write_config(data), "training.stps=4", "--output", output)
    assert_refused(ended, output, "tiny.yaml", "'stps'", "did you mean 'steps'")


def test_wrong_type(cli: Cli, data: Path, output: Path) -> None:
    ended = cli("train", write_config(data), "pruning.density=dense", "--output", output)
    assert_refused(ended, output, "tiny.yaml", "pruning.density", "'dense'", "number")


def test_missing_config(cli: Cli, data: Path, output: Path) -> None:
    assert_refused(cli("train", data / "none.yaml", "--output", output), output, "none.yaml", "no such file")


@pytest.mark.parametrize("key", ["raw", "labels", "mask"])
def test_missing_volume(cli: Cli, data: Path, output: Path, key: str) -> None:
    file = with_volumes(data, lambda v: v[0].update({key: str(data / "gone.zarr")}))
    assert_refused(cli("train", file, "--output", output), output, "gone.zarr", "'top'")


def test_wrong_number_of_axes(cli: Cli, data: Path, output: Path) -> None:
    with h5py.File(data / "flat.h5", "w") as file:
        file["raw"] = np.ones((64, 64), np.uint8)
        file["raw"].attrs["resolution"] = (8.0, 8.0)
    file = with_volumes(data, lambda v: v[0].update(raw=str(data / "flat.h5:raw")))
    assert_refused(cli("train", file, "--output", output), output, "flat.h5", "axes", "'top'")


def test_labels_that_do_not_overlap(cli: Cli, data: Path, output: Path) -> None:
    write_volume(data / "far.zarr", grey_and_labels()[1], offset=(0.0, 9000.0, 0.0))
    file = with_volumes(data, lambda v: v[0].update(labels=str(data / "far.zarr")))
    ended = cli("train", file, "--output", output)
    assert_refused(ended, output, "far.zarr", "do not overlap", "y 8996 to 9508", "y -4 to 508", "'top'")


def test_labels_between_voxels(cli: Cli, data: Path, output: Path) -> None:
    write_volume(data / "between.zarr", grey_and_labels()[1], offset=(0.0, 0.0, 2.0))
    file = with_volumes(data, lambda v: v[0].update(labels=str(data / "between.zarr")))
    ended = cli("train", file, "--output", output)
    assert_refused(ended, output, "between the voxels", "0.250 voxels along x", "x -2 to 510", "x -4 to 508")


def test_missing_voxel_size(cli: Cli, data: Path, output: Path) -> None:
    tifffile.imwrite(data / "raw.tif", grey_and_labels()[0], photometric="minisblack")
    file = with_volumes(data, lambda v: v[0].update(raw=str(data / "raw.tif")))
    assert_refused(cli("train", file, "--output", output), output, "raw.tif", "voxel size", "'top'")


def test_no_positive_voxel_in_the_whole_training_set(cli: Cli, data: Path, output: Path) -> None:
    file = with_volumes(data, lambda v: v[0].update(labels="none"))
    ended = cli("train", file, "--output", output)
    assert_refused(ended, output, "no foreground voxel", "data.volumes", "data.positive_fraction=0")


def test_a_region_outside_the_volume(cli: Cli, data: Path, output: Path) -> None:
    file = with_volumes(data, lambda v: v[1].update(regions=["0:8,32:65,0:64"]))
    ended = cli("train", file, "--output", output)
    assert_refused(ended, output, "'bottom'", "0:8,32:65,0:64", "not inside", "0:8,0:64,0:64")


def test_patch_larger_than_the_region(cli: Cli, data: Path, output: Path) -> None:
    ended = cli("train", write_config(data), "data.patch=[4,64,16]", "--output", output)
    assert_refused(ended, output, "data.patch [4, 64, 16]", "0:8,0:32,0:64", "smaller patch")


@pytest.mark.parametrize("which", ["raw", "labels"])
def test_a_truncated_chunk(cli: Cli, data: Path, output: Path, which: str) -> None:
    chunk = max(
        (data / f"{which}.zarr" / "0" / "c").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size
    )
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    ended = cli("train", write_config(data), "--output", output)
    assert_refused(ended, output, f"{which}.zarr", "chunk", "'top'" if which == "raw" else "")


def test_sections_of_another_thickness(cli: Cli, data: Path, output: Path) -> None:
    ended = cli("train", write_config(data), "model.voxel_size=[60,8,8]", "--output", output)
    assert_refused(ended, output, "60 nm", "40 x 8 x 8", "choose a matching voxel size")


def test_a_volume_without_contrast(cli: Cli, data: Path, output: Path) -> None:
    write_volume(data / "blank.zarr", np.full((8, 64, 64), 7, np.uint8))
    file = with_volumes(data, lambda v: v[0].update(raw=str(data / "blank.zarr")))
    assert_refused(cli("train", file, "--output", output), output, "blank.zarr", "no tissue")


def test_splits_that_share_voxels(cli: Cli, data: Path, output: Path) -> None:
    file = with_volumes(data, lambda v: v[1].update(regions=["0:8,16:64,0:64"]))
    assert_refused(cli("train", file, "--output", output), output, "'top'", "'bottom'", "0:8,16:32,0:64", "apart")


def test_grey_values_given_as_labels(cli: Cli, data: Path, output: Path) -> None:
    write_volume(data / "grey.zarr", grey_and_labels()[0], attributes={"kind": "raw"})
    file = with_volumes(data, lambda v: v[0].update(labels=str(data / "grey.zarr")))
    assert_refused(cli("train", file, "--output", output), output, "grey.zarr", "grey values", "'top'")


def test_labels_in_an_hdf5_file_are_the_clefts(cli: Cli, data: Path, output: Path) -> None:
    with h5py.File(data / "sample.hdf", "w") as file:
        file["volumes/raw"] = grey_and_labels()[0]
        file["volumes/raw"].attrs["resolution"] = (40.0, 8.0, 8.0)
    given = with_volumes(data, lambda v: v[0].update(labels=str(data / "sample.hdf")))
    assert_refused(
        cli("train", given, "--output", output), output, "sample.hdf", "volumes/labels/clefts", "volumes/raw"
    )


def test_an_unknown_dataset(cli: Cli, data: Path, output: Path) -> None:
    ended = cli("train", write_config(data), "data.dataset=phantomm", "--output", output)
    assert_refused(ended, output, "'phantomm'", "'phantom'")


def test_overrides_that_are_none(cli: Cli, data: Path, output: Path) -> None:
    assert_refused(cli("train", write_config(data), "steps", "--output", output), output, "'steps'", "key=value")


def test_nan_loss(cli: Cli, data: Path, output: Path) -> None:
    ended = cli("train", write_config(data), "training.learning_rate=1e38", "--output", output)
    assert ended.status == 3
    assert "step" in ended.error
    assert "training.learning_rate" in ended.error
    assert "Traceback" not in ended.error


def test_an_existing_run(cli: Cli, data: Path, tmp_path: Path) -> None:
    file = write_config(data, training__steps=1)
    first = cli("train", file, "--output", tmp_path / "run")
    assert first.status == 0
    assert "run folder: " in first.out
    again = cli("train", file, "--output", tmp_path / "run")
    assert again.status == 2
    assert "--resume" in again.error
    other = cli("train", file, "seed=9", "--resume", "--output", tmp_path / "run")
    assert other.status == 2
    assert "seed was 3, is 9" in other.error


def test_usage_errors_and_help(cli: Cli) -> None:
    assert cli("train").status == 2
    assert cli("trian").status == 2
    assert cli("--version").out.startswith("synbb ")
    for command in ("train", "predict", "prune-report"):
        ended = cli(command, "--help")
        assert ended.status == 0
        assert "Usage" in ended.out


# ---- with a run ----


@pytest.fixture
def raw(finished: Path) -> Path:
    return finished / "raw.zarr"


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


def test_weights_that_do_not_exist(cli: Cli, finished: Path, raw: Path, output: Path) -> None:
    ended = cli("predict", finished / "run", raw, output, "--weights", "worst")
    assert_refused(ended, output, "no weights 'worst'", "last and best")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--region", "0:8,0:65,0:64"], ["region z 0:8, y 0:65, x 0:64", "raw.zarr", "y 0:64"]),
        (["--region", "0:8"], ["'0:8'", "z0:z1,y0:y1,x0:x1"]),
        (["--block", "8,64"], ["--block", "'8,64'", "z,y,x"]),
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


def test_configs_of_studies_and_of_runs_are_told_apart(cli: Cli, tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "configs"
    for command, file, message in (
        ("train", "compare/phantom.yaml", "is the config of a study, for synbb compare"),
        ("compare", "synapse/phantom.yaml", "is the config of one run, for synbb train"),
    ):
        ended = cli(command, config / file, "--output", tmp_path / "run")
        assert (ended.status, message in ended.error) == (2, True)


def test_a_run_folder_given_as_config(cli: Cli, finished: Path) -> None:
    ended = cli("train", finished / "run", "--resume")
    assert (ended.status, "is a run folder, not a config; give the config" in ended.error) == (2, True)


def test_things_that_are_no_run(cli: Cli, data: Path, output: Path) -> None:
    for command in (("predict", data, data / "raw.zarr", output), ("prune-report", data)):
        assert_refused(cli(*command), output, str(data), "no run folder")


def test_prune_report_names_every_layer(cli: Cli, finished: Path) -> None:
    ended = cli("prune-report", finished / "run")
    assert ended.status == 0
    report = json.loads((finished / "run" / "pruning.json").read_text())
    layers = report["layers"]
    assert len(layers) >= 11
    assert [layer["masked"] for layer in layers] == [False, *[True] * (len(layers) - 2), False]
    for layer in layers:
        row = next(line for line in ended.out.splitlines() if layer["name"] in line)
        assert (f"{layer['density']:.4f}" if layer["masked"] else "unmasked") in row
    held_out = report["held_out"]
    for figure in ("entropy", "correlation", "participation"):
        assert f"{held_out[figure]:.3f}" in ended.out
    assert "fan-in (solved for), held-out on-rates" in ended.out
    assert "regrown per refresh" in ended.out
    assert "masks final" in ended.out
    assert "of the weights" in ended.out


def test_prune_report_of_a_dense_run(cli: Cli, data: Path, tmp_path: Path) -> None:
    trained(config(data, pruning__method="none", training__steps=2, training__validate_every=2), tmp_path / "dense")
    ended = cli("prune-report", tmp_path / "dense")
    assert ended.status == 0, ended.error
    held_out = json.loads((tmp_path / "dense" / "pruning.json").read_text())["held_out"]
    assert "no layer is masked" in ended.out
    assert f"{held_out['entropy']:.3f}" in ended.out
    assert f"{held_out['traffic']:,.1f}" in ended.out
    assert "balance fit" not in ended.out


def test_as_a_module_in_a_process_of_its_own(data: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "synbb", "train", str(data / "none.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert ended.returncode == 2
    assert ended.stderr.startswith("synbb: config ")
    assert ended.stderr.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name != "data"]
