import errno
import shutil
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from synbb.errors import RunEnded, SynbbError
from synbb.volumes import Box, create_volume, open_volume
from synbb.volumes.convert import block_shape, convert
from synbb.volumes.pyramid import build_pyramid, downsample, plan_levels

SIZE = (50.0, 4.0, 6.0)


@pytest.mark.parametrize(
    "kind", ["ours", "sharded", "zarr2", "hdf5", "hdf5_plain", "tiff", "tiff_compressed", "multipage", "png"]
)
def test_every_format_converts(kind, make, grey, tmp_path):
    source = make(kind, grey)
    seen = []
    found = convert(source.path, tmp_path / "out" / "em.zarr", voxel_size=SIZE, progress=lambda *a: seen.append(a))
    assert (found.read(found.box) == grey).all()
    assert (found.voxel_size, found.dtype, found.format) == (SIZE, np.uint8, "OME-Zarr 0.5 (zarr v3)")
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["em.zarr"]


def test_offset_labels_and_metadata_are_kept(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2**63, (3, 20, 20)).astype(np.uint64)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("volumes/labels/clefts", data=labels)
        dataset.attrs["resolution"], dataset.attrs["offset"] = SIZE, (100.0, 8.0, 12.0)
    first = convert(f"{tmp_path / 'a.h5'}:volumes/labels/clefts", tmp_path / "b.zarr")
    assert first.offset == (100, 8, 12)
    writable = zarr.open_group(str(tmp_path / "b.zarr"), mode="r+")
    writable.attrs["synbb"] = {"licence": "CC BY", "citation": "Someone, 2013"}
    second = convert(tmp_path / "b.zarr", tmp_path / "c.zarr", pyramid=True)
    assert second.dtype == np.uint64
    assert (second.read(second.box) == labels).all()
    assert second.attributes["licence"] == "CC BY"
    assert second.attributes["converted_from"].endswith("b.zarr")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pyramid_levels_are_means(tmp_path, dtype):
    array = np.random.default_rng(0).integers(0, 255, (3, 151, 270)).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["em"] = array
    seen = []
    found = convert(
        f"{tmp_path / 'a.h5'}:em",
        tmp_path / "b.zarr",
        voxel_size=(50, 4, 4),
        pyramid=True,
        chunks=(2, 32, 32),
        progress=lambda *a: seen.append(a),
    )
    assert [level.shape for level in found.levels] == [(3, 151, 270), (3, 76, 135), (3, 38, 68), (3, 19, 34)]
    assert seen[-1][0] == seen[-1][1] == len(seen)
    expected = (
        np.pad(array.astype(float), ((0, 0), (0, 1), (0, 0)), mode="edge").reshape(3, 76, 2, 135, 2).mean(axis=(2, 4))
    )
    level = found.levels[1]
    assert level.dtype == dtype
    rounded = expected if dtype == "float32" else np.rint(expected)
    assert level.read(level.box) == pytest.approx(rounded, rel=1e-6)


