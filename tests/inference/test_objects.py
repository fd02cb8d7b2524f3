from __future__ import annotations

import csv
import errno
import shutil
from pathlib import Path

import cc3d
import numpy as np
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from synbb.cli import segment as segment_file
from synbb.errors import RunEnded, SynbbError
from synbb.inference.objects import COLUMNS, segment
from synbb.volumes import WritableVolume, create_volume, open_volume

VOXEL = (40.0, 10.0, 5.0)
ABOUT = {"kind": "probabilities", "threshold": 0.5, "run_id": "r1", "licence": "CC0", "citation": "me", "private": 1}


def write(path, array, **options):
    settings = {"voxel_size": VOXEL, "chunks": (2, 4, 5), "attributes": ABOUT, **options}
    writable = create_volume(path, shape=array.shape, dtype=array.dtype, overwrite=True, **settings)
    writable.write(writable.box, array)
    return writable.volume


def blobs(seed=0, shape=(7, 18, 21), dtype=np.uint8):
    values = np.random.default_rng(seed).integers(0, 256, shape)
    values = np.where(values < 200, values // 3, values)
    return values.astype(np.uint8) if dtype == np.uint8 else (values / 255).astype(dtype)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read(path):
    volume = open_volume(path)
    return volume.read(volume.box)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)),
    connectivity=st.sampled_from([6, 18, 26]),
    block=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_labels_are_those_of_cc3d_on_the_whole_array(tmp_path, seed, shape, connectivity, block, dtype):
    values = blobs(seed, shape, dtype)
    volume = write(tmp_path / "p.zarr", values, chunks=[min(s, 4) for s in shape])
    summary = segment(
        volume, tmp_path / "o.zarr", threshold=0.7, connectivity=connectivity, block=block, overwrite=True
    )
    ours = read(tmp_path / "o.zarr")
    mask = values >= (np.uint8(179) if dtype == np.uint8 else 0.7)  # 178.5 / 255 = 0.7
    theirs = cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity)
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    assert pairs.shape[1] == len(set(pairs[0])) == len(set(pairs[1])) == summary.objects + (not mask.all())
    assert ((ours > 0) == mask).all()


def test_ids_do_not_depend_on_the_blocks(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs(3))
    results = []
    for number, block in enumerate([None, (2, 4, 5), (4, 8, 5), (32, 128, 128)]):
        segment(volume, tmp_path / f"o{number}.zarr", block=block)
        results.append((read(tmp_path / f"o{number}.zarr"), (tmp_path / f"o{number}.csv").read_text()))
    for labels, table in results[1:]:
        np.testing.assert_array_equal(labels, results[0][0])
        assert table == results[0][1]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_table_volume_and_metadata(tmp_path, dtype):
    values = np.zeros((4, 9, 11), dtype)
    one = dtype(255 if dtype == np.uint8 else 1.0)
    values[1:3, 2:4, 3:6] = one
    values[2, 3, 5] = 204 if dtype == np.uint8 else 0.8
    values[0, 8, 10] = one
    volume = write(tmp_path / "p.zarr", values, offset=(100.0, 20.0, 30.0))
    summary = segment(volume, tmp_path / "o.zarr", min_size_nm3=2001)
    assert (summary.objects, summary.too_small, summary.voxels) == (1, 1, 12)
    assert (summary.threshold, summary.threshold_source) == (0.5, "stored with the probabilities")
    (row,) = rows(tmp_path / "o.csv")
    assert tuple(row) == COLUMNS
    assert [row[k] for k in ("id", "z", "y", "x")] == ["1", "1.500", "2.500", "4.000"]
    assert [float(row[k]) for k in ("z_nm", "y_nm", "x_nm")] == [100 + 60, 20 + 25, 30 + 20]
    box = [row[k] for k in ("z_start", "y_start", "x_start", "z_stop", "y_stop", "x_stop")]
    assert box == ["1", "2", "3", "3", "4", "6"]
    assert (row["voxels"], float(row["volume_nm3"])) == ("12", 12 * 2000)
    assert float(row["score_mean"]) == pytest.approx((11 + 0.8) / 12, abs=1e-5)
    assert float(row["score_max"]) == 1
    labels = open_volume(tmp_path / "o.zarr")
    assert labels.dtype == np.uint32
    assert (labels.voxel_size, labels.offset) == (VOXEL, (100.0, 20.0, 30.0))
    expected = {"kind": "objects", "threshold": 0.5, "min_size_nm3": 2001.0, "connectivity": 26, "objects": 1}
    expected |= {"low": 0.5, "bridge": 0, "split_nm": 0.0, "max_size_nm3": None}
    expected |= {"run_id": "r1", "licence": "CC0", "citation": "me", "source": volume.path}
    assert labels.attributes == expected
    assert segment(volume, tmp_path / "all.zarr", min_size_nm3=2000).objects == 2  # at least, not more than


