import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.volumes import Box, Normalisation, create_volume, measure_normalisation
from synbb.volumes.box import BlockGrid
from synbb.volumes.inspection import find_blank_sections, inspect_volume
from synbb.volumes.statistics import GreySample, _rounds, sample_greys, tissue_mask


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-50, 300), min_size=1, max_size=60),
    st.one_of(st.sampled_from([0.0, 1.0, 50.0, 99.0, 100.0]), st.floats(0, 100)),
)
def test_percentile_is_numpys(values, percent):
    distinct, counts = np.unique(values, return_counts=True)
    sample = GreySample(distinct, counts, len(values), min(values), max(values), True)
    assert sample.percentile(percent) == pytest.approx(np.percentile(values, percent), abs=1e-9)


@pytest.mark.parametrize("kind", ["ours", "hdf5_plain", "tiff"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_exact_in_small_volumes(kind, dtype, make, grey):
    array = grey.astype(dtype) * (200 if dtype == "uint16" else 1)
    found = measure_normalisation(make(kind, array), percentiles=(2, 97))
    low, high = np.percentile(array, (2, 97))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.percentiles == (2, 97)


def test_padding_and_blank_sections_do_not_count(make):
    rng = np.random.default_rng(0)
    array = np.zeros((6, 96, 96), np.uint8)
    array[:, 32:80, 16:64] = rng.integers(100, 140, (6, 48, 48))
    array[3] = 255
    tissue = np.delete(array, 3, axis=0)[:, 32:80, 16:64]
    found = measure_normalisation(make("ours", array))
    assert (found.low, found.high) == tuple(np.percentile(tissue, (1, 99)))


def test_the_result_does_not_depend_on_the_chunks(tmp_path):
    array = np.zeros((6, 96, 96), np.uint16)
    array[:, 20:70, 10:60] = np.random.default_rng(0).integers(1000, 50000, (6, 50, 50))
    results = []
    for number, chunks in enumerate([(1, 96, 96), (6, 16, 16), (2, 7, 11)]):
        out = create_volume(
            tmp_path / f"{number}.zarr", shape=array.shape, dtype="uint16", voxel_size=(1, 1, 1), chunks=chunks
        )
        out.write(out.box, array)
        results.append(measure_normalisation(out.volume))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint64"])
def test_a_tile_that_holds_both_ends_of_its_type_is_no_blank_one(dtype):
    ends = np.iinfo(dtype)
    block = np.zeros((1, 16, 48), dtype)
    block[0, 3, 4], block[0, 3, 5] = ends.min, ends.max
    block[0, 9, 20] = 1 if ends.min == 0 else -1
    found = tissue_mask(block, 16)
    assert found[:, :, :32].all()
    assert not found[:, :, 32:].any()
    assert not tissue_mask(block, 16, tolerance=1.0)[:, :, 16:].any()


def test_signed_bytes_are_normalised_as_the_same_unsigned_ones(make):
    grey = np.random.default_rng(0).normal(128, 45, (2, 96, 96)).clip(0, 255).astype(np.uint8)
    signed = (grey.astype(np.int16) - 128).astype(np.int8)
    one, other = measure_normalisation(make("ours", grey)), measure_normalisation(make("hdf5_plain", signed))
    assert (other.low, other.high) == (one.low - 128, one.high - 128)


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)), st.integers(0, 10**6))
def test_tissue_mask_follows_the_definition(shape, seed):
    rng = np.random.default_rng(seed)
    block = (rng.random(shape) < 0.003).astype(np.uint8)
    expected = np.zeros(shape, bool)
    for z in range(shape[0]):
        for y in range(0, shape[1], 16):
            for x in range(0, shape[2], 16):
                tile = block[z, y : y + 16, x : x + 16]
                expected[z, y : y + 16, x : x + 16] = tile.min() != tile.max()
    assert (tissue_mask(block) == expected).all()


def test_within_looks_nowhere_else(make, grey):
    array = grey.astype(np.uint16)
    box = Box((2, 3, 4), (9, 40, 30))
    outside = array.copy()
    outside[box.slices] = 0
    array[outside > 0] = 60000
    found = measure_normalisation(make("ours", array), within=[box])
    assert (found.low, found.high) == tuple(np.percentile(grey[box.slices], (1, 99)))
    with pytest.raises(SynbbError, match="not inside"):
        measure_normalisation(make("ours", array), within=[Box((0, 0, 0), (14, 5, 5))])


def test_large_volumes_are_sampled_with_a_seed(tmp_path):
    array = np.random.default_rng(0).normal(120, 20, (16, 160, 160)).clip(0, 255).astype(np.uint8)
    out = create_volume(tmp_path / "v.zarr", shape=array.shape, dtype="uint8", voxel_size=(1, 1, 1), chunks=(4, 16, 16))
    out.write(out.box, array)
    sample = sample_greys(out.volume, max_voxels=40_000, seed=3)
    assert not sample.exact
    assert 40_000 <= sample.seen < 42_000
    one = measure_normalisation(out.volume, max_voxels=40_000, seed=3)
    assert one == measure_normalisation(out.volume, max_voxels=40_000, seed=3)
    assert (one.low, one.high) == pytest.approx(np.percentile(array, (1, 99)), abs=3)
    assert sample_greys(out.volume).exact


