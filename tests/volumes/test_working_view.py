import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.volumes import Box, WorkingView, create_volume, open_volume, upsample_to_source, upsampling_support
from synbb.volumes.convert import convert
from synbb.volumes.pyramid import build_pyramid

SIZE = (50.0, 4.0, 4.0)
ROOMY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def boxes_in(draw, shape):
    start = [draw(st.integers(0, n - 1)) for n in shape]
    stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    return Box(start, stop)


def slow_area_mean(row, factor):
    """The definition, one voxel at a time."""
    out = []
    for w in range(int(np.ceil(len(row) / factor - 1e-6))):
        begin, end = w * factor, min((w + 1) * factor, len(row))
        weights = [max(0.0, min(end, s + 1) - max(begin, s)) for s in range(len(row))]
        out.append(np.dot(weights, row) / np.sum(weights))
    return np.array(out)


def slow_linear(row, factor):
    positions = (np.arange(int(np.ceil(len(row) / factor - 1e-6))) + 0.5) * factor - 0.5
    return np.interp(positions, np.arange(len(row)), row)


@pytest.fixture
def volume(make, grey):
    return make("hdf5_plain", grey)  # voxels of 50 x 4 x 6 nm


@pytest.mark.parametrize("wanted", [8.0, 12.0, 9.2, 4.6, 5.0, 40.0, 3.0, 2.0, 1.3])
def test_values_follow_the_definition(volume, grey, wanted):
    view = WorkingView(volume, (50, wanted, 6))
    slow = slow_area_mean if wanted > 4 else slow_linear
    expected = np.apply_along_axis(slow, 1, grey.astype(float), view.factor[1])
    assert view.shape == expected.shape
    assert view.read(view.box) == pytest.approx(expected, abs=1e-3)
    assert view.read(view.box).dtype == np.float32
    assert view.voxel_size[1] == pytest.approx(wanted, rel=0.02)


@ROOMY
@given(data=st.data(), y=st.floats(1.5, 20), x=st.floats(2.5, 20))
def test_any_block_is_the_same_as_the_whole(volume, data, y, x):
    view = WorkingView(volume, (50, y, x))
    whole = view.read(view.box)
    box = data.draw(boxes_in(view.shape))
    assert (view.read(box) == whole[box.slices]).all()  # to the last bit
    source = view.source_box(box)
    assert view.source.box.contains(source)
    covering = view.to_working(source)
    assert covering.contains(box)


@pytest.mark.parametrize("wanted", [(50, 8, 12), (50, 3, 6), (50, 4, 6)])
def test_sections_resampled_a_few_at_a_time_are_those_resampled_at_once(volume, monkeypatch, wanted):
    view = WorkingView(volume, wanted)
    whole = view.read(view.box)
    for slab in (1, 3 * volume.shape[1] * volume.shape[2]):  # one at a time; three, which does not divide them
        monkeypatch.setattr("synbb.volumes.resample.SLAB", slab)
        assert (view.read(view.box) == whole).all()


@ROOMY
@given(data=st.data(), y=st.floats(1.5, 20), x=st.floats(2.5, 20))
def test_source_box_is_all_that_matters(make, grey, data, y, x):
    box = data.draw(boxes_in(WorkingView(make("hdf5_plain", grey), (50, y, x)).shape))
    view = WorkingView(make("hdf5_plain", grey), (50, y, x))
    changed = 255 - grey
    source = view.source_box(box)
    changed[source.slices] = grey[source.slices]
    assert (WorkingView(make("hdf5_plain", changed), (50, y, x)).read(box) == view.read(box)).all()


@ROOMY
@given(data=st.data(), y=st.floats(1.5, 20))
def test_to_working_is_the_smallest_cover(volume, data, y):
    view = WorkingView(volume, (50, y, 6))
    box = data.draw(boxes_in(volume.shape))
    found = view.to_working(box)
    scale = view.scale[1]
    begin, end = found.start[1] * scale, found.stop[1] * scale
    assert begin <= box.start[1] + 1e-4
    assert end >= min(box.stop[1], view.shape[1] * scale) - 1e-4
    assert begin + scale > box.start[1] - 1e-4
    assert end - scale < box.stop[1] + 1e-4


def test_identity(volume, grey):
    view = WorkingView(volume, (50.5, 4.05, 5.95))
    assert view.scale == view.factor == (1, 1, 1)
    assert (view.shape, view.voxel_size, view.offset) == (grey.shape, volume.voxel_size, volume.offset)
    assert (view.read(view.box) == grey).all()
    assert "as stored" in view.description


