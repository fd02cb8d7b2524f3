from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.evaluation import object_tables
from synbb.evaluation.detection import (
    ObjectTable,
    Overlaps,
    match_one_to_one,
    score_by_distance,
    score_by_overlap,
)
from synbb.evaluation.object_tables import measure_objects
from synbb.volumes import Box


def best_by_trying(n_rows, n_columns, cost):
    """(number of matches, total cost) of the best matching, by trying all of them."""
    for size in range(min(n_rows, n_columns), 0, -1):
        matchings = [
            list(zip(rows, columns, strict=True))
            for rows in combinations(range(n_rows), size)
            for columns in permutations(range(n_columns), size)
        ]
        totals = [sum(cost[p] for p in pairs) for pairs in matchings if all(p in cost for p in pairs)]
        if totals:
            return size, min(totals)
    return 0, 0.0


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.data())
def test_matching_is_the_best_of_all(n_rows, n_columns, data):
    every = [(i, j) for i in range(n_rows) for j in range(n_columns)]
    allowed = [pair for pair in every if data.draw(st.booleans())]
    cost = {pair: float(data.draw(st.integers(0, 20))) for pair in allowed}
    chosen = match_one_to_one([i for i, _ in allowed], [j for _, j in allowed], list(cost.values()))
    pairs = [allowed[k] for k in chosen]
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    size, total = best_by_trying(n_rows, n_columns, cost)
    assert len(pairs) == size
    assert sum(cost[pair] for pair in pairs) == pytest.approx(total)


def test_more_matches_come_before_nearer_ones():
    # The nearest pair is (0, 0), but then 1 and 1 stay alone.
    truth = ObjectTable.of([[0, 0, 0], [0, 0, -90]])
    predicted = ObjectTable.of([[0, 0, 1], [0, 0, 95]])
    scores = score_by_distance(truth, predicted, 100)
    assert {(m.truth_id, m.predicted_id) for m in scores.matched} == {(1, 2), (2, 1)}
    assert sorted(m.distance_nm for m in scores.matched) == pytest.approx([91, 95])
    assert scores.f1 == 1


def test_of_as_many_matches_the_nearest_are_taken():
    truth = ObjectTable.of([[500, 700, 900], [500, 700, 1000]])
    predicted = ObjectTable.of([[500, 700, 1010], [500, 700, 890]])
    scores = score_by_distance(truth, predicted, 300)
    assert {(m.truth_id, m.predicted_id) for m in scores.matched} == {(1, 2), (2, 1)}


def test_of_as_many_matches_the_largest_overlaps_are_taken():
    both = ObjectTable.of(np.zeros((2, 3)), voxels=[10, 10])
    overlaps = Overlaps(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([2, 8, 8, 2]))
    scores = score_by_overlap(both, both, overlaps)
    assert {(m.truth_id, m.predicted_id) for m in scores.matched} == {(1, 2), (2, 1)}


def test_an_overlap_of_just_the_iou_asked_for_matches():
    one = ObjectTable.of(np.zeros((1, 3)), voxels=[10])
    first = np.zeros(1, np.int64)
    for voxels, iou in ((5, 5 / 15), (10, 1.0)):
        assert score_by_overlap(one, one, Overlaps(first, first, np.array([voxels])), iou=iou).found == 1
    with pytest.raises(SynbbError, match="IoU"):
        score_by_overlap(one, one, Overlaps(first, first, np.array([5])), iou=0)


def test_lists_and_numbers_by_distance():
    truth = ObjectTable.of([[0, 0, 0], [0, 0, 1000], [0, 5000, 0]], voxels=[10, 20, 30], ids=[3, 5, 8])
    predicted = ObjectTable.of([[40, 0, 30], [0, 0, 1301]], ids=[1, 2])
    scores = score_by_distance(truth, predicted, 300)
    assert (scores.truth, scores.found, scores.predicted, scores.correct) == (3, 1, 2, 1)
    assert scores.precision == 0.5
    assert scores.recall == pytest.approx(1 / 3)
    assert scores.f1 == pytest.approx(0.4)
    assert [(m.truth_id, m.predicted_id, m.distance_nm) for m in scores.matched] == [(3, 1, 50.0)]
    assert next((m.id, m.voxels, m.nearest_nm) for m in scores.missed) == (5, 20, 301.0)
    assert scores.missed[1].id == 8
    assert [(f.id, f.centroid_nm, f.nearest_nm) for f in scores.false] == [(2, (0.0, 0.0, 1301.0), 301.0)]
    assert score_by_distance(truth, predicted, 301).found == 2  # at most, not less than


def test_only_counted_objects_count_but_others_may_be_partners():
    truth = ObjectTable.of([[0, 0, 0], [0, 0, 500]], counted=[True, False])
    predicted = ObjectTable.of([[0, 0, -20], [0, 0, 520], [0, 0, 900]], counted=[False, True, False])
    scores = score_by_distance(truth, predicted, 100)
    assert (scores.truth, scores.found, scores.predicted, scores.correct) == (1, 1, 1, 1)
    assert len(scores.matched) == 2
    assert scores.false == []


