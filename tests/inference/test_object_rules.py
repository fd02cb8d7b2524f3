"""Hysteresis, bridging, sizes and splitting, against the same operation on the whole array."""

from __future__ import annotations

import csv

import cc3d
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.special import expit

from synbb.errors import SynbbError
from synbb.evaluation.components import bridges_over
from synbb.inference import splitting
from synbb.inference.objects import segment
from synbb.inference.rules import NO_DATA
from synbb.inference.splitting import cut_object
from synbb.volumes import create_volume, open_volume

VOXEL = (40.0, 10.0, 5.0)
SIZE = float(np.prod(VOXEL))
ABOUT = {"kind": "probabilities", "threshold": 0.7}


def write(path, array, **attributes):
    chunks = [min(s, c) for s, c in zip(array.shape, (4, 16, 16), strict=True)]
    writable = create_volume(
        path,
        shape=array.shape,
        dtype=array.dtype,
        overwrite=True,
        voxel_size=VOXEL,
        chunks=chunks,
        attributes={**ABOUT, **attributes},
    )
    writable.write(writable.box, array)
    return writable.volume


def read(path):
    volume = open_volume(path)
    return volume.read(volume.box)


def smooth(seed, shape, dtype, reach=1.0):
    """Probabilities with hills a few voxels wide."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), reach)
    p = expit(3 * values / max(values.std(), 1e-9))
    return np.rint(255 * p).astype(np.uint8) if dtype == np.uint8 else p.astype(dtype)


def above(values, threshold):
    return values >= (np.uint8(np.ceil(threshold * 255)) if values.dtype == np.uint8 else values.dtype.type(threshold))


def on_the_whole_array(values, low, gaps, connectivity):
    """Hysteresis and bridging, with one array."""
    labels = cc3d.connected_components(above(values, low).view(np.uint8), connectivity=connectivity).astype(np.int64)
    for top, bottom in gaps:
        for y, x in np.argwhere((labels[top] > 0) & (labels[bottom] > 0)):
            labels[labels == labels[bottom, y, x]] = labels[top, y, x]
    sure = np.unique(labels[above(values, ABOUT["threshold"])])
    return np.where(np.isin(labels, sure), labels, 0)


def assert_same_objects(ours, theirs):
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]


sides = st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
blocks = st.tuples(st.integers(1, 6), st.integers(3, 12), st.integers(3, 12))
dtypes = st.sampled_from([np.uint8, np.float16, np.float32])
files = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@files
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=sides,
    block=blocks,
    dtype=dtypes,
    connectivity=st.sampled_from([6, 18, 26]),
    low=st.sampled_from([0.2, 0.5, 0.7]),
    blank=st.sets(st.integers(0, 8), max_size=4),
    bridge=st.integers(0, 2),
)
def test_hysteresis_and_bridging_are_those_of_the_whole_array(
    tmp_path, seed, shape, block, dtype, connectivity, low, blank, bridge
):
    values = smooth(seed, shape, dtype, (0.3, 1, 1))
    sections = sorted(z for z in blank if z < shape[0])
    values[sections] = 0
    volume = write(tmp_path / "p.zarr", values, **{NO_DATA: sections})
    out = tmp_path / "o.zarr"
    summary = segment(volume, out, low=low, bridge=bridge, connectivity=connectivity, block=block, overwrite=True)
    theirs = on_the_whole_array(values, low, bridges_over(sections, shape[0], bridge), connectivity)
    assert_same_objects(read(out), theirs)
    assert summary.objects == len(np.unique(theirs[theirs > 0]))


@files
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 6), st.integers(8, 18), st.integers(8, 18)),
    block=blocks,
    dtype=dtypes,
    connectivity=st.sampled_from([6, 26]),
    distance=st.sampled_from([20.0, 50.0, 90.0]),
    bridge=st.integers(0, 2),
)
def test_splitting_is_that_of_the_whole_array(tmp_path, seed, shape, block, dtype, connectivity, distance, bridge):
    values = smooth(seed, shape, dtype, (0.5, 2, 3))
    blank = [z for z in (2, 3) if z < shape[0]] if bridge else []
    values[blank] = 0
    volume = write(tmp_path / "p.zarr", values)
    out = tmp_path / "o.zarr"
    options = {"low": 0.5, "connectivity": connectivity, "split_nm": distance}
    options |= {"bridge": bridge, "blank": blank} if bridge else {}
    summary = segment(volume, out, block=block, overwrite=True, **options)
    gaps = bridges_over(blank, shape[0], bridge)
    whole = on_the_whole_array(values, 0.5, gaps, connectivity)
    p, sure = values.astype(np.float64) / (255 if dtype == np.uint8 else 1), above(values, ABOUT["threshold"])
    theirs, cut = whole * 1000, 0
    for name in np.unique(whole[whole > 0]):
        inside = whole == name  # in an array as large as the volume, not in its box
        pieces = cut_object(p, inside, sure, VOXEL, distance, connectivity, gaps)
        theirs[inside] += pieces[inside]
        cut += bool(pieces.any())
    assert_same_objects(read(out), theirs)
    assert (summary.split, summary.left_whole) == (cut, 0)
    for name in np.unique(theirs[theirs > 0]):  # hysteresis holds for pieces, too
        assert sure[theirs == name].any()


def discs(centres, shape=(5, 60, 120), radius=18):
    """Saturated discs in sections 1 to 3."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    masks = [(abs(z - 2) <= 1) & ((y - 30) ** 2 + (x - c) ** 2 / 4 < radius**2) for c in centres]
    return np.where(np.any(masks, axis=0), 230, 0).astype(np.uint8)