def test_almost_whole_factors_are_whole(volume):
    assert WorkingView(volume, (50, 8.1, 11.8)).factor == (1, 2, 2)
    assert WorkingView(volume, (50, 8.1, 11.8), tolerance=0.001).factor == pytest.approx((1, 2.025, 11.8 / 6))


def test_incomplete_last_voxel_is_the_mean_of_what_exists(volume, grey):
    view = WorkingView(volume, (50, 8, 6))
    assert view.shape == (13, 23, 38)
    assert (view.read(Box((0, 22, 0), (13, 23, 38)))[:, 0] == grey[:, 44]).all()


def test_another_section_thickness_is_refused(volume):
    with pytest.raises(SynbbError, match=r"sections of 40 nm.*stored are 50 x 4 x 6 nm.*resample-z"):
        WorkingView(volume, (40, 4, 6))


@pytest.mark.parametrize("tolerance", [-0.5, 0.5, 2, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_small_share_is_refused(volume, tolerance):
    with pytest.raises(SynbbError, match=r"--tolerance .* must be a share.*0.02 for 2 %"):
        WorkingView(volume, (50, 4, 6), tolerance=tolerance, resample_z=True)
    assert WorkingView(volume, (50, 4, 6), tolerance=0).scale == (1, 1, 1)


def test_sections_resampled_when_told(volume, grey):
    view = WorkingView(volume, (100, 8, 6), resample_z=True)
    padded = np.pad(grey, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(float)
    expected = padded.reshape(7, 2, 23, 2, 38).mean(axis=(1, 3))
    assert view.scale == (2, 2, 1)
    assert view.read(view.box) == pytest.approx(expected, abs=1e-3)
    assert view.offset == pytest.approx((25, 2, 0))
    assert "z area mean over 2" in view.description


def test_outside_is_refused(volume):
    view = WorkingView(volume, (50, 8, 12))
    with pytest.raises(SynbbError, match="working voxels"):
        view.read(Box((0, 0, 0), (13, 24, 19)))


@pytest.fixture
def pyramid(tmp_path):
    out = create_volume(tmp_path / "p.zarr", shape=(5, 270, 260), dtype="uint8", voxel_size=SIZE)
    out.write(out.box, np.random.default_rng(0).integers(0, 255, out.shape, np.uint8))
    return build_pyramid(str(tmp_path / "p.zarr"))


@pytest.mark.parametrize(
    ("wanted", "level", "factor", "scale"),
    [
        ((50, 4, 4), 0, (1, 1, 1), (1, 1, 1)),
        ((50, 8.05, 7.95), 1, (1, 1, 1), (1, 2, 2)),
        ((50, 16, 16), 2, (1, 1, 1), (1, 4, 4)),
        ((50, 12, 12), 1, (1, 1.5, 1.5), (1, 3, 3)),
        ((50, 64, 64), 3, (1, 2, 2), (1, 16, 16)),
        ((50, 2, 2), 0, (1, 0.5, 0.5), (1, 0.5, 0.5)),
        ((50, 8, 4), 0, (1, 2, 1), (1, 2, 1)),
    ],
)
def test_the_level_that_fits_is_read(pyramid, wanted, level, factor, scale):
    view = WorkingView(pyramid, wanted)
    assert view.volume is pyramid.levels[level]
    assert view.factor == pytest.approx(factor)
    assert view.scale == pytest.approx(scale)
    assert f"level {level}" in view.description
    box = Box((1, 2, 3), (4, 9, 11))
    if max(factor) in (1, 0.5, 2):  # means of means are the mean
        reference = WorkingView(pyramid.crop(Box((0, 0, 0), (5, 269, 259))), wanted)  # no levels left
        assert view.read(box) == pytest.approx(reference.read(box), abs=0.6 * max(1, level))  # levels are rounded
    assert view.to_working(view.source_box(box)).contains(box)


def slow_upsample(block, scale, shape):
    """Whole-volume linear interpolation, axis by axis."""
    for axis, (f, n) in enumerate(zip(scale, shape, strict=True)):
        positions = (np.arange(n) + 0.5) / f - 0.5
        grid = np.arange(block.shape[axis])
        block = np.apply_along_axis(lambda row, p=positions, g=grid: np.interp(p, g, row), axis, block)
    return block


@ROOMY
@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 30), st.integers(1, 30)),
    scale=st.tuples(st.sampled_from([1.0, 2.0]), st.floats(0.4, 5), st.sampled_from([1.0, 2.0, 3.0, 0.5])),
)
def test_upsampling_by_blocks_is_the_whole(data, shape, scale):
    working = tuple(int(np.ceil(n / f - 1e-6)) for n, f in zip(shape, scale, strict=True))
    block = np.random.default_rng(0).random(working, np.float32)
    whole = upsample_to_source(block, Box.of_shape(working), Box.of_shape(shape), scale, working)
    assert whole == pytest.approx(slow_upsample(block.astype(float), scale, shape), abs=1e-5)
    target = data.draw(boxes_in(shape))
    needed = upsampling_support(target, scale, working)
    part = upsample_to_source(block[needed.slices], needed, target, scale, working)
    assert part.dtype == np.float32
    assert (part == whole[target.slices]).all()


