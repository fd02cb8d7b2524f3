import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.volumes import Box, Volume, create_volume, open_volume, placement
from synbb.volumes.pyramid import build_pyramid
from synbb.volumes.storage import MAX_PARTITIONS, partition_shape


class Zeros:
    """A storage without a file."""

    format = "nothing"
    dtype = np.dtype(np.uint8)
    chunks = (2, 8, 8)
    shards = None

    def __init__(self, shape):
        self.shape = shape

    def read(self, box):
        return np.zeros(box.shape, np.uint8)


def volume(shape=(10, 20, 30), voxel_size=(50.0, 4.0, 4.0), offset=(0.0, 0.0, 0.0), path="v"):
    return Volume(path, Zeros(shape), Box.of_shape(shape), voxel_size, offset)


@given(st.tuples(*[st.integers(-9, 9)] * 3), st.tuples(*[st.floats(-0.04, 0.04)] * 3))
def test_labels_are_placed_by_their_offset(start, jitter):
    raw = volume(offset=(100.0, 8.0, 12.0))
    shift = [(s + j) * v for s, j, v in zip(start, jitter, raw.voxel_size, strict=True)]
    labels = volume((12, 12, 12), offset=tuple(o + d for o, d in zip(raw.offset, shift, strict=True)))
    expected = Box.of_shape((12, 12, 12), start)
    if expected.intersect(raw.box) is None:
        with pytest.raises(SynbbError, match="do not overlap"):
            placement(labels, raw)
    else:
        assert placement(labels, raw) == expected


def test_labels_between_voxels_print_both_boxes():
    raw, labels = volume(path="em"), volume((2, 3, 4), offset=(50.0, 6.0, 8.0), path="clefts")
    with pytest.raises(SynbbError) as caught:
        placement(labels, raw)
    message = str(caught.value)
    assert "between the voxels of raw, 1.500 voxels along y" in message
    assert "clefts (z 25 to 125, y 4 to 16, x 6 to 22 nm at 50 x 4 x 4 nm voxels)" in message
    assert "em (z -25 to 475, y -2 to 78, x -2 to 118 nm at 50 x 4 x 4 nm voxels)" in message
    assert placement(labels, raw, tolerance=0.5) == Box((1, 2, 2), (3, 5, 6))


@pytest.mark.parametrize("size", [(40.0, 4.0, 4.0), (50.0, 4.0, 8.0), (50.0, 4.04, 4.0)])
def test_other_voxel_sizes_print_both(size):
    with pytest.raises(SynbbError, match=r"voxel sizes .* differ along [zyx].*nm voxels.*nm voxels"):
        placement(volume(voxel_size=size), volume())


def test_rounding_of_voxel_sizes_is_forgiven():
    assert placement(volume(voxel_size=(50.0, 4.0 + 1e-7, 4.0)), volume()) == volume().box


def test_far_apart_do_not_overlap():
    with pytest.raises(SynbbError, match="do not overlap"):
        placement(volume(offset=(500.0, 0.0, 0.0)), volume())


@given(st.tuples(*[st.integers(1, 60000)] * 3), st.tuples(*[st.integers(1, 200)] * 3))
def test_partitions_are_few_and_whole_units(shape, unit):
    part = partition_shape(shape, unit)
    count = np.prod([-(-n // p) for n, p in zip(shape, part, strict=True)])
    assert count <= MAX_PARTITIONS
    assert all(p % u == 0 for p, u in zip(part, unit, strict=True))
    if np.prod([-(-n // u) for n, u in zip(shape, unit, strict=True)]) <= MAX_PARTITIONS:
        assert part == unit
    else:
        assert count > MAX_PARTITIONS // 4  # no coarser than needed


def test_dask_of_a_terabyte_is_light_and_aligned():
    huge = volume((4000, 16000, 16000))
    assert huge.dask.npartitions <= MAX_PARTITIONS
    crop = huge.crop(Box((1, 5, 9), (10, 40, 41)))
    assert crop.dask.chunks == ((1, 2, 2, 2, 2), (3, 8, 8, 8, 8), (7, 8, 8, 8, 1))


@pytest.fixture
def pyramid(tmp_path):
    out = create_volume(
        tmp_path / "p.zarr", shape=(4, 300, 260), dtype="uint8", voxel_size=(50, 4, 4), offset=(5, 6, 7)
    )
    out.write(out.box, np.random.default_rng(0).integers(0, 255, out.shape, np.uint8))
    return build_pyramid(str(tmp_path / "p.zarr"))


def test_aligned_crop_keeps_levels(pyramid):
    box = Box((1, 8, 16), (3, 300, 48))
    crop = pyramid.crop(box)
    assert [level.shape for level in crop.levels] == [(2, 292, 32), (2, 146, 16), (2, 73, 8), (2, 37, 4)]
    for factor, level, whole in zip((1, 2, 4), crop.levels[:3], pyramid.levels[:3], strict=True):
        part = Box((1, 8 // factor, 16 // factor), (3, 300 // factor, 48 // factor))
        assert (level.read(level.box) == whole.read(part)).all()
        corner = [o - v / 2 for o, v in zip(level.offset, level.voxel_size, strict=True)]
        assert corner == pytest.approx([5 - 25 + 50, 6 - 2 + 32, 7 - 2 + 64])


def test_unaligned_crop_drops_levels(pyramid):
    assert [level.shape for level in pyramid.crop(Box((0, 2, 0), (4, 300, 260))).levels] == [
        (4, 298, 260),
        (4, 149, 130),
    ]
    assert len(pyramid.crop(Box((0, 1, 0), (4, 300, 260))).levels) == 1
    assert len(pyramid.crop(Box((0, 0, 0), (4, 299, 260))).levels) == 1
    assert pyramid.crop(pyramid.box) is pyramid


def test_crop_of_a_crop(pyramid):
    once = pyramid.crop(Box((1, 20, 30), (4, 200, 210)))
    twice = once.crop(Box((1, 4, 2), (3, 100, 60)))
    whole = pyramid.read(Box((2, 24, 32), (4, 120, 90)))
    assert (twice.read(twice.box) == whole).all()
    assert twice.offset == pytest.approx((5 + 2 * 50, 6 + 24 * 4, 7 + 32 * 4))


def test_pyramid_twice_is_refused(pyramid):
    with pytest.raises(SynbbError, match="levels already"):
        build_pyramid(pyramid.path)
    assert len(open_volume(pyramid.path).levels) == len(pyramid.levels)