def test_two_synapses_that_touch_become_two_and_one_long_one_stays_whole(tmp_path):
    noise = np.random.default_rng(0).integers(-25, 26, (5, 60, 140))
    touching, bar = discs([34, 104], (5, 60, 140)), np.zeros((5, 60, 140), np.uint8)
    bar[1:4, 25:35, 4:136] = 230
    for array, expected in ((touching, 2), (bar, 1)):
        values = np.where(array > 0, array + noise, 0).astype(np.uint8)
        volume = write(tmp_path / "p.zarr", values)
        assert segment(volume, tmp_path / "one.zarr", overwrite=True).objects == 1
        found = segment(volume, tmp_path / "o.zarr", split_nm=150, overwrite=True)
        assert (found.objects, found.split) == (expected, expected - 1)
    labels = read(tmp_path / "o.zarr")
    assert (labels > 0).sum() == found.voxels
    segment(write(tmp_path / "p.zarr", touching), tmp_path / "o.zarr", split_nm=150, overwrite=True)
    labels = read(tmp_path / "o.zarr")
    assert labels[2, 30, 34] != labels[2, 30, 104]
    np.testing.assert_allclose((labels == 1).sum(), (labels == 2).sum(), rtol=0.02)


def test_a_gap_does_not_split_what_it_interrupts(tmp_path):
    values = np.zeros((9, 30, 40), np.uint8)
    values[1:8, 8:22, 8:32] = 230
    values[4] = 0
    volume = write(tmp_path / "p.zarr", values, **{NO_DATA: [4], "bridge": 1})
    found = segment(volume, tmp_path / "o.zarr", split_nm=80)
    assert (found.objects, found.split) == (1, 0)


def test_seeds_are_so_far_apart_and_sure():
    p, everywhere = discs([34, 104], (5, 60, 140)) / 255, np.ones((5, 60, 140), bool)
    inside = p > 0
    assert cut_object(p, inside, everywhere, VOXEL, 150, 26).max() == 2
    assert cut_object(p, inside, everywhere, VOXEL, 360, 26).max() == 0  # the centres are 350 nm apart
    one_side = everywhere.copy()
    one_side[..., 70:] = False
    assert cut_object(p, inside, one_side, VOXEL, 150, 26).max() == 0


