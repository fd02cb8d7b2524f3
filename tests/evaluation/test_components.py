from __future__ import annotations

import tracemalloc

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from synbb.errors import SynbbError
from synbb.evaluation import runs as runs_module
from synbb.evaluation.components import bridges_over, find_components
from synbb.evaluation.runs import label, label_runs
from synbb.evaluation.window import grow_block
from synbb.volumes import Box

sides = st.tuples(st.integers(1, 11), st.integers(1, 11), st.integers(1, 11))
steps = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))


def components_of(mask, block, connectivity, start=(0, 0, 0), anchor=None, values=None, bridges=()):
    box = Box.of_shape(mask.shape, start)

    def read(b):
        here = b.relative_to(start).slices
        return mask[here], None if values is None else values[here]

    found = find_components(read, box, block, connectivity, anchor=anchor, bridges=bridges)
    whole = np.zeros(mask.shape, np.int64)
    for b in found.blocks:
        whole[b.relative_to(start).slices] = found.labels(b, read(b)[0])
    return found, whole


@settings(max_examples=120, deadline=None)
@given(
    shape=sides,
    block=steps,
    connectivity=st.sampled_from([6, 18, 26]),
    density=st.sampled_from([0.05, 0.2, 0.35, 0.6, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    start=st.tuples(*[st.integers(-5, 5)] * 3),
    anchored=st.booleans(),
)
def test_blocks_give_the_components_of_the_whole_array(shape, block, connectivity, density, seed, start, anchored):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    values = rng.integers(0, 256, shape, np.uint8)
    found, ours = components_of(mask, block, connectivity, start, (0, 0, 0) if anchored else None, values)
    theirs = cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity)
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    n = len(found)
    assert pairs.shape[1] == n + (not mask.all())  # one to one, background to background
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]
    assert ((ours > 0) == mask).all()
    # ids count objects by their first voxel in raster order, whatever the blocks
    ids, first = np.unique(ours[mask], return_index=True)
    np.testing.assert_array_equal(ids, np.arange(1, n + 1))
    assert (np.diff(first) > 0).all()
    table = found.table
    index = np.arange(1, n + 1)
    if n:
        np.testing.assert_array_equal(table.voxels, ndimage.sum(mask, ours, index))
        np.testing.assert_allclose(table.centroids, ndimage.center_of_mass(mask, ours, index))
        boxes = ndimage.find_objects(ours)
        assert [tuple(s.start for s in b) for b in boxes] == [tuple(r) for r in table.start.tolist()]
        assert [tuple(s.stop for s in b) for b in boxes] == [tuple(r) for r in table.stop.tolist()]
        np.testing.assert_allclose(table.value_sum, ndimage.sum(values, ours, index))
        np.testing.assert_array_equal(table.value_max, ndimage.maximum(values, ours, index))


@pytest.mark.parametrize(
    ("other", "joined_by"),
    [((1, 1, 2), (6, 18, 26)), ((1, 2, 2), (18, 26)), ((2, 2, 2), (26,)), ((2, 0, 2), (26,)), ((2, 1, 0), (18, 26))],
)
def test_faces_edges_and_corners_join_blocks(other, joined_by):
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[other] = True
    for connectivity in (6, 18, 26):
        found, _ = components_of(mask, (2, 2, 2) if 0 not in other else (2, 1, 1), connectivity)
        assert len(found) == (1 if connectivity in joined_by else 2)


def test_a_snake_through_all_blocks_is_one_object():
    mask = np.zeros((9, 9, 9), bool)
    mask[::2, ::2, :] = True
    mask[::2, 1::4, -1] = mask[::2, 3::4, 0] = True
    mask[1::4, -1, -1] = mask[3::4, 0, 0] = True
    found, _ = components_of(mask, (2, 3, 2), 6)
    assert len(found) == 1


def test_keep_renumbers():
    mask = np.zeros((1, 1, 9), bool)
    mask[0, 0, [0, 2, 3, 5]] = True
    found, _ = components_of(mask, (1, 1, 2), 26)
    kept = found.keep(found.table.voxels < 2)
    whole = np.concatenate([kept.labels(b, mask[b.slices])[0, 0] for b in kept.blocks])
    assert whole.tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0]
    assert len(kept) == 2


