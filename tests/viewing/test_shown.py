"""Pieces of a volume at every resolution, and what their values become."""

import numpy as np
import pytest
from tiny import write_volume

from synbb.errors import SynbbError
from synbb.viewing import Kind, ShownVolume, kind_of
from synbb.viewing import shown as module
from synbb.volumes import Box, open_volume
from synbb.volumes.convert import convert

SIZE = (40.0, 8.0, 8.0)
SHAPE = (21, 130, 150)


def stored(folder, array, name="v", *, pyramid=False, **attributes):
    volume = write_volume(folder / f"{name}.zarr", array, voxel_size=SIZE, attributes=attributes)
    if not pyramid:
        return volume
    convert(folder / f"{name}.zarr", folder / f"{name}_levels.zarr", pyramid=True)
    return open_volume(folder / f"{name}_levels.zarr")


@pytest.mark.parametrize(
    ("dtype", "attributes", "kind"),
    [
        ("uint8", {}, Kind.RAW),
        ("float32", {}, Kind.RAW),
        ("uint8", {"kind": "probabilities"}, Kind.PROBABILITIES),
        ("uint32", {"kind": "objects"}, Kind.OBJECTS),
        ("uint8", {"kind": "labels"}, Kind.OBJECTS),
        ("uint64", {"kind": "neurites"}, Kind.OBJECTS),
        ("int64", {}, Kind.OBJECTS),
        ("uint32", {"kind": "raw"}, Kind.RAW),
    ],
)
def test_kinds(dtype, attributes, kind, tmp_path):
    assert kind_of(stored(tmp_path, np.ones((2, 4, 4), dtype), **attributes)) is kind


@pytest.mark.parametrize("kind", [Kind.RAW, Kind.OBJECTS])
def test_every_resolution_is_the_one_that_a_pyramid_stores(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLAB_VOXELS", 60_000)  # several slabs a piece
    dtype = np.uint8 if kind is Kind.RAW else np.uint32
    array = np.random.default_rng(0).integers(0, 4, SHAPE).astype(dtype)
    plain, levels = (
        ShownVolume(stored(tmp_path, array, str(pyramid), pyramid=pyramid), kind) for pyramid in (False, True)
    )
    assert list(levels.levels) == [(1, 1, 1), (1, 2, 2), (1, 4, 4)]
    for number, factor in enumerate(levels.levels):
        level = levels.volume.levels[number]
        for shown in (plain, levels):
            assert (shown.read((0, 0, 0), level.shape, factor) == level.read(level.box)).all()
        some = Box((3, 5, 7), (19, level.shape[1], level.shape[2] - 2))
        assert (plain.read(some.start, some.stop, factor) == level.read(some)).all()
    # Beyond what is stored, both go on from the coarsest level.
    coarse = plain.read((0, 0, 0), (11, 17, 19), (2, 8, 8))
    assert (levels.read((0, 0, 0), (11, 17, 19), (2, 8, 8)) == coarse).all()


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    shown = ShownVolume(stored(tmp_path, np.zeros(SHAPE, np.uint8), pyramid=True))
    read = []
    values = shown.values
    monkeypatch.setattr(shown, "values", lambda block: (read.append(block.shape), values(block))[1])
    assert read == []
    shown.read((0, 0, 0), (4, 8, 8))
    shown.read((0, 0, 0), (4, 8, 8), (1, 4, 4))
    shown.read((0, 0, 0), (4, 8, 8), (1, 8, 8))
    assert read == [(4, 8, 8), (4, 8, 8), (4, 16, 16)]


def test_levels_that_begin_elsewhere_are_left_out(tmp_path):
    pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")
    array = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    write_volume(tmp_path / "v.zarr", array, voxel_size=SIZE, offset=(20, 12, 4))  # corner at an odd voxel of y
    convert(tmp_path / "v.zarr", f"precomputed://{tmp_path / 'p'}", pyramid=True)
    shown = ShownVolume(open_volume(f"precomputed://{tmp_path / 'p'}"))
    assert len(shown.volume.levels) == 3
    assert list(shown.levels) == [(1, 1, 1)]


def test_values_of_labels(tmp_path):
    array = np.zeros((2, 4, 4), np.uint64)
    array[0, 0] = [7, 2**64 - 1, 2**64 - 2, 2**64 - 3]  # an id, then what CREMI means by background, invalid, outside
    shown = ShownVolume(stored(tmp_path, array))
    assert shown.read((0, 0, 0), (1, 1, 4)).tolist() == [[[7, 0, 0, 0]]]
    signed = ShownVolume(stored(tmp_path, np.full((2, 4, 4), -1, np.int64), "signed"))
    assert (signed.dtype, signed.read((0, 0, 0), (1, 1, 1)).item()) == (np.uint64, 0)
    mask = ShownVolume(stored(tmp_path, np.array([[[0, 1, 227, 255]]], np.uint8), "mask", kind="labels"))
    assert mask.read((0, 0, 0), (1, 1, 4)).tolist() == [[[0, 1, 1, 1]]]
    ids = ShownVolume(stored(tmp_path, np.array([[[0, 1, 227, 255]]], np.uint8), "ids", kind="objects"))
    assert ids.read((0, 0, 0), (1, 1, 4)).tolist() == [[[0, 1, 227, 255]]]
    assert ShownVolume(stored(tmp_path, np.ones((1, 4, 4), np.float64), "floats")).dtype == np.float32


def test_kinds_that_do_not_fit_are_refused(tmp_path):
    volume = stored(tmp_path, np.ones((2, 4, 4), np.float32))
    with pytest.raises(SynbbError, match="objects are integer labels, not float32"):
        ShownVolume(volume, Kind.OBJECTS)
    with pytest.raises(SynbbError, match="uint16"):
        ShownVolume(stored(tmp_path, np.ones((2, 4, 4), np.uint16), "w"), Kind.PROBABILITIES)
    with pytest.raises(SynbbError, match="not inside"):
        ShownVolume(volume).read((0, 0, 0), (3, 4, 4))


def test_surfaces_are_made_at_a_resolution_that_fits(tmp_path, monkeypatch):
    shown = ShownVolume(stored(tmp_path, np.zeros(SHAPE, np.uint32), kind="objects", objects=3))
    assert shown.mesh_factor() == (1, 1, 1)
    monkeypatch.setattr(module, "MESH_VOXELS", 120_000)
    assert shown.mesh_factor() == (1, 2, 2)
    monkeypatch.setattr(module, "MESH_VOXELS", 10_000)
    assert shown.mesh_factor() is None