@pytest.mark.parametrize("kind", ["mask", "tissue"])
def test_a_little_tissue_of_a_large_volume_is_found(tmp_path, kind):
    array = np.random.default_rng(0).integers(100, 200, (8, 2048, 2048), dtype=np.uint8)
    kept = np.zeros(array.shape, bool)
    kept[:, 512:1024, 512:1024] = True
    if kind == "tissue":
        array[~kept] = 0
    out = create_volume(
        tmp_path / "v.zarr", shape=array.shape, dtype="uint8", voxel_size=(1, 1, 1), chunks=(8, 128, 128)
    )
    out.write(out.box, array)
    inside = (lambda box: kept[box.slices]) if kind == "mask" else None
    for seed in range(5):
        sample = sample_greys(out.volume, max_voxels=2**20, seed=seed, inside=inside, looked=16)
        assert sample.tissue >= 2**19
        once = sample_greys(out.volume, max_voxels=2**20, seed=seed)
        assert once.seen == 2**20, "what is only shown is looked at once"
        assert (sample.lowest > 0) == (kind == "mask")


@given(
    st.lists(st.tuples(*[st.tuples(st.integers(0, 9), st.integers(1, 9))] * 3), min_size=1, max_size=3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.integers(1, 200),
)
def test_pieces_by_number_are_the_blocks_of_the_regions(spans, shape, voxels):
    regions = [Box(tuple(a for a, _ in span), tuple(a + n for a, n in span)) for span in spans]
    grids = [BlockGrid(region, shape, region.start) for region in regions]
    expected = [block for region in regions for block in region.blocks(shape, region.start)]
    rounds = list(_rounds(grids, np.arange(len(expected)), voxels))
    assert [block for blocks in rounds for block in blocks] == expected
    assert all(sum(block.size for block in blocks) >= voxels for blocks in rounds[:-1])


def test_no_tissue(make):
    with pytest.raises(SynbbError, match=r"no tissue among 4096 voxels.*tile is constant"):
        measure_normalisation(make("ours", np.full((4, 32, 32), 7, np.uint8)))


def test_no_contrast(make):
    array = np.zeros((4, 32, 32), np.uint8)
    array[:, ::16, ::16] = 1
    with pytest.raises(SynbbError, match="label volume"):
        measure_normalisation(make("ours", array))


@pytest.mark.parametrize("percentiles", [(1,), (99, 1), (5, 5), (-1, 99), (1, 101), (1, 50, 99), (float("nan"), 5)])
def test_percentiles_that_make_no_sense(make, grey, percentiles):
    with pytest.raises(SynbbError, match="percentiles"):
        measure_normalisation(make("hdf5", grey), percentiles=percentiles)


def test_values_that_are_not_finite_do_not_count(make, grey):
    array = grey.astype(np.float32)
    array[0, 0, :5] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    found = measure_normalisation(make("hdf5", array), percentiles=(0, 100))
    assert (found.low, found.high) == (1, 255)


@given(st.floats(-1000, 1000), st.floats(0.1, 1000), st.booleans())
def test_apply_and_storage(low, span, invert):
    norm = Normalisation(low, low + span, invert=invert)
    values = np.array([low, low + span, low + span / 2, low - 5 * span, low + 9 * span])
    expected = np.array([0, 1, 0.5, -1, 2])
    found = norm.apply(values)
    assert found.dtype == np.float32
    assert found == pytest.approx(1 - expected if invert else expected, abs=1e-3)
    assert Normalisation.from_dict(norm.to_dict()) == norm


def test_apply_leaves_its_input_alone():
    array = np.arange(9, dtype=np.float32)
    Normalisation(0, 4).apply(array)
    assert (array == np.arange(9)).all()


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"low": "a", "high": 1},
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "scheme": "zscore"},
        {"low": 0, "high": None},
    ],
)
def test_broken_normalisation(stored):
    with pytest.raises(SynbbError, match="normalisation"):
        Normalisation.from_dict(stored)


def test_blank_sections(make, grey):
    grey[[0, 7]] = np.array([0, 9], np.uint8)[:, None, None]
    volume = make("ours", grey)
    small = find_blank_sections(volume)
    assert (small.found, small.looked_at, small.whole) == ((0, 7), 13, True)
    large = find_blank_sections(volume, max_voxels=100)
    assert (large.found, large.looked_at, large.whole) == ((0, 7), 13, False)
    seen = inspect_volume(volume).greys
    assert (seen.lowest, seen.highest, seen.seen) == (0, 255, grey.size)
    assert seen.tissue == grey.size * 11 // 13