def test_nothing_above_the_threshold_is_an_empty_table(tmp_path):
    volume = write(tmp_path / "p.zarr", np.zeros((3, 5, 5), np.uint8))
    assert segment(volume, tmp_path / "o.zarr").objects == 0
    assert (tmp_path / "o.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert not read(tmp_path / "o.zarr").any()


def test_progress_runs_over_both_passes(tmp_path):
    seen = []
    segment(
        write(tmp_path / "p.zarr", blobs()),
        tmp_path / "o.zarr",
        block=(4, 9, 11),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, seen[0][1]) for i in range(1, seen[0][1] + 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "above 0 and at most 1"),
        ({"threshold": 128}, "above 0 and at most 1"),
        ({"min_size_nm3": -1}, "smallest size"),
        ({"connectivity": 4}, "connectivity 4"),
        ({"block": (1, 0, 1)}, "three positive numbers"),
    ],
)
def test_wrong_values_are_refused_and_leave_nothing(tmp_path, options, message):
    volume = write(tmp_path / "p.zarr", blobs())
    with pytest.raises(SynbbError, match=message):
        segment(volume, tmp_path / "o.zarr", **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.zarr"]


@pytest.mark.parametrize(
    ("array", "attributes", "message"),
    [
        (blobs(), {}, "--threshold"),
        (blobs(), {"threshold": "high"}, "is not a number"),
        (blobs(), {"threshold": 3}, "stored threshold 3"),
        (blobs(), {"kind": "objects", "threshold": 0.5}, "holds objects .*name the volume of probabilities"),
        (blobs(), {"kind": "raw", "threshold": 0.5}, "holds grey values "),
        (blobs().astype(np.int32), ABOUT, "not int32"),
        (blobs().astype(np.float32) - 40, ABOUT, "not probabilities"),
        (np.full((2, 3, 3), np.nan, np.float32), ABOUT, "not probabilities"),
    ],
)
def test_what_is_no_probability_volume_is_refused(tmp_path, array, attributes, message):
    volume = write(tmp_path / "p.zarr", array, attributes=attributes)
    with pytest.raises(SynbbError, match=message):
        segment(volume, tmp_path / "o.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.zarr"]


def test_an_existing_output_is_kept_unless_told(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs())
    segment(volume, tmp_path / "o.zarr")
    before = (tmp_path / "o.csv").read_text()
    with pytest.raises(SynbbError, match="--overwrite"):
        segment(volume, tmp_path / "o.zarr", threshold=0.9)
    assert (tmp_path / "o.csv").read_text() == before
    segment(volume, tmp_path / "o.zarr", threshold=0.9, overwrite=True)
    assert (tmp_path / "o.csv").read_text() != before
    assert open_volume(tmp_path / "o.zarr").attributes["threshold"] == 0.9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.csv", "o.zarr", "p.zarr"]


def test_only_our_kind_of_output_is_overwritten(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs())
    with pytest.raises(SynbbError, match="the input itself"):
        segment(volume, tmp_path / "p.zarr", overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(SynbbError, match="not a zarr"):
        segment(volume, tmp_path / "thesis", overwrite=True)
    (tmp_path / "o.csv").write_text("mine")
    with pytest.raises(SynbbError, match=r"o\.csv exists"):
        segment(volume, tmp_path / "o.zarr")
    assert (tmp_path / "o.csv").read_text() == "mine"


@pytest.mark.parametrize(("source", "target"), [("p.zarr:0", "p.zarr"), ("p.zarr/0", "p.zarr"), ("p.zarr", "p.zarr/0")])
def test_an_output_that_holds_the_input_is_refused(tmp_path, source, target):
    volume = write(tmp_path / "p.zarr", blobs())
    array = open_volume(f"{tmp_path}/{source}")
    with pytest.raises(SynbbError, match=r"zarr(/0)? holds the input .*give another output"):
        segment(array, tmp_path / target, threshold=0.5, overwrite=True)
    np.testing.assert_array_equal(open_volume(tmp_path / "p.zarr").read(volume.box), volume.read(volume.box))


def test_links_are_followed(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs())
    (tmp_path / "disk").mkdir()
    for name in ("o.zarr", "o.csv"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    segment(volume, tmp_path / "o.zarr")
    with pytest.raises(SynbbError, match=r"o\.zarr exists"):
        segment(volume, tmp_path / "o.zarr")
    segment(volume, tmp_path / "o.zarr", threshold=0.9, overwrite=True)
    assert (tmp_path / "o.zarr").is_symlink()
    assert (tmp_path / "o.csv").is_symlink()
    assert open_volume(tmp_path / "disk" / "o.zarr").attributes["threshold"] == 0.9
    assert sorted(file.name for file in (tmp_path / "disk").iterdir()) == ["o.csv", "o.zarr"]


def test_an_output_without_a_name_is_refused(tmp_path, monkeypatch):
    volume = write(tmp_path / "p.zarr", blobs())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SynbbError, match="names no new folder"):
        segment(volume, ".")


def test_a_full_disk_ends_the_run_and_leaves_what_was_there(tmp_path, monkeypatch):
    volume = write(tmp_path / "p.zarr", blobs())
    segment(volume, tmp_path / "o.zarr")
    before = read(tmp_path / "o.zarr"), (tmp_path / "o.csv").read_text()
    calls = []
    whole = WritableVolume.write

    def full(self, box, array):
        calls.append(box)
        if len(calls) == 2:
            raise RunEnded("no space left") from OSError(errno.ENOSPC, "No space left on device")
        whole(self, box, array)

    monkeypatch.setattr(WritableVolume, "write", full)
    with pytest.raises(RunEnded):
        segment(volume, tmp_path / "o.zarr", threshold=0.9, block=(2, 4, 5), overwrite=True)
    np.testing.assert_array_equal(read(tmp_path / "o.zarr"), before[0])
    assert (tmp_path / "o.csv").read_text() == before[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.csv", "o.zarr", "p.zarr"]


def test_what_is_removed_while_it_is_written_ends_the_run(tmp_path, monkeypatch):
    volume = write(tmp_path / "p.zarr", blobs())
    calls = []
    whole = WritableVolume.write

    def remove(self, box, array):
        calls.append(box)
        if len(calls) == 2:
            shutil.rmtree(self.path)
        whole(self, box, array)

    monkeypatch.setattr(WritableVolume, "write", remove)
    with pytest.raises(RunEnded, match="was removed while it was being written"):
        segment(volume, tmp_path / "o.zarr", block=(2, 4, 5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.zarr"]


def test_a_full_disk_at_the_table_ends_the_run(tmp_path, monkeypatch):
    volume = write(tmp_path / "p.zarr", blobs())
    real = Path.open

    def full(self, mode="r", *arguments, **options):
        if "w" in mode and self.name.endswith(".csv.partial"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunEnded, match=r"the disk .* is full"):
        segment(volume, tmp_path / "o.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.zarr"]


def test_what_a_killed_run_left_is_replaced(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs())
    write(tmp_path / ".o.zarr.partial", np.ones((2, 2, 2), np.uint8))
    (tmp_path / ".o.csv.partial").write_text("half")
    segment(volume, tmp_path / "o.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.csv", "o.zarr", "p.zarr"]


def test_memory_is_one_block_and_not_the_volume(tmp_path):
    largest = []
    volume = write(tmp_path / "p.zarr", blobs(shape=(8, 40, 40)), chunks=(2, 8, 8))
    kind = type(volume)
    real = kind.read

    def watched(self, box):
        largest.append(box.size)
        return real(self, box)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "read", watched)
        segment(volume, tmp_path / "o.zarr", block=(2, 8, 8))
    assert max(largest) == 2 * 8 * 8


# The command


def run(*arguments: str):
    app = typer.Typer()
    app.command()(segment_file.command)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300"})


def test_the_command(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs())
    out = str(tmp_path / "o.zarr")
    result = run(volume.path, out, "--threshold", "0.9", "--min-size", "4000", "--connectivity", "6")
    assert result.exit_code == 0, result.output
    listed = rows(tmp_path / "o.csv")
    assert f"{len(listed):,} objects" in result.output
    assert str(tmp_path / "o.csv") in result.output.replace("\n", "")
    again = run(volume.path, out)
    assert isinstance(again.exception, SynbbError)
    assert "--overwrite" in str(again.exception)
    assert run(volume.path, out, "--overwrite").exit_code == 0
    assert open_volume(out).attributes["threshold"] == 0.5


def test_the_command_takes_all_rules(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs())
    out = str(tmp_path / "o.zarr")
    rules = ["--low", "0.6", "--bridge", "2", "--blank", "2,3", "--split", "60", "--max-size", "900000"]
    result = run(volume.path, out, "--threshold", "0.8", *rules)
    assert result.exit_code == 0, result.output
    stored = open_volume(out).attributes
    names = ("low", "bridge", "no_data_sections", "split_nm", "max_size_nm3", "threshold")
    assert [stored[name] for name in names] == [0.6, 2, [2, 3], 60.0, 900000.0, 0.8]
    assert "down to 0.6" in result.output
    assert "left out as larger than 900,000 nm3" in result.output
    assert "the 2 sections without data are bridged" in result.output
    assert "split at seeds at least 60 nm apart" in result.output
    assert "--blank '2,x' must be" in str(run(volume.path, out, "--blank", "2,x", "--overwrite").exception)


def test_an_unfinished_prediction_is_refused(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs(), attributes={**ABOUT, "complete": False})
    with pytest.raises(SynbbError, match="not finished"):
        segment(volume, tmp_path / "o.zarr")
    assert not (tmp_path / "o.zarr").exists()


def test_the_smallest_size_stored_with_the_probabilities_is_the_default(tmp_path):
    volume = write(tmp_path / "p.zarr", blobs(), attributes={**ABOUT, "min_size_nm3": 5 * float(np.prod(VOXEL))})
    stored = segment(volume, tmp_path / "o.zarr")
    everything = segment(volume, tmp_path / "all.zarr", min_size_nm3=0)
    assert stored.min_size_nm3 == 5 * np.prod(VOXEL)
    assert stored.objects + stored.too_small == everything.objects
    assert stored.too_small > 0
