import errno
import pickle

import numpy as np
import pytest
import zarr

from synbb.errors import RunEnded, SynbbError
from synbb.volumes import Box, create_volume, open_volume
from synbb.volumes.storage import default_grid, default_shards
from synbb.volumes.writing import remove_volume

SIZE = (50.0, 4.0, 4.0)


def test_defaults_and_attributes(tmp_path):
    out = create_volume(tmp_path / "v.zarr", shape=(9, 300, 70), dtype="uint16", voxel_size=SIZE, offset=(1, 2, 3))
    assert (out.chunks, out.shards, out.unit) == ((9, 128, 70), None, (9, 128, 70))
    out.set_attributes({"kind": "probabilities", "threshold": 0.5})
    out.set_attributes({"licence": "CC0"})
    volume = out.volume
    assert volume.attributes == out.attributes == {"kind": "probabilities", "threshold": 0.5, "licence": "CC0"}
    assert (volume.dtype, volume.voxel_size, volume.offset) == (np.uint16, SIZE, (1, 2, 3))
    assert volume.read(volume.box).sum() == 0


def test_large_volumes_are_sharded(tmp_path):
    out = create_volume(tmp_path / "v.zarr", shape=(1000, 2000, 2000), dtype="uint8", voxel_size=SIZE)
    assert (out.chunks, out.shards) == ((32, 128, 128), (64, 512, 512))
    assert out.volume.dask.chunksize == (64, 512, 512)


@pytest.mark.parametrize("shape", [(20, 9000, 9000), (5, 30000, 30000), (100000, 100, 100), (1, 20000, 20000)])
def test_shards_are_whole_chunks(shape):
    chunks, shards = default_grid(shape)
    assert shards == default_shards(shape, chunks)
    assert all(s % c == 0 and c <= n for s, c, n in zip(shards, chunks, shape, strict=True))


def test_empty_chunks_are_stored(tmp_path):
    out = create_volume(tmp_path / "v.zarr", shape=(4, 8, 8), dtype="uint8", voxel_size=SIZE, chunks=(2, 8, 8))
    assert not list((tmp_path / "v.zarr" / "0").glob("c/**/0"))
    out.write(out.box, np.zeros(out.shape, np.uint8))
    assert (tmp_path / "v.zarr/0/c/0/0/0").is_file()
    assert (tmp_path / "v.zarr/0/c/1/0/0").is_file()


def test_pickled_writer_writes(tmp_path):
    out = create_volume(tmp_path / "v.zarr", shape=(4, 8, 8), dtype="uint8", voxel_size=SIZE, chunks=(2, 8, 8))
    copy = pickle.loads(pickle.dumps(out))
    copy.write(Box((2, 0, 0), (4, 8, 8)), np.full((2, 8, 8), 7, np.uint8))
    assert (tmp_path / "v.zarr/0/c/1/0/0").is_file()
    assert out.volume.read(out.box).sum() == 7 * 128


