"""Local zarr read and written through tensorstore is that of the zarr library, and its faults are told alike."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from synbb.errors import SynbbError
from synbb.inference.output import reopen
from synbb.volumes import Box, WorkingView, create_volume, open_volume
from synbb.volumes.pyramid import build_pyramid
from synbb.volumes.quick import QuickOutput, QuickZarr, quickly, written_quickly

pytest.importorskip("tensorstore", reason="tensorstore, the extra remote, is not installed")

SIZE = (50.0, 4.0, 4.0)
SHAPE = (9, 50, 70)


@pytest.fixture(params=["chunks", "shards", "v2", "five axes"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    values = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    where = tmp_path / "raw.zarr"
    if request.param == "five axes":  # stored t, c, x, y, z
        array = zarr.create_array(
            where,
            shape=(1, 1, *SHAPE[::-1]),
            chunks=(1, 1, 16, 16, 4),
            dtype=np.uint8,
            dimension_names=("t", "c", "x", "y", "z"),
            attributes={"resolution": list(SIZE)},
        )
        array[0, 0] = values.transpose()
        return str(where)
    grid = {"chunks": (4, 16, 16), "shards": (8, 32, 32) if request.param == "shards" else None}
    version = "0.4" if request.param == "v2" else "0.5"
    written = create_volume(where, shape=SHAPE, dtype=np.uint8, voxel_size=SIZE, **grid, ome_version=version)
    for box in written.box.blocks(written.unit):
        written.write(box, values[box.slices])
    return str(where)


def test_the_same_voxels_are_read(path: str) -> None:
    plain = open_volume(path)
    quick = quickly(plain)
    assert isinstance(quick.storage, QuickZarr)
    assert (quick.shape, quick.voxel_size, quick.dtype) == (plain.shape, plain.voxel_size, plain.dtype)
    for box in (plain.box, Box((2, 5, 7), (6, 41, 9)), Box((8, 49, 69), (9, 50, 70))):
        np.testing.assert_array_equal(quick.read(box), plain.read(box))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(quick)).read(box), plain.read(box))


@pytest.mark.parametrize("kind", ["chunks", "shards"])
def test_a_broken_file_is_told_in_the_same_words(kind: str, tmp_path: Path) -> None:
    where = tmp_path / "raw.zarr"
    shards = (8, 32, 32) if kind == "shards" else None
    written = create_volume(where, shape=SHAPE, dtype=np.uint8, voxel_size=SIZE, chunks=(4, 16, 16), shards=shards)
    values = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    for box in written.box.blocks(written.unit):
        written.write(box, values[box.slices])
    file = where / "0" / "c" / "1" / "1" / "0"
    file.write_bytes(file.read_bytes()[:100])
    told = []
    for volume in (open_volume(str(where)), quickly(open_volume(str(where)))):
        with pytest.raises(SynbbError) as caught:
            volume.read(volume.box)
        told.append(str(caught.value).partition("(")[0])
    assert told[0] == told[1]
    assert "c/1/1/0" in told[0]


def test_absent_chunks_read_as_zero_and_are_told(path: str) -> None:
    plain = open_volume(path)
    files = sorted(each for each in Path(path).glob("**/*") if each.is_file() and each.name[0].isdigit())
    files[-1].unlink()
    plain = open_volume(path)
    quick = quickly(plain)
    np.testing.assert_array_equal(quick.read(quick.box), plain.read(plain.box))
    assert quick.absent(quick.box) == plain.absent(plain.box)
    assert quick.absent(quick.box)


def test_a_view_reads_every_level_so(tmp_path: Path) -> None:
    written = create_volume(tmp_path / "raw.zarr", shape=(4, 600, 600), dtype=np.uint8, voxel_size=SIZE)
    written.write(written.box, np.random.default_rng(0).integers(0, 256, (4, 600, 600), np.uint8))
    build_pyramid(str(tmp_path / "raw.zarr"))
    view = WorkingView(open_volume(str(tmp_path / "raw.zarr")), (50.0, 8.0, 8.0))
    quick = view.quickly()
    assert isinstance(quick.volume.storage, QuickZarr)
    assert quick.volume.shape == view.volume.shape == (4, 300, 300)
    np.testing.assert_array_equal(quick.read(quick.box), view.read(view.box))
    assert quick.stored(quick.box).dtype == np.uint8


def test_other_formats_stay_as_they_are(make, grey) -> None:
    volume = make("hdf5_plain", grey)
    assert quickly(volume).storage is volume.storage


def test_without_tensorstore_nothing_changes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synbb.volumes.stores.find_spec", lambda _: None)
    plain = open_volume(path)
    assert quickly(plain).storage is plain.storage


@pytest.mark.parametrize("empty_chunks", [True, False])
@pytest.mark.parametrize("shards", [None, (8, 32, 32)])
def test_the_same_files_are_written(shards: tuple[int, int, int] | None, empty_chunks: bool, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    values[:, :32, :32] = 0
    files = []
    for name in ("plain", "quick"):
        where = tmp_path / name / "out.zarr"
        written = create_volume(
            where,
            shape=SHAPE,
            dtype=np.uint8,
            voxel_size=SIZE,
            chunks=(4, 16, 16),
            shards=shards,
            empty_chunks=empty_chunks,
        )
        if name == "quick":
            written = pickle.loads(pickle.dumps(written_quickly(written, empty_chunks=empty_chunks)))
            assert isinstance(written, QuickOutput)
        for box in written.box.blocks((8, 32, 64)):
            written.write(box, np.ascontiguousarray(values[box.slices]))
        np.testing.assert_array_equal(open_volume(str(where)).read(written.box), values)
        files.append(sorted(str(each.relative_to(where)) for each in where.glob("**/*") if each.is_file()))
    assert files[0] == files[1]
    assert len(files[0]) == 2 + {(True, None): 60, (False, None): 48, (True, (8, 32, 32)): 12}.get(
        (empty_chunks, shards), 10
    )


def test_an_output_that_was_reopened_is_written_so_too(tmp_path: Path) -> None:
    where = tmp_path / "out.zarr"
    create_volume(where, shape=SHAPE, dtype=np.uint8, voxel_size=SIZE)
    again = written_quickly(reopen(str(where)), empty_chunks=True)
    assert isinstance(again, QuickOutput)
    again.write(again.box, np.full(SHAPE, 3, np.uint8))
    assert (open_volume(where).read(again.box) == 3).all()


def test_what_cannot_be_written_is_told_by_the_other_way(tmp_path: Path) -> None:
    """A file where a folder must be: not even root writes there."""
    where = tmp_path / "out.zarr"
    written = written_quickly(
        create_volume(where, shape=SHAPE, dtype=np.uint8, voxel_size=SIZE, chunks=(4, 16, 16)), empty_chunks=True
    )
    (where / "0" / "c").write_text("in the way")
    with pytest.raises(SynbbError, match=r"cannot be written here.*0/c"):
        written.write(Box((0, 0, 0), (4, 16, 16)), np.ones((4, 16, 16), np.uint8))