def test_there_is_no_f1_where_one_of_its_two_has_no_meaning():
    beside = ObjectTable.of([[0, 0, 50]], counted=[False])
    found = score_by_distance(ObjectTable.of([[0, 0, 0]]), beside, 300)
    assert (found.precision, found.recall, found.f1) == (None, 1.0, None)
    correct = score_by_distance(beside, ObjectTable.of([[0, 0, 0]]), 300)
    assert (correct.precision, correct.recall, correct.f1) == (1.0, None, None)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [(0, 0, (None, None, None)), (2, 0, (None, 0.0, 0.0)), (0, 2, (0.0, None, 0.0))],
)
def test_empty_sides_have_no_made_up_numbers(truth, predicted, expected):
    tables = [ObjectTable.of(np.zeros((n, 3))) for n in (truth, predicted)]
    none = np.empty(0, np.int64)
    for scores in (
        score_by_distance(*tables, 100),
        score_by_overlap(*tables, Overlaps(none, none, none)),
    ):
        assert (scores.precision, scores.recall, scores.f1) == expected


def test_overlap_one_to_one_and_by_iou():
    truth = ObjectTable.of(np.zeros((2, 3)), voxels=[10, 10])
    predicted = ObjectTable.of(np.zeros((2, 3)), voxels=[20, 4])
    # prediction 1 covers both true objects, prediction 2 a little of the first
    overlaps = Overlaps(np.array([0, 1, 0]), np.array([0, 0, 1]), np.array([9, 8, 1]))
    anyhow = score_by_overlap(truth, predicted, overlaps)
    assert {(m.truth_id, m.predicted_id) for m in anyhow.matched} == {(1, 2), (2, 1)}
    strict = score_by_overlap(truth, predicted, overlaps, iou=0.4)
    assert [(m.truth_id, m.predicted_id) for m in strict.matched] == [(1, 1)]
    assert strict.matched[0].iou == pytest.approx(9 / 21)
    assert (strict.found, strict.correct) == (1, 1)


@pytest.mark.parametrize("distance", [0, -5, float("nan"), float("inf")])
def test_a_senseless_distance_is_refused(distance):
    with pytest.raises(SynbbError, match="distance"):
        score_by_distance(ObjectTable.of([]), ObjectTable.of([]), distance)


def test_a_senseless_iou_is_refused():
    none = np.empty(0, np.int64)
    with pytest.raises(SynbbError, match="IoU"):
        score_by_overlap(ObjectTable.of([]), ObjectTable.of([]), Overlaps(none, none, none), iou=1.5)


def test_objects_are_measured_as_a_whole_array_would_be(store):
    rng = np.random.default_rng(4)
    truth = np.zeros((9, 21, 23), np.uint8)
    ids = np.zeros((9, 21, 23), np.uint32)
    for number in range(1, 9):
        z, y, x = rng.integers(0, (7, 18, 20))
        ids[z : z + 2, y : y + 3, x : x + 3] = number * 3
        truth[z : z + 2, y + 1 : y + 3, x : x + 2] = 255
    t = store("t.zarr", truth, offset=(80.0, 0.0, 50.0))
    o = store("o.zarr", ids, offset=(80.0, 0.0, 50.0))
    measured = measure_objects(t, o)
    from scipy import ndimage

    labels, n = ndimage.label(truth, np.ones((3, 3, 3)))
    assert len(measured.truth) == n
    for label_id in np.unique(ids)[1:]:
        row = measured.predicted.ids.tolist().index(label_id)
        where = np.argwhere(ids == label_id)
        assert measured.predicted.voxels[row] == len(where)
        expected = where.mean(0) * (40, 10, 10) + (80, 0, 50)
        np.testing.assert_allclose(measured.predicted.centroids[row], expected)
    # overlap counts, through the centroids' names
    pairs = np.unique(np.stack([labels.ravel(), ids.ravel()])[:, (labels > 0).ravel() & (ids > 0).ravel()], axis=1)
    assert len(measured.overlaps.voxels) == pairs.shape[1]
    assert measured.overlaps.voxels.sum() == ((labels > 0) & (ids > 0)).sum()


def test_an_object_cut_by_the_region_counts_where_its_centroid_lies(store):
    labels = np.zeros((1, 9, 40), np.uint16)
    labels[0, 2:5, 8:14] = 1  # centroid x 10.5: inside x < 12
    labels[0, 6:8, 10:20] = 2  # centroid x 14.5: outside
    truth, objects = store("t.zarr", labels), store("o.zarr", labels)
    measured = measure_objects(truth, objects, region=Box((0, 0, 0), (1, 9, 12)))
    assert measured.truth.counted.tolist() == [True, False]
    assert measured.truth.voxels.tolist() == [18, 20]
    alone = measure_objects(truth, objects, region=Box((0, 0, 0), (1, 9, 12)), context_nm=0)
    assert alone.truth.voxels.tolist() == [12, 4]
    assert "0:1,0:9,0:12" in alone.note