def test_an_object_in_too_large_a_box_is_left_whole_and_reported(tmp_path, monkeypatch):
    volume = write(tmp_path / "p.zarr", discs([34, 104], (5, 60, 140)))
    monkeypatch.setattr(splitting, "LARGEST_BOX", 1000)
    found = segment(volume, tmp_path / "o.zarr", split_nm=150)
    assert (found.objects, found.split, found.left_whole) == (1, 0, 1)


def test_labels_and_table_of_pieces_do_not_depend_on_the_blocks(tmp_path):
    volume = write(tmp_path / "p.zarr", smooth(5, (8, 36, 36), np.uint8, (0.5, 2, 3)))
    results = []
    for number, block in enumerate([None, (4, 16, 12), (3, 40, 40)]):
        out = tmp_path / f"o{number}.zarr"
        found = segment(volume, out, low=0.5, split_nm=40, min_size_nm3=40 * SIZE, max_size_nm3=200 * SIZE, block=block)
        results.append((read(out), out.with_suffix(".csv").read_text()))
    assert found.split >= 1
    for labels, table in results[1:]:
        np.testing.assert_array_equal(labels, results[0][0])
        assert table == results[0][1]
    labels, (_, *rows) = results[0][0], csv.reader(results[0][1].splitlines())
    assert len(rows) == found.objects == labels.max()
    voxels = np.bincount(labels.ravel())[1:]
    assert [int(row[13]) for row in rows] == voxels.tolist()
    assert voxels.min() >= 40
    assert voxels.max() <= 200
    assert found.too_small > 0
    assert found.too_large > 0


def test_chosen_values_are_stored_and_read_again(tmp_path):
    stored = {"low": 0.5, "bridge": 1, "split_nm": 60.0, "min_size_nm3": 2 * SIZE, "max_size_nm3": 500 * SIZE}
    values = smooth(1, (8, 20, 20), np.uint8, (0.5, 2, 2))
    segment(write(tmp_path / "p.zarr", values, **{NO_DATA: [3]}, **stored), tmp_path / "stored.zarr")
    given = {**stored, "blank": [3]}
    segment(write(tmp_path / "q.zarr", values), tmp_path / "given.zarr", **given)
    np.testing.assert_array_equal(read(tmp_path / "stored.zarr"), read(tmp_path / "given.zarr"))
    for name in ("stored.zarr", "given.zarr"):
        attributes = open_volume(tmp_path / name).attributes
        assert {key: attributes[key] for key in stored} == stored
        assert attributes[NO_DATA] == [3]
    volume = write(tmp_path / "p.zarr", values, **{NO_DATA: [3]}, **stored)
    plain = segment(volume, tmp_path / "o.zarr", low=0.7, bridge=0, split_nm=0, min_size_nm3=0, max_size_nm3=1e9)
    assert plain.rules.blank == ()
    assert plain.objects == cc3d.connected_components((values >= 179).view(np.uint8)).max()


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        ({}, {"low": 0.8}, "above the threshold 0.7"),
        ({}, {"low": 0.0}, "above 0 and at most 1"),
        ({"low": "x"}, {}, "stored low 'x' is not a number"),
        ({}, {"bridge": 1}, "--blank"),
        ({}, {"bridge": -1}, "bridge of -1"),
        ({}, {"blank": [1]}, "--bridge N"),
        ({NO_DATA: [9]}, {"bridge": 1}, "from 0 to 2"),
        ({NO_DATA: "3"}, {"bridge": 1}, "from 0 to 2"),
        ({}, {"split_nm": -5.0}, "--split"),
        ({}, {"max_size_nm3": 10.0, "min_size_nm3": 20.0}, "--max-size"),
        ({}, {"max_size_nm3": float("nan")}, "--max-size"),
    ],
)
def test_wrong_rules_are_refused_and_leave_nothing(tmp_path, stored, options, message):
    volume = write(tmp_path / "p.zarr", smooth(0, (3, 8, 8), np.uint8), **stored)
    with pytest.raises(SynbbError, match=message):
        segment(volume, tmp_path / "o.zarr", **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.zarr"]
