"""Whatever a person gets wrong in a config or its data ends in one message and an exit status, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from commands import Cli, assert_refused
from tiny import grey_and_labels, settings, write_config, write_volume


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


def test_configs_of_studies_and_of_runs_are_told_apart(cli: Cli, tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "configs"
    for command, file, message in (
        ("train", "compare/phantom.yaml", "is the config of a study, for synbb compare"),
        ("compare", "synapse/phantom.yaml", "is the config of one run, for synbb train"),
    ):
        ended = cli(command, config / file, "--output", tmp_path / "run")
        assert (ended.status, message in ended.error) == (2, True)