def test_wrong_blocks_are_refused(tmp_path):
    out = create_volume(tmp_path / "v.zarr", shape=(4, 8, 8), dtype="uint8", voxel_size=SIZE)
    with pytest.raises(SynbbError, match="does not fill"):
        out.write(Box((0, 0, 0), (2, 8, 8)), np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(SynbbError, match="not inside"):
        out.write(Box((3, 0, 0), (5, 8, 8)), np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(SynbbError, match="float32"):
        out.write(out.box, np.zeros(out.shape, np.float32))


def test_existing_path_is_refused(tmp_path):
    path = tmp_path / "v.zarr"
    first = create_volume(path, shape=(4, 8, 8), dtype="uint8", voxel_size=SIZE)
    first.write(first.box, np.ones(first.shape, np.uint8))
    with pytest.raises(SynbbError, match=r"v\.zarr: exists already"):
        create_volume(path, shape=(4, 8, 8), dtype="uint8", voxel_size=SIZE)
    assert open_volume(path).read(first.box).sum() == 256
    again = create_volume(path, shape=(2, 8, 8), dtype="uint8", voxel_size=SIZE, overwrite=True)
    assert again.volume.read(again.box).sum() == 0


def test_a_link_to_a_volume_stays(tmp_path):
    (tmp_path / "link.zarr").symlink_to(tmp_path / "v.zarr")
    for overwrite in (False, True):
        out = create_volume(
            tmp_path / "link.zarr", shape=(2, 8, 8), dtype="uint8", voxel_size=SIZE, overwrite=overwrite
        )
        out.write(out.box, np.ones(out.shape, np.uint8))
        assert (tmp_path / "link.zarr").is_symlink()
        assert open_volume(tmp_path / "v.zarr").read(out.box).all()


def test_only_a_zarr_is_overwritten(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("x")
    for name in ("home", "file"):
        with pytest.raises(SynbbError, match="not a zarr"):
            create_volume(tmp_path / name, shape=(2, 8, 8), dtype="uint8", voxel_size=SIZE, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"shape": (0, 8, 8)}, "no voxel"),
        ({"dtype": "complex64"}, "complex64"),
        ({"voxel_size": (0, 1, 1)}, "three positive"),
        ({"chunks": (0, 8, 8)}, "chunks"),
        ({"chunks": (2, 8)}, "chunks"),
        ({"chunks": (2, 4, 4), "shards": (4, 6, 8)}, "multiples"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, bad, message):
    good = {"shape": (4, 8, 8), "dtype": "uint8", "voxel_size": SIZE}
    with pytest.raises(SynbbError, match=message):
        create_volume(tmp_path / "v.zarr", **{**good, **bad})
    assert not (tmp_path / "v.zarr").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_ends_the_run(tmp_path, monkeypatch, number):
    out = create_volume(tmp_path / "v.zarr", shape=(4, 8, 8), dtype="uint8", voxel_size=SIZE)

    async def full(*args, **kwargs):
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(zarr.storage.LocalStore, "set", full)
    with pytest.raises(RunEnded, match=r"v\.zarr: the disk .* is full") as caught:
        out.write(out.box, np.ones(out.shape, np.uint8))
    assert caught.value.exit_status == 3
    with pytest.raises(RunEnded):
        out.set_attributes({"a": 1})
    with pytest.raises(RunEnded):
        create_volume(tmp_path / "w.zarr", shape=(4, 8, 8), dtype="uint8", voxel_size=SIZE)


def test_forbidden_place(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SynbbError, match="choose another place"):
        create_volume(tmp_path / "file" / "v.zarr", shape=(4, 8, 8), dtype="uint8", voxel_size=SIZE)


# --- chunks that are lost or broken ---------------------------------------------------------------------


@pytest.fixture(params=["chunks", "shards", "zarr2"])
def stored(request, tmp_path):
    """A volume of ones with two files along y, and the path of the second."""
    path = tmp_path / "v.zarr"
    data = np.random.default_rng(0).integers(1, 255, (4, 16, 8), np.uint8)
    if request.param == "zarr2":
        array = zarr.create_array(str(path), shape=data.shape, chunks=(4, 8, 8), dtype="uint8", zarr_format=2)
        array[:] = data
        return open_volume(path, voxel_size=SIZE), data, path / "0.1.0"
    shards = (4, 8, 8) if request.param == "shards" else None
    chunks = (2, 4, 8) if shards else (4, 8, 8)
    out = create_volume(path, shape=data.shape, dtype="uint8", voxel_size=SIZE, chunks=chunks, shards=shards)
    out.write(out.box, data)
    return out.volume, data, path / "0/c/0/1/0"


def test_missing_chunk_reads_as_zero(stored):
    volume, data, file = stored
    file.unlink()
    found = volume.read(volume.box)
    assert (found[:, :8] == data[:, :8]).all()
    assert (found[:, 8:] == 0).all()


@pytest.mark.parametrize("keep", [0, 3, 0.5, -2])
def test_truncated_chunk_is_named(stored, keep):
    volume, data, file = stored
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(SynbbError, match=rf"v\.zarr.*{file.name.replace('.', '[.]')}.*voxels 0:4,8:16,0:8.*truncated"):
        volume.read(Box((0, 4, 0), (4, 16, 8)))
    with pytest.raises(SynbbError, match="truncated"):
        volume.dask.compute(scheduler="threads")
    intact = Box((0, 0, 0), (4, 8, 8))
    assert (volume.read(intact) == data[intact.slices]).all()


def test_what_a_kill_leaves_of_a_volume_that_was_to_go_may_be_replaced(tmp_path, monkeypatch):
    where = tmp_path / "v.zarr"
    written = create_volume(where, shape=(2, 4, 4), dtype=np.uint8, voxel_size=(1, 1, 1))
    written.write(written.box, np.ones(written.shape, np.uint8))
    removed = []

    def killed(path, **_):
        removed.append(path.name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_volume(where)
    assert removed == ["0"]
    create_volume(where, shape=(2, 4, 4), dtype=np.uint8, voxel_size=(1, 1, 1), overwrite=True)
    remove_volume(where)
    assert not where.exists()
