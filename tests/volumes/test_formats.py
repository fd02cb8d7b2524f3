"""Every format gives the same voxels, through every door."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.volumes import Box, open_volume

FORMATS = (
    *("ours", "sharded", "zarr2", "zarr3", "hdf5", "hdf5_plain", "tiff", "tiff_compressed", "multipage", "png"),
    *("n5", "precomputed"),
)
VOXEL_SIZE = (50.0, 4.0, 6.0)


@st.composite
def boxes_in(draw, shape):
    start = [draw(st.integers(0, n - 1)) for n in shape]
    stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    return Box(start, stop)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_read_dask_crop_and_numpy_agree(kind, make, data):
    shape = data.draw(st.tuples(st.integers(2, 7), st.integers(1, 20), st.integers(2, 20)))
    array = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, shape, dtype=np.uint8)
    volume = make(kind, array)
    assert (volume.shape, volume.dtype, volume.voxel_size) == (shape, np.uint8, VOXEL_SIZE)
    assert volume.levels == (volume,)
    outer = data.draw(boxes_in(shape))
    assert (volume.read(outer) == array[outer.slices]).all()
    assert (volume.dask[outer.slices].compute(scheduler="sync") == array[outer.slices]).all()
    crop = volume.crop(outer)
    inner = data.draw(boxes_in(outer.shape))
    assert (crop.read(inner) == array[outer.slices][inner.slices]).all()
    assert (crop.dask.compute(scheduler="sync") == array[outer.slices]).all()
    expected = [o + a * v for o, a, v in zip(volume.offset, outer.start, VOXEL_SIZE, strict=True)]
    assert crop.offset == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "uint32", "uint64", ">u2"])
@pytest.mark.parametrize("kind", ["ours", "zarr2", "hdf5", "multipage", "n5", "precomputed"])
def test_types(kind, dtype, make):
    array = np.random.default_rng(0).integers(0, 2**15, (3, 9, 8)).astype(dtype)
    volume = make(kind, array)
    assert volume.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.dtype.isnative
    found = volume.read(volume.box)
    assert found.dtype == volume.dtype
    assert (found == array).all()


def test_large_labels_survive(make):
    array = np.full((2, 4, 4), 2**64 - 1, np.uint64)
    array[0] = 2**53 + 1
    for kind in ("ours", "zarr3", "hdf5", "n5", "precomputed"):
        volume = make(kind, array)
        assert (volume.read(volume.box) == array).all()


@pytest.mark.parametrize("kind", ["zarr2", "hdf5"])
def test_booleans_become_uint8(kind, make):
    volume = make(kind, np.ones((2, 3, 4), bool))
    assert volume.dtype == np.uint8
    assert volume.read(volume.box).sum() == 24


def test_complex_numbers_are_no_volume(make):
    with pytest.raises(SynbbError, match="complex64"):
        make("zarr3", np.ones((2, 3, 4), np.complex64))


@pytest.mark.parametrize("kind", FORMATS)
def test_pickled_in_use(kind, make, grey):
    volume = make(kind, grey)
    box = Box((1, 2, 3), (4, 20, 30))
    volume.read(box)  # a file is open now
    assert volume.dask.npartitions >= 1
    copy = pickle.loads(pickle.dumps(volume.crop(box)))
    assert (copy.read(copy.box) == grey[box.slices]).all()


def read_sum(volume):
    return int(volume.read(volume.box).sum())


def test_another_process_reads(make, grey):
    volumes = [make(kind, grey) for kind in ("ours", "hdf5", "multipage", "n5", "precomputed")]
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(read_sum, volumes) == [int(grey.sum())] * 5


@pytest.mark.parametrize("kind", FORMATS)
def test_many_threads_read(kind, make, grey):
    volume = make(kind, grey)
    boxes = list(volume.box.blocks((4, 15, 19)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(volume.read, boxes * 2))
    for box, block in zip(boxes * 2, found, strict=True):
        assert (block == grey[box.slices]).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_outside_is_refused(kind, make, grey):
    volume = make(kind, grey)
    with pytest.raises(SynbbError, match=r"z 0:14, y 0:45, x 0:38 \(voxels\) is not inside the volume, which is"):
        volume.read(Box.of_shape((14, 45, 38)))
    with pytest.raises(SynbbError, match="not inside"):
        volume.crop(Box((0, 0, 1), (1, 1, 39)))
    with pytest.raises(SynbbError, match="empty"):
        volume.crop(Box((0, 0, 1), (1, 0, 3)))
    assert volume.read(Box((1, 1, 1), (1, 2, 2))).shape == (0, 1, 1)


def test_a_read_may_be_changed(make, grey):
    for kind in FORMATS:
        volume = make(kind, grey)
        volume.read(volume.box)[:] = 0
        assert (volume.read(volume.box) == grey).all()


@pytest.mark.parametrize("prefix", ["", "zarr://"])
def test_a_zarr_that_was_opened_by_a_relative_path_is_read_elsewhere(make, grey, tmp_path, monkeypatch, prefix):
    """As by a worker of a cluster: chunks that are not found would be taken for such as were never written."""
    stored = Path(make("ours", grey).path)
    monkeypatch.chdir(stored.parent)
    sent = pickle.dumps(open_volume(f"{prefix}{stored.name}"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    volume = pickle.loads(sent)
    assert (volume.read(volume.box) == grey).all()
    assert not volume.absent(volume.box)


def test_a_folder_that_is_said_to_be_a_zarr_must_be_one(make, grey):
    made = make("png", grey)
    with pytest.raises(SynbbError, match="no zarr there"):
        open_volume(f"zarr://{made.path}")
