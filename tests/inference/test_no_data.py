"""What has no data is 0, counted by section, the same whatever the blocks, and left out of the normalisation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import VOXEL, geometry, random_unet, random_volume

from synbb.errors import SynbbError
from synbb.inference import predict_volume
from synbb.inference.no_data import Tissue, at_source, blank, whole_tiles
from synbb.inference.output import no_data_path
from synbb.inference.predictor import PredictionSummary
from synbb.volumes.box import Box
from synbb.volumes.opening import open_volume
from synbb.volumes.statistics import TILE, Normalisation, measure_normalisation, tissue_mask
from synbb.volumes.volume import Volume
from synbb.volumes.writing import create_volume

GREY = Normalisation(20.0, 230.0)
NET = random_unet()


def predict(volume: Volume, output: Path, **changed: Any) -> PredictionSummary:
    arguments: dict[str, Any] = {
        "working_voxel_size": VOXEL,
        "normalisation": GREY,
        "attributes": {},
        "model_sha256": "0" * 64,
        "run_id": "run-1",
        "write_block": (4, 16, 24),
        "dtype": "float32",
        **geometry(NET),
    }
    return predict_volume(NET, volume, output, **{**arguments, **changed})


def values(path: Path) -> np.ndarray[Any, Any]:
    stored = open_volume(str(path))
    return stored.read(stored.box)


def edited(
    path: Path, shape: tuple[int, int, int], change: Any, voxel_size: tuple[float, float, float] = VOXEL
) -> Volume:
    """Noise at ``path`` after ``change(array)``."""
    random_volume(path, shape, voxel_size)
    array = zarr.open_array(str(path / "0"), mode="r+")
    kept = np.asarray(array[...])
    change(kept)
    array[...] = kept
    return open_volume(str(path))


def test_blank_sections_and_padding_are_zero_and_reported_by_section(tmp_path: Path) -> None:
    def change(array: np.ndarray[Any, Any]) -> None:
        array[3] = 0
        array[6:8] = 131
        array[0, :32, 48:] = 0  # whole tiles, the last one cut by the volume's border

    raw = edited(tmp_path / "raw.zarr", (9, 50, 61), change)
    whole = random_volume(tmp_path / "whole.zarr", (9, 50, 61))
    summary = predict(raw, tmp_path / "out.zarr")
    found = values(tmp_path / "out.zarr")
    assert (found[[3, 6, 7]] == 0).all()
    assert (found[0, :32, 48:] == 0).all()
    assert (found[0, 32:] > 0).all()
    assert (found[[1, 2, 4, 5, 8]] > 0).all()
    assert summary.no_data is not None
    assert summary.no_data.whole == [3, 6, 7]
    assert summary.no_data.partly == [0]
    assert open_volume(str(tmp_path / "out.zarr")).attributes["no_data_sections"] == [3, 6, 7]
    with no_data_path(tmp_path / "out.zarr").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["z"]) for row in rows] == [0, 3, 6, 7]
    assert [int(row["voxels_without_data"]) for row in rows] == [32 * 13, 50 * 61, 50 * 61, 50 * 61]
    assert float(rows[1]["z_nm"]) == pytest.approx(raw.centre_of((3, 0, 0))[0])
    assert float(rows[0]["share"]) == pytest.approx(32 * 13 / (50 * 61), abs=1e-6)
    predict(whole, tmp_path / "other.zarr")
    assert (values(tmp_path / "other.zarr") > 0).all()
    assert not no_data_path(tmp_path / "other.zarr").exists()


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_what_is_blank_does_not_depend_on_the_blocks(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    spots = data.draw(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6)
    )

    def change(array: np.ndarray[Any, Any]) -> None:
        for z, row, column in spots:
            array[z, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = 7

    raw = edited(folder / "raw.zarr", (5, 60, 53), change)
    block = data.draw(st.tuples(st.integers(1, 5), st.integers(8, 60), st.integers(8, 53)))
    predict(raw, folder / "one.zarr", write_block=(5, 60, 53))
    predict(raw, folder / "two.zarr", write_block=block)
    one, two = values(folder / "one.zarr"), values(folder / "two.zarr")
    assert ((one == 0) == (two == 0)).all()
    assert (one == 0).any()
    assert np.abs(one - two).max() < 1e-5


def test_blank_tiles_at_another_voxel_size(tmp_path: Path) -> None:
    """Working voxels of 2 x 2: a tile of 16 is 32 voxels of the input."""

    def change(array: np.ndarray[Any, Any]) -> None:
        array[1, 32:64, :64] = 90
        array[2, 40:60, 40:60] = 90  # no whole tile

    raw = edited(tmp_path / "raw.zarr", (3, 70, 90), change, (50.0, 4.6, 4.6))
    summary = predict(raw, tmp_path / "out.zarr", write_block=(3, 24, 40))
    found = values(tmp_path / "out.zarr")
    expected = np.zeros(found.shape, bool)
    expected[1, 32:64, :64] = True
    assert ((found == 0) == expected).all()
    assert summary.no_data is not None
    assert summary.no_data.voxels == (0, 32 * 64, 0)


def test_probes_find_what_a_look_at_every_voxel_finds() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 3, (6, 45, 70)).astype(np.float32)  # many voxels agree by chance
    array[2, 16:32, 32:48] = 1
    array[4, 32:, 64:] = 2
    box = Box.of_shape(array.shape)
    assert (blank(array, box, box, 0.0) == ~tissue_mask(array)).all()
    core = Box((1, 20, 30), (5, 40, 66))
    assert (blank(array, core, box, 0.0) == ~tissue_mask(array)[core.slices]).all()
    assert whole_tiles(core, box) == Box((1, 16, 16), (5, 45, 70))


def test_absent_chunks_are_skipped_or_an_error_and_an_unreadable_one_is_always_an_error(tmp_path: Path) -> None:
    raw = random_volume(tmp_path / "raw.zarr", (6, 48, 64))
    path = tmp_path / "lost.zarr"
    lost = create_volume(path, shape=raw.shape, dtype=np.uint8, voxel_size=VOXEL, chunks=(2, 16, 32))
    lost.write(lost.box, raw.read(raw.box))
    (path / "0" / "c" / "1" / "2" / "0").unlink()
    volume = open_volume(str(path))
    summary = predict(volume, tmp_path / "out.zarr", missing="skip")
    found = values(tmp_path / "out.zarr")
    gone = np.zeros(raw.shape, bool)
    gone[2:4, 32:48, :32] = True
    assert ((found == 0) == gone).all()
    assert summary.no_data is not None
    assert summary.no_data.voxels == (0, 0, 16 * 32, 16 * 32, 0, 0)
    told = r"block \d+ of 18 .*: 1 chunks are absent, the first at voxels 2:4,32:48,.*--missing skip"
    with pytest.raises(SynbbError, match=told):
        predict(volume, tmp_path / "refused.zarr", missing="error")
    beside = Box((0, 16, 0), (2, 32, 32))  # its chunks are there, those that the network sees beside it are not
    with pytest.raises(SynbbError, match="1 chunks are absent, the first at voxels 2:4,32:48,"):
        predict(volume, tmp_path / "beside.zarr", missing="error", region=beside)
    whole = predict(raw, tmp_path / "whole.zarr", missing="error")
    assert whole.done == whole.blocks
    (path / "0" / "c" / "0" / "0" / "0").write_bytes(b"")
    with pytest.raises(SynbbError, match="truncated or unreadable"):
        predict(volume, tmp_path / "damaged.zarr", missing="skip")


def test_empty_chunks_of_a_shard_are_absent(tmp_path: Path) -> None:
    made = create_volume(
        tmp_path / "raw.zarr", shape=(10, 40, 50), dtype=np.uint8, voxel_size=VOXEL, chunks=(2, 8, 8),
        shards=(4, 16, 16),
        empty_chunks=False,
    )  # fmt: skip
    array = np.ones(made.shape, np.uint8)
    array[2:4, 8:16, 0:8] = 0  # one chunk
    array[4:8, 16:32, 16:32] = 0  # a whole shard
    array[8:10, 32:40, 48:50] = 0  # at the far corner
    made.write(made.box, array)
    volume = open_volume(made.path)
    chunks = [Box((2, 8, 0), (4, 16, 8)), Box((4, 16, 16), (8, 32, 32)), Box((8, 32, 48), (10, 40, 50))]
    assert volume.absent(volume.box) == chunks
    assert volume.absent(Box((3, 9, 1), (5, 20, 20))) == [Box((3, 9, 1), (4, 16, 8)), Box((4, 16, 16), (5, 20, 20))]
    cropped = volume.crop(Box((2, 8, 0), (10, 40, 50)))
    assert cropped.absent(cropped.box)[0] == Box((0, 0, 0), (2, 8, 8))


def test_outside_of_a_mask_nothing_is_predicted_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = random_volume(tmp_path / "raw.zarr", (8, 48, 64))
    coarse = create_volume(
        tmp_path / "mask.zarr", shape=(4, 6, 8), dtype=np.uint8, voxel_size=(100.0, 8 * 9.2, 8 * 9.2),
        offset=(125.0, 7 + 3.5 * 9.2, 9 + 3.5 * 9.2),
    )  # fmt: skip
    inside = np.zeros(coarse.shape, np.uint8)
    inside[1:3, 2:5, 1:4] = 5
    coarse.write(coarse.box, inside)
    mask = open_volume(coarse.path)
    expected = inside.repeat(2, 0).repeat(8, 1).repeat(8, 2) > 0
    assert (Tissue(mask, raw).inside(raw.box) == expected).all()
    read: list[Box] = []
    monkeypatch.setattr(Volume, "read", _recording(read, raw.path))
    predict(raw, tmp_path / "out.zarr", mask=mask, write_block=(2, 16, 16))
    found = values(tmp_path / "out.zarr")
    assert ((found > 0) == expected).all()
    assert len(read) == 2 * 2 * 2  # of 4 x 3 x 4 blocks
    monkeypatch.undo()
    predict(raw, tmp_path / "whole.zarr", write_block=(2, 16, 16))
    assert np.abs(found - values(tmp_path / "whole.zarr"))[expected].max() < 1e-6
    with pytest.raises(SynbbError, match="mask was"):
        predict(raw, tmp_path / "out.zarr", write_block=(2, 16, 16))


def _recording(read: list[Box], path: str) -> Any:
    original = Volume.read

    def recorded(volume: Volume, box: Box) -> Any:
        if volume.path == path:
            read.append(box)
        return original(volume, box)

    return recorded


def test_a_mask_that_ends_before_the_volume_leaves_the_rest_out(tmp_path: Path) -> None:
    raw = random_volume(tmp_path / "raw.zarr", (4, 20, 20))
    small = create_volume(
        tmp_path / "mask.zarr", shape=(2, 10, 30), dtype=np.uint8, voxel_size=VOXEL, offset=(150.0, 7 - 9.2, 9)
    )
    small.write(small.box, np.ones(small.shape, np.uint8))
    inside = Tissue(open_volume(small.path), raw).inside(raw.box)
    expected = np.zeros(raw.shape, bool)
    expected[1:3, :9] = True
    assert (inside == expected).all()


def test_grey_values_outside_of_a_mask_do_not_count(tmp_path: Path) -> None:
    def change(array: np.ndarray[Any, Any]) -> None:
        array[:, :, 32:] //= 4

    raw = edited(tmp_path / "raw.zarr", (4, 32, 64), change)

    def left(box: Box) -> np.ndarray[Any, np.dtype[np.bool_]]:
        found = np.zeros(box.shape, bool)
        found[:, :, : max(0, 32 - box.start[2])] = True
        return found

    alone = measure_normalisation(raw, within=[Box((0, 0, 0), (4, 32, 32))])
    assert measure_normalisation(raw, inside=left) == alone
    assert measure_normalisation(raw) != alone


def test_small_probabilities_become_zero_and_empty_chunks_are_not_written(tmp_path: Path) -> None:
    def change(array: np.ndarray[Any, Any]) -> None:
        array[:4] = 0

    raw = edited(tmp_path / "raw.zarr", (8, 32, 32), change)
    predict(raw, tmp_path / "all.zarr", write_block=(4, 16, 16))
    full = values(tmp_path / "all.zarr")
    floor = float(np.median(full[4:]))
    predict(raw, tmp_path / "out.zarr", write_block=(4, 16, 16), floor=floor)
    found = values(tmp_path / "out.zarr")
    assert (found == np.where(full < floor, 0, full)).all()
    files = {
        name: sum(f.is_file() for f in (tmp_path / name / "0" / "c").rglob("*")) for name in ("all.zarr", "out.zarr")
    }
    assert files == {"all.zarr": 8, "out.zarr": 4}
    again = predict(raw, tmp_path / "out.zarr", write_block=(4, 16, 16), floor=floor, verify=True)
    assert (again.done, again.damaged) == (0, 0)
    next(f for f in (tmp_path / "out.zarr" / "0" / "c").rglob("*") if f.is_file()).unlink()
    mended = predict(raw, tmp_path / "out.zarr", write_block=(4, 16, 16), floor=floor, verify=True)
    assert mended.damaged == 1
    assert (values(tmp_path / "out.zarr") == found).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"floor": 1.0}, r"floor 1\.0 must lie in \[0, 1\)"),
        ({"missing": "ignore"}, "'ignore' is not one of error, skip"),
    ],
)
def test_choices_that_make_no_sense(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        predict(random_volume(tmp_path / "raw.zarr", (4, 16, 16)), tmp_path / "out.zarr", **changed)


def test_places_of_working_voxels_at_the_source() -> None:
    found = np.zeros((1, 3, 2), bool)
    found[0, 1] = True
    core, write = Box((0, 1, 0), (1, 4, 2)), Box((0, 3, 0), (1, 7, 4))
    at = at_source(found, core, write, (1.0, 2.0, 2.0))
    assert at[0, :, 0].tolist() == [False, True, True, False]  # rows 3 to 6 lie in working rows 1, 2, 2, 3