def test_odd_shapes_full_of_objects_are_labelled():
    """Shapes that cc3d's shortcut for binary images refuses."""
    for length in range(1, 12):
        mask = np.arange(length) % 2 == 0
        for shape in ((1, 1, length), (1, length, 1), (length, 1, 1)):
            assert label(mask.reshape(shape), 26)[1] == (length + 1) // 2


def test_input_that_changes_between_the_passes_is_noticed():
    mask = np.zeros((1, 1, 4), bool)
    found, _ = components_of(mask, (1, 1, 4), 26)
    mask[0, 0, 1] = True
    with pytest.raises(SynbbError, match="changed while it was read"):
        found.labels(next(iter(found.blocks)), mask)


def test_unknown_connectivity_is_refused():
    with pytest.raises(SynbbError, match="connectivity 8"):
        components_of(np.ones((1, 1, 1), bool), (1, 1, 1), 8)


@given(unit=st.tuples(*[st.integers(1, 300)] * 3), shape=st.tuples(*[st.integers(1, 5000)] * 3))
def test_blocks_are_whole_units_of_bounded_size(unit, shape):
    block = grow_block(unit, shape, target=2**16, split=False)
    assert all(b % u == 0 for b, u in zip(block, unit, strict=True))
    assert np.prod(block) <= max(2**16, np.prod(unit))
    assert np.prod(grow_block(unit, shape, target=2**16)) <= 2**18


@settings(max_examples=100, deadline=None)
@given(
    shape=sides,
    connectivity=st.sampled_from([6, 18, 26]),
    density=st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    sparse=st.booleans(),
)
def test_runs_are_labelled_as_their_voxels_are(shape, connectivity, density, seed, sparse):
    mask = np.random.default_rng(seed).random(shape) < density
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_module, "VOXELS_PER_RUN", 0 if sparse else mask.size + 1)
        runs, labels, count = label_runs(mask, connectivity)
    np.testing.assert_array_equal(runs.fill(np.ones(len(runs), bool)), mask)
    theirs = cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity)
    assert count == theirs.max()
    pairs = np.unique(np.stack([runs.fill(labels + 1).ravel(), theirs.ravel()]), axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]


@settings(max_examples=100, deadline=None)
@given(
    shape=sides,
    block=steps,
    connectivity=st.sampled_from([6, 26]),
    density=st.sampled_from([0.1, 0.3]),
    blank=st.sets(st.integers(0, 10), max_size=6),
    most=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_bridged_components_are_those_of_the_whole_array(shape, block, connectivity, density, blank, most, seed):
    mask = np.random.default_rng(seed).random(shape) < density
    gaps = bridges_over(sorted(z for z in blank if z < shape[0]), shape[0], most)
    _, ours = components_of(mask, block, connectivity, bridges=gaps)
    theirs = cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity).astype(np.int64)
    for top, bottom in gaps:  # one pair of labels after the other, on the whole array
        assert set(range(top + 1, bottom)) <= blank
        assert bottom - top <= most + 1
        for y, x in np.argwhere((theirs[top] > 0) & (theirs[bottom] > 0)):
            theirs[theirs == theirs[bottom, y, x]] = theirs[top, y, x]
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]


def test_only_gaps_of_at_most_so_many_sections_with_data_on_both_sides_are_bridged():
    assert bridges_over([0, 3, 6, 7, 10, 11, 12, 19], 20, 2) == [(2, 4), (5, 8)]
    assert bridges_over([3], 20, 0) == []


def test_joining_holds_little_more_than_the_rows_of_the_components():
    def specks(box: Box):
        mask = np.zeros(box.shape, bool)
        mask[::2, ::2, ::2] = True
        return mask, None

    tracemalloc.start()
    found = find_components(specks, Box((0, 0, 0), (32, 128, 512)), (32, 32, 32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(found) == 16 * 64 * 256
    assert peak / len(found) < 200, "a second copy of all rows is 96 bytes more"