def test_label_levels_hold_no_invented_label(tmp_path):
    labels = np.random.default_rng(0).choice(np.array([0, 5, 2**40 + 1], np.uint64), (2, 150, 150))
    out = create_volume(tmp_path / "l.zarr", shape=labels.shape, dtype="uint64", voxel_size=(50, 4, 4))
    out.write(out.box, labels)
    level = build_pyramid(str(tmp_path / "l.zarr")).levels[1]
    assert set(np.unique(level.read(level.box))) == {0, 5, 2**40 + 1}


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.integers(0, 1000),
    st.sampled_from([np.uint8, np.uint16, np.float32, np.uint64]),
    st.booleans(),
)
def test_downsampling_follows_the_definition(shape, step, seed, dtype, labels):
    block = np.random.default_rng(seed).integers(0, 4 if labels else 255, shape).astype(dtype)
    found = downsample(block, step, labels=labels)
    assert found.dtype == dtype
    assert found.shape == tuple(-(-n // f) for n, f in zip(shape, step, strict=True))
    for position in np.ndindex(found.shape):
        part = block[tuple(slice(p * f, p * f + f) for p, f in zip(position, step, strict=True))]
        if labels:
            counts = {value: int((part == value).sum()) for value in np.unique(part)}
            assert counts[found[position]] == max(counts.values())
        else:
            mean = part.astype(float).mean()
            assert found[position] == pytest.approx(mean if dtype == np.float32 else np.rint(mean), rel=1e-6)


@given(st.tuples(*[st.integers(1, 5000)] * 3), st.tuples(*[st.sampled_from([4.0, 8.0, 30.0, 50.0])] * 3))
def test_pyramids_end_and_approach_cubes(shape, size):
    steps = plan_levels(shape, size)
    assert len(steps) < 12
    factors = np.prod([(1, 1, 1), *steps], axis=0)
    assert max(np.array(shape) / factors) <= 64
    for step in steps:
        assert set(step) <= {1, 2}
        assert 2 in step


@settings(max_examples=60)
@given(
    st.tuples(*[st.integers(1, 3000)] * 3),
    st.tuples(*[st.integers(1, 300)] * 3),
    st.tuples(*[st.integers(1, 64)] * 3),
    st.integers(1, 2**22),
)
def test_blocks_are_whole_target_files_within_the_limit(shape, chunks, unit, limit):
    class Source:
        shards = None
        dtype = np.dtype(np.uint16)

    Source.shape, Source.chunks = shape, chunks
    block = block_shape(Source, unit, limit)
    assert all(b % u == 0 for b, u in zip(block, unit, strict=True))
    assert np.prod(block) * 2 <= max(limit, np.prod(unit) * 2)


# --- memory, failures -----------------------------------------------------------------------------------


def test_compressed_sections_are_decoded_once(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    folder.mkdir()
    array = np.random.default_rng(0).integers(0, 255, (5, 90, 100), np.uint8)
    for z, section in enumerate(array):
        Image.fromarray(section).save(folder / f"{z}.png")
    monkeypatch.setattr("synbb.volumes.image_stack.SectionCache.put", lambda *a: None)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda file: (opened.append(file), original(file))[1])
    monkeypatch.setattr(block_shape, "__defaults__", (5 * 32 * 100,))
    found = convert(folder, tmp_path / "o.zarr", voxel_size=SIZE, chunks=(5, 16, 16))
    assert (found.read(found.box) == array).all()
    assert len(opened) == 10  # five headers, five sections


def test_memory_is_bounded(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("em", shape=(64, 256, 256), dtype="uint8", chunks=(16, 64, 64), fillvalue=3)
    monkeypatch.setattr(block_shape, "__defaults__", (2**18,))
    monkeypatch.setattr("synbb.volumes.storage.SHARDS", (16, 64, 64))
    tracemalloc.start()
    convert(f"{tmp_path / 'a.h5'}:em", tmp_path / "o.zarr", voxel_size=(8, 4, 4), chunks=(16, 64, 64), pyramid=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22 * 0.75  # the volume has 4 MiB
    assert open_volume(tmp_path / "o.zarr").levels[1].read(Box((31, 0, 0), (32, 1, 1))).item() == 3


@pytest.mark.parametrize("pyramid", [False, True])
def test_full_disk_leaves_nothing(make, grey, tmp_path, monkeypatch, pyramid):
    source = make("hdf5", np.tile(grey, (1, 4, 4)))
    target = tmp_path / "out"
    writes = []
    original = zarr.storage.LocalStore.set
    where = "/1/c/" if pyramid else "/0/c/"

    async def full(self, key, value, *args, **kwargs):
        if where in f"{self.root}/{key}":
            writes.append(key)
            if len(writes) > 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        return await original(self, key, value, *args, **kwargs)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", full)
    with pytest.raises(RunEnded, match=r"out/em\.zarr: the disk .* is full"):
        convert(source.path, target / "em.zarr", pyramid=pyramid, chunks=(4, 16, 16))
    assert len(writes) == 4  # nothing is tried after the first failure
    assert list(target.iterdir()) == []


def test_failure_keeps_what_was_there(make, grey, tmp_path, monkeypatch):
    source = make("hdf5", grey)
    target = tmp_path / "em.zarr"
    before = convert(source.path, target)
    with pytest.raises(SynbbError, match="exists already"):
        convert(source.path, target)

    async def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage.LocalStore, "set", full)
        with pytest.raises(RunEnded):
            convert(source.path, target, overwrite=True)
    assert (open_volume(target).read(before.box) == grey).all()
    assert convert(source.path, target, overwrite=True, chunks=(4, 4, 4)).chunks == (4, 4, 4)
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("stage", ["rename", "remove"])
def test_an_interrupted_replacement_loses_neither_volume(make, grey, tmp_path, monkeypatch, stage):
    target = tmp_path / "em.zarr"
    convert(make("hdf5", grey).path, target)
    remove, put = shutil.rmtree, Path.replace

    def removed(path, *args, **kwargs):
        if "old" in Path(path).name and (Path(path) / "0").is_dir():
            remove(Path(path) / "0")
            raise KeyboardInterrupt
        remove(path, *args, **kwargs)

    def replaced(self, where):
        if Path(where) == target:
            raise KeyboardInterrupt
        return put(self, where)

    with monkeypatch.context() as patch:
        if stage == "remove":
            patch.setattr(shutil, "rmtree", removed)
        else:
            patch.setattr(Path, "replace", replaced)
        with pytest.raises(KeyboardInterrupt):
            convert(target, target, overwrite=True, chunks=(2, 20, 20))
    found = open_volume(target)
    assert (found.read(found.box) == grey).all()
    assert (found.chunks == (2, 20, 20)) == (stage == "remove")
    convert(target, target, overwrite=True)
    assert not list(tmp_path.glob(".*"))


def test_a_zarr_can_be_rewritten_in_place(make, grey, tmp_path):
    source = make("ours", grey)
    found = convert(source.path, source.path, overwrite=True, chunks=(2, 20, 20))
    assert found.chunks == (2, 20, 20)
    assert (found.read(found.box) == grey).all()


def test_label_images_within_the_source_are_not_lost(make, grey):
    source = make("ours", grey)
    cells = Path(source.path) / "labels" / "cells"
    zarr.create_array(str(cells), shape=grey.shape, dtype="uint32")
    with pytest.raises(SynbbError, match=r"beside other things, which would be removed"):
        convert(source.path, source.path, overwrite=True)
    assert cells.is_dir()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("v.zarr:raw", "v.zarr"),
        ("v.zarr/raw", "v.zarr"),
        ("v.zarr", "v.zarr"),
        ("v.zarr:volumes/raw", "v.zarr/volumes"),
    ],
)
def test_what_lies_beside_the_source_is_not_replaced(tmp_path, grey, source, target):
    arrays = ("raw", "clefts", "volumes/raw")
    for name in arrays:
        array = zarr.create_array(str(tmp_path / "v.zarr" / name), shape=grey.shape, dtype="uint8")
        array[:] = grey
        array.attrs["resolution"] = [50, 4, 6]
    for group in ("v.zarr", "v.zarr/volumes"):
        zarr.open_group(str(tmp_path / group), mode="a")
    with pytest.raises(SynbbError, match=r"holds the source .* beside other things.*choose another name"):
        convert(f"{tmp_path}/{source}", tmp_path / target, overwrite=True)
    for name in arrays:
        assert (zarr.open_array(str(tmp_path / "v.zarr" / name), mode="r")[:] == grey).all()
    for alone in ("v.zarr:raw", "v.zarr/clefts"):
        found = convert(f"{tmp_path}/{alone}", tmp_path / alone.replace(":", "/"), overwrite=True)
        assert (found.read(found.box) == grey).all()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("kind", ["", "precomputed://"])
def test_a_link_is_followed(make, grey, tmp_path, there, kind):
    source, place, link = make("hdf5", grey), tmp_path / "disk" / "v", tmp_path / "link"
    if kind:
        pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")
    link.symlink_to(place)
    if there:
        convert(source.path, f"{kind}{place}")
        with pytest.raises(SynbbError, match="exists already"):
            convert(source.path, f"{kind}{link}")
    found = convert(source.path, f"{kind}{link}", overwrite=there, chunks=(4, 4, 4))
    assert found.chunks == (4, 4, 4)
    assert link.is_symlink()
    assert (open_volume(f"{kind}{place}").read(found.box) == grey).all()
    assert [file.name for file in place.parent.iterdir()] == ["v"]


@pytest.mark.parametrize("target", [".", "..", "precomputed://."])
def test_a_target_without_a_name_is_refused(make, grey, tmp_path, monkeypatch, target):
    source = make("hdf5", grey)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(SynbbError, match=r"names no new folder for a volume; give a name such as out.zarr"):
        convert(source.path, target)


def test_broken_source_leaves_nothing(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for z in range(3):
        tifffile.imwrite(folder / f"{z}.tif", np.zeros((64, 64), np.uint8), photometric="minisblack")
    volume = open_volume(folder, voxel_size=SIZE)
    assert volume.shape == (3, 64, 64)
    content = (folder / "1.tif").read_bytes()
    (folder / "1.tif").write_bytes(content[:-100])
    with pytest.raises(SynbbError, match=r"1\.tif"):
        convert(folder, tmp_path / "out" / "em.zarr", voxel_size=SIZE)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_bad_input_is_refused_before_anything_is_written(tmp_path, make, grey):
    source = make("png", grey)
    for bad in (
        {},
        {"voxel_size": (1, 2)},
        {"voxel_size": SIZE, "dataset": "x"},
        {"voxel_size": SIZE, "shards": (5, 7, 0)},
    ):
        with pytest.raises(SynbbError):
            convert(source.path, tmp_path / "em.zarr", **bad)
    assert [p.name for p in tmp_path.iterdir()] == ["png-0"]
    with pytest.raises(SynbbError, match="no such file"):
        convert(tmp_path / "nothing", tmp_path / "em.zarr")