def test_label_ids_make_objects_and_a_mask_makes_components(store):
    mask = np.zeros((1, 1, 9), np.uint16)
    mask[0, 0, [0, 1, 4, 8]] = 7
    ids = mask.copy()
    ids[0, 0, 8] = 9
    one_object = store("o.zarr", mask, attributes={"kind": "objects"})
    assert len(measure_objects(store("t1.zarr", mask), one_object).truth) == 3
    assert len(measure_objects(store("t2.zarr", ids), one_object).truth) == 2
    assert len(measure_objects(store("t2.zarr", ids, overwrite=True), one_object).predicted) == 1


def test_an_8_bit_mask_of_mixed_values_is_no_id_volume(store):
    mask = np.zeros((1, 1, 9), np.uint8)
    mask[0, 0, [1, 2, 3, 7]] = [1, 227, 255, 254]
    measured = measure_objects(store("t.zarr", mask), store("o.zarr", mask))
    assert measured.truth.voxels.tolist() == [3, 1]
    assert measured.predicted.voxels.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        ([1, 2, 2, 5], [1, 2, 1]),  # labels that were saved as floats
        ([1, 1, 1, 1], [3, 1]),
        ([0.4, 0.8, 0.8, 0.4], [3, 1]),
        ([1, 2, 2, 0.5], [3, 1]),
        ([1, 2, np.inf, 2], [3, 1]),
        ([1, np.nan, 2, 2], [1, 2]),
    ],
)
def test_floats_are_ids_where_all_are_whole_numbers(store, values, sizes):
    truth = np.zeros((1, 1, 9), np.float32)
    truth[0, 0, [1, 2, 3, 7]] = values
    one_object = store("o.zarr", np.ones((1, 1, 9), np.uint32))
    assert measure_objects(store("t.zarr", truth), one_object).truth.voxels.tolist() == sizes


def test_predictions_where_the_truth_ignores_are_no_objects(store):
    truth = np.full((1, 4, 8), 0xFFFFFFFFFFFFFFFF, np.uint64)
    truth[0, :, 4:] = 0xFFFFFFFFFFFFFFFD
    truth[0, 0, 0] = 5
    objects = np.zeros((1, 4, 8), np.uint32)
    objects[0, 0, :2] = 1
    objects[0, 2:, 5:] = 2
    measured = measure_objects(store("t.zarr", truth), store("o.zarr", objects))
    assert measured.truth.ids.tolist() == [1]  # a single id is a mask: its components
    assert measured.predicted.ids.tolist() == [1]


def test_floats_are_no_objects(store):
    with pytest.raises(SynbbError, match="integer labels"):
        measure_objects(store("t.zarr", np.ones((1, 2, 2), np.uint8)), store("o.zarr", np.ones((1, 2, 2), np.float32)))


def test_tables_grow_with_the_objects_and_not_with_the_blocks(store, monkeypatch):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (8, 40, 40)).astype(np.uint16) * rng.integers(0, 2, (8, 40, 40), np.uint16)
    others = rng.integers(0, 4, ids.shape).astype(np.uint32)
    truth, objects = store("t.zarr", ids), store("o.zarr", others, attributes={"kind": "objects"})
    whole = measure_objects(truth, objects)
    monkeypatch.setattr(object_tables, "KEPT_ROWS", 4)
    monkeypatch.setattr(object_tables, "reading_block", lambda volume: (2, 7, 9))
    rows, read = [], []
    add, kind = object_tables._Collected._add, type(truth)
    real = kind.read

    def watched_add(self, *arguments):
        add(self, *arguments)
        rows.append(sum(len(keys) for keys in self.keys))

    def watched_read(self, box):
        read.append(box.size)
        return real(self, box)

    monkeypatch.setattr(object_tables._Collected, "_add", watched_add)
    monkeypatch.setattr(kind, "read", watched_read)
    parts = measure_objects(truth, objects)
    assert len(rows) == 3 * 4 * 6 * 5
    assert max(rows) <= 3 * 2 * 3  # pairs of ids; what waits is at most twice as much
    assert max(read) == 2 * 7 * 9
    for one, other in (
        (whole.truth, parts.truth),
        (whole.predicted, parts.predicted),
        (whole.overlaps, parts.overlaps),
    ):
        for name in one.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    pairs, voxels = np.unique(np.stack([ids, others])[:, (ids > 0) & (others > 0)], axis=1, return_counts=True)
    np.testing.assert_array_equal(np.stack([whole.overlaps.truth, whole.overlaps.predicted]) + 1, pairs)
    np.testing.assert_array_equal(whole.overlaps.voxels, voxels)