def test_upsampling_needs_one_voxel_of_margin(volume):
    view = WorkingView(volume, (50, 8, 12))
    target = Box((2, 10, 11), (7, 31, 29))
    support = upsampling_support(target, view.scale, view.shape)
    margin = view.to_working(target).grow((0, 1, 1)).intersect(view.box)
    assert margin.contains(support)
    with pytest.raises(ValueError, match="needs working voxels"):
        upsample_to_source(np.zeros((5, 3, 3)), Box.of_shape((5, 3, 3), (2, 5, 5)), target, view.scale, view.shape)
    with pytest.raises(ValueError, match="does not fill"):
        upsample_to_source(np.zeros((5, 3, 3)), Box.of_shape((5, 3, 4)), target, view.scale, view.shape)


def test_constant_stays_constant_there_and_back(make):
    volume = make("hdf5_plain", np.full((3, 17, 19), 200, np.uint8))
    view = WorkingView(volume, (50, 9.3, 13.7))
    down = view.read(view.box)
    assert down == pytest.approx(200, abs=1e-4)
    assert upsample_to_source(down, view.box, volume.box, view.scale, view.shape) == pytest.approx(200, abs=1e-3)


def ramp(path, shape, voxel_size, offset=(0, 0, 0)):
    """A volume along whose x the values are the positions of the voxels."""
    out = create_volume(path, shape=shape, dtype="float32", voxel_size=voxel_size, offset=offset)
    out.write(out.box, np.broadcast_to(np.arange(shape[2], dtype=np.float32), shape).copy())
    return out.volume


@pytest.mark.parametrize("factor", [2, 4])
def test_levels_that_begin_beside_the_volume_are_passed_over(tmp_path, factor):
    pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")
    ramp(tmp_path / "r.zarr", (4, 140, 270), SIZE, (25, 2, 4 * 7 + 2))  # its corner lies at the seventh voxel
    shifted = convert(tmp_path / "r.zarr", f"precomputed://{tmp_path / 'p'}", pyramid=True)
    view = WorkingView(shifted, (50, 4 * factor, 4 * factor))
    assert view.volume is shifted
    assert view.read(Box((0, 0, 10), (1, 1, 12))).ravel() == pytest.approx(
        [10 * factor + (factor - 1) / 2, 11 * factor + (factor - 1) / 2]
    )
    even = ramp(tmp_path / "e.zarr", (4, 140, 270), SIZE, (25, 2, 4 * 8 + 2))
    kept = convert(even.path, f"precomputed://{tmp_path / 'q'}", pyramid=True)
    assert WorkingView(kept, (50, 4 * factor, 4 * factor)).volume is not kept


def test_levels_without_a_place_of_their_own_share_the_corner(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (2, 64, 64), np.uint8)
    for number, steps in enumerate(([], [{"type": "translation", "translation": [0, 100, 200]}])):
        path = tmp_path / f"{number}.zarr"
        plain_pyramid(path, [grey, grey[:, ::2, ::2]], steps)
        volume = open_volume(path)
        assert WorkingView(volume, (50, 8, 8)).volume is volume.levels[1]
        assert volume.levels[1].offset == tuple(a + b for a, b in zip(volume.offset, (0, 2, 2), strict=True))


@pytest.mark.parametrize(("rows", "level"), [(64, 1), (65, 0), (66, 1)])
def test_levels_that_end_before_the_volume_are_passed_over(tmp_path, rows, level):
    grey = np.random.default_rng(0).integers(0, 255, (2, rows, 64), np.uint8)
    plain_pyramid(tmp_path / "f.zarr", [grey, grey[:, : rows // 2 * 2 : 2, ::2]], [])
    volume = open_volume(tmp_path / "f.zarr")
    view = WorkingView(volume, (50, 8, 8))
    assert view.volume is volume.levels[level]
    assert view.shape == (2, -(-rows // 2), 32)
    view.read(view.box)


def plain_pyramid(path, arrays, steps):
    """An OME-Zarr 0.4 whose levels state a scale and ``steps`` alone."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    datasets = []
    for number, array in enumerate(arrays):
        group.create_array(str(number), data=array)
        scale = {"type": "scale", "scale": [50, 4 * 2**number, 4 * 2**number]}
        datasets.append({"path": str(number), "coordinateTransformations": [scale, *steps]})
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
