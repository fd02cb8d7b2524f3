import h5py
import numpy as np
import pytest

from synbb.errors import SynbbError
from synbb.volumes import Box, open_volume, placement
from synbb.volumes.hdf5_storage import split_dataset


@pytest.fixture
def cremi(tmp_path):
    """A file in the CREMI layout: labels 2 sections, 3 rows and 4 columns inside raw."""
    path = tmp_path / "sample_A.hdf"
    with h5py.File(path, "w") as file:
        raw = file.create_dataset("volumes/raw", data=np.arange(480, dtype=np.uint8).reshape(6, 8, 10))
        raw.attrs["resolution"] = np.array([40.0, 4.0, 4.0])
        clefts = file.create_dataset("volumes/labels/clefts", data=np.ones((2, 3, 4), np.uint64))
        clefts.attrs["resolution"] = np.array([40.0, 4.0, 4.0])
        clefts.attrs["offset"] = np.array([80.0, 12.0, 16.0])
        file.create_dataset("bare", data=np.zeros((2, 3, 4), np.uint8))
        file.create_dataset("flat", data=np.zeros((3, 4), np.uint8))
    return path


def test_cremi_layout(cremi):
    raw = open_volume(cremi)
    clefts = open_volume(f"{cremi}:volumes/labels/clefts")
    assert (raw.shape, raw.voxel_size, raw.offset) == ((6, 8, 10), (40, 4, 4), (0, 0, 0))
    assert (clefts.dtype, clefts.offset) == (np.uint64, (80, 12, 16))
    assert str(placement(clefts, raw)) == "2:4,3:6,4:8"
    assert clefts.path.endswith("sample_A.hdf:volumes/labels/clefts")


@pytest.mark.parametrize("name", ["volumes/raw", "/volumes/raw", "volumes/raw/"])
def test_dataset_by_path_or_argument(cremi, name):
    assert open_volume(f"{cremi}:{name}").shape == (6, 8, 10)
    assert open_volume(cremi, dataset=name).shape == (6, 8, 10)
    assert open_volume(f"{cremi}:{name}", dataset=name).shape == (6, 8, 10)


def test_two_datasets_at_once(cremi):
    with pytest.raises(SynbbError, match="give one"):
        open_volume(f"{cremi}:volumes/raw", dataset="bare")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.h5:x/y", ("a/b.h5", "x/y")),
        ("b.HDF5:/x", ("b.HDF5", "x")),
        ("b.hdf", ("b.hdf", None)),
        ("b.hdf:", ("b.hdf:", None)),
        ("odd:folder/b.h5:x", ("odd:folder/b.h5", "x")),
        ("v.zarr:volumes/raw", ("v.zarr", "volumes/raw")),
        ("C:/data/v.zarr", ("C:/data/v.zarr", None)),
        ("v.tif:x", ("v.tif:x", None)),
    ],
)
def test_splitting(path, expected):
    assert split_dataset(path) == expected


def test_a_file_with_a_colon_in_its_name(tmp_path):
    path = tmp_path / "odd.h5:name"
    with h5py.File(path, "w") as file:
        file.create_dataset("volumes/raw", data=np.zeros((2, 3, 4), np.uint8))
    assert open_volume(path, voxel_size=(1, 1, 1)).shape == (2, 3, 4)


def test_missing_resolution_asks_for_it(cremi):
    with pytest.raises(SynbbError, match=r"sample_A\.hdf:bare.*--voxel-size"):
        open_volume(f"{cremi}:bare")
    assert open_volume(f"{cremi}:bare", voxel_size=(40, 4, 4)).voxel_size == (40, 4, 4)


@pytest.mark.parametrize("value", [[40, 4], "forty", [0, 4, 4], [np.nan, 4, 4]])
def test_broken_resolution(cremi, value):
    with h5py.File(cremi, "a") as file:
        file["bare"].attrs["resolution"] = value
    with pytest.raises(SynbbError, match="bare: attribute resolution"):
        open_volume(f"{cremi}:bare")


def test_missing_dataset_lists_what_there_is(cremi):
    with pytest.raises(SynbbError, match=r"no dataset 'nope'.*volumes/labels/clefts \(2, 3, 4\) uint64"):
        open_volume(f"{cremi}:nope")
    with pytest.raises(SynbbError, match="no dataset 'volumes'"):
        open_volume(f"{cremi}:volumes")


def test_wrong_axes(cremi):
    with pytest.raises(SynbbError, match=r"flat.*2 axes"):
        open_volume(f"{cremi}:flat", voxel_size=(1, 1, 1))


def test_no_cremi_layout_asks_for_a_dataset(tmp_path):
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file.create_dataset("em", data=np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(SynbbError, match=r"no dataset named.*em \(2, 3, 4\)"):
        open_volume(tmp_path / "o.h5")


def test_an_empty_dataset_is_named(tmp_path):
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["nothing"] = h5py.Empty("f4")
        file["raw"] = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(SynbbError, match=r"e\.h5:nothing: an empty dataset.*name another one"):
        open_volume(f"{tmp_path / 'e.h5'}:nothing", voxel_size=(1, 1, 1))
    with pytest.raises(SynbbError, match=r"It holds: raw \(2, 3, 4\) uint8\."):
        open_volume(tmp_path / "e.h5")


def test_not_hdf5_at_all(tmp_path):
    (tmp_path / "o.h5").write_bytes(b"nothing of the kind")
    with pytest.raises(SynbbError, match=r"o\.h5.*unreadable"):
        open_volume(tmp_path / "o.h5")


def test_truncated_file(cremi):
    cremi.write_bytes(cremi.read_bytes()[:-2000])
    with pytest.raises(SynbbError, match=r"sample_A\.hdf.*truncated"):
        open_volume(cremi)


def test_broken_chunk_is_named(tmp_path):
    path = tmp_path / "o.h5"
    with h5py.File(path, "w") as file:
        data = np.random.default_rng(0).integers(0, 255, (4, 8, 8), np.uint8)
        dataset = file.create_dataset("em", data=data, chunks=(2, 8, 8), compression="gzip", fletcher32=True)
        place = dataset.id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + 10 : place.byte_offset + 40] = bytes(30)
    path.write_bytes(content)
    volume = open_volume(f"{path}:em", voxel_size=(1, 1, 1))
    assert (volume.crop(volume.box.intersect(type(volume.box)((0, 0, 0), (2, 8, 8)))).dask.compute() == data[:2]).all()
    with pytest.raises(SynbbError, match=r"o\.h5:em.*voxels 2:4,0:8,0:8"):
        volume.read(volume.box)


def test_absent_chunks_are_told(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        sparse = file.create_dataset("sparse", shape=(4, 16, 16), dtype="u1", chunks=(2, 8, 8))
        sparse[0:2, 0:8, 8:16] = 5
        sparse[2:4] = 7
        whole = file.create_dataset("whole", shape=(4, 16, 16), dtype="u1")
        whole[0] = 1
        for dataset in (sparse, whole):
            dataset.attrs["resolution"] = (50.0, 4.0, 4.0)
    volume = open_volume(f"{tmp_path / 'a.h5'}:sparse")
    assert volume.absent(Box((1, 4, 4), (3, 16, 12))) == [
        Box((1, 4, 4), (2, 8, 8)),
        Box((1, 8, 4), (2, 16, 8)),
        Box((1, 8, 8), (2, 16, 12)),
    ]
    volume = open_volume(f"{tmp_path / 'a.h5'}:whole")
    assert volume.absent(volume.box) == []
