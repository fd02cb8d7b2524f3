from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, precision_recall_fscore_support

from synbb.errors import SynbbError
from synbb.evaluation.thresholds import foreground
from synbb.evaluation.voxels import FloatBins, ScoreHistogram, score_volumes
from synbb.volumes import Box


def filled(probabilities: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> ScoreHistogram:
    histogram = ScoreHistogram(probabilities.dtype)
    histogram.add(probabilities, truth, valid)
    return histogram


def sample(seed: int, n: int, levels: int, prevalence: float) -> tuple[np.ndarray, np.ndarray]:
    """uint8 probabilities of few levels (many ties) that know something of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < prevalence
    steps = rng.integers(0, 256, levels)
    return rng.choice(steps, n).astype(np.uint8) // np.where(truth, 1, 2).astype(np.uint8), truth


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 400),
    levels=st.integers(1, 256),
    prevalence=st.floats(0.01, 0.99),
)
def test_uint8_scores_equal_scikit_learns(seed, n, levels, prevalence):
    probabilities, truth = sample(seed, n, levels, prevalence)
    truth[0] = True
    histogram = filled(probabilities, truth)
    assert histogram.average_precision() == pytest.approx(average_precision_score(truth, probabilities), abs=1e-12)
    precision, recall, thresholds = precision_recall_curve(truth, probabilities)
    curve = histogram.curve()
    np.testing.assert_allclose(curve.precision, precision[:-1])
    np.testing.assert_allclose(curve.recall, recall[:-1])
    np.testing.assert_allclose(curve.thresholds, thresholds / 255)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_average_precision_is_close_to_scikit_learns(dtype):
    rng = np.random.default_rng(3)
    truth = rng.random(20_000) < 0.03
    probabilities = (1 / (1 + np.exp(-rng.normal(size=20_000) * 2 - 2 * truth + 3))).astype(dtype)
    histogram = filled(probabilities, truth)
    assert histogram.average_precision() == pytest.approx(average_precision_score(truth, probabilities), abs=1e-4)


@settings(max_examples=12, deadline=None)
@example(seed=1789, scale=1.0, shift=1.0, prevalence=0.01)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.3, 8),
    shift=st.floats(-6, 9),
    prevalence=st.sampled_from([0.01, 0.3]),
)
def test_saturated_and_crowded_floats_are_ranked_too(seed, scale, shift, prevalence):
    """Many within 1e-5 of 0 or of 1, or all crowded about one value (above 3e-8: what lies below shares a bin).

    With some 3,000 voxels of foreground or more; of 300, those that share a bin were seen to move the area by 3e-4.
    """
    rng = np.random.default_rng(seed)
    truth = rng.random(300_000) < prevalence
    logits = scale * (rng.normal(size=truth.size) + 1.5 * truth) + shift
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    histogram = filled(probabilities[:100_000], truth[:100_000])  # in parts, as it streams
    histogram.add(probabilities[100_000:], truth[100_000:])
    assert histogram.average_precision() == pytest.approx(average_precision_score(truth, probabilities), abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_probability_lies_between_the_edges_of_its_bin(dtype):
    levels = FloatBins.levels()
    special = [0, 0.5, 1, 2**-24, 2**-25, 2**-26, 1 - 2**-24, 1 - 2**-25, 1 - 2**-26, 0.1, 1e-30]
    values = np.concatenate([special, levels[::41], np.random.default_rng(0).random(10_000)]).astype(dtype)
    values = np.concatenate([values, np.nextafter(values, dtype(0)), np.nextafter(values, dtype(1))])
    bins = FloatBins.of(values)
    assert (levels[bins] <= values.astype(float)).all()
    assert (values.astype(float) < np.append(levels[1:], np.inf)[bins]).all()
    assert np.diff(levels).min() > 0
    assert np.diff(levels).max() <= 2**-16


@pytest.mark.parametrize(
    ("dtype", "threshold"),
    [(np.uint8, t) for t in (1 / 255, 0.25, 0.5, 128 / 255, 200 / 255, 1.0)]
    + [(np.float32, t) for t in (1 / 255, 0.25, 0.5, 128 / 255, 200 / 255)],
)
def test_at_a_threshold_equals_scikit_learn_and_the_one_foreground_rule(dtype, threshold):
    rng = np.random.default_rng(5)
    truth = rng.random(3000) < 0.3
    levels = np.clip(rng.integers(0, 256, 3000) + 40 * truth, 0, 255).astype(np.uint8)
    # 1 / 65536 steps, so that bins do not move the threshold
    probabilities = levels if dtype == np.uint8 else (np.rint(levels / 255 * 65536) / 65536).astype(np.float32)
    threshold = threshold if dtype == np.uint8 else np.rint(threshold * 65536) / 65536
    chosen = foreground(probabilities, threshold)
    assert 0 < chosen.sum() < chosen.size
    precision, recall, f1, _ = precision_recall_fscore_support(truth, chosen, average="binary")
    scores = filled(probabilities, truth).at(threshold)
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((precision, recall, f1))


def test_half_of_what_is_found_and_half_of_what_is_there():
    scores = filled(np.array([200, 200, 0, 0], np.uint8), np.array([1, 0, 1, 0], bool)).at(0.5)
    assert (scores.precision, scores.recall, scores.f1) == (0.5, 0.5, 0.5)


def test_best_f1_is_the_best_of_all_thresholds():
    probabilities, truth = sample(7, 500, 40, 0.2)
    histogram = filled(probabilities, truth)
    best = histogram.best_f1()
    every = [histogram.at(level / 255).f1 for level in range(1, 256)]
    assert best.f1 == max(every)
    assert best.threshold == max(level / 255 for level in range(1, 256) if every[level - 1] == max(every))
    assert histogram.at(best.threshold) == best


def test_a_threshold_that_went_through_float32_or_print_means_the_same_level():
    probabilities = np.arange(256, dtype=np.uint8)
    for level in range(1, 256):
        for stored in (level / 255, float(np.float32(level / 255)), float(f"{level / 255:.7f}")):
            assert foreground(probabilities, stored).sum() == 256 - level


def test_no_positives_gives_no_number_but_an_explanation():
    histogram = filled(np.array([3, 200], np.uint8), np.array([False, False]))
    assert histogram.average_precision() is None
    assert histogram.best_f1() is None
    assert "none of the 2 scored voxels is foreground" in histogram.explanation
    assert histogram.at(0.5).precision == 0
    assert histogram.at(0.5).recall is None
    assert histogram.at(0.9).f1 is None  # nothing there and nothing found
    assert "no voxel" in ScoreHistogram().explanation


def test_ignored_voxels_do_not_count_and_parts_merge_to_the_whole():
    rng = np.random.default_rng(0)
    probabilities, truth = rng.integers(0, 256, (6, 7, 8), np.uint8), rng.random((6, 7, 8)) < 0.3
    valid = rng.random((6, 7, 8)) < 0.8
    whole = filled(probabilities, truth, valid)
    assert whole.average_precision() == pytest.approx(average_precision_score(truth[valid], probabilities[valid]))
    assert whole.ignored == (~valid).sum()
    first, second = (filled(probabilities[s], truth[s], valid[s]) for s in (slice(0, 2), slice(2, 6)))
    first.merge(second)
    np.testing.assert_array_equal(first.positives, whole.positives)
    np.testing.assert_array_equal(first.negatives, whole.negatives)
    assert first.ignored == whole.ignored
    assert whole.prevalence == pytest.approx(truth[valid].mean())


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.array([0.2, np.nan], np.float32), "not probabilities"),
        (np.array([-3.0, 4.0], np.float32), "logits"),
        (np.array([1, 2], np.int64), "int64"),
        (np.array([1, 2, 3], np.uint8), "differ in shape"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities, message):
    kind = probabilities.dtype if np.issubdtype(probabilities.dtype, np.floating) else np.uint8
    with pytest.raises(SynbbError, match=message):
        ScoreHistogram(kind).add(probabilities, np.array([True, False]))


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, float("nan"), 128])
def test_a_threshold_outside_0_to_1_is_refused(threshold):
    with pytest.raises(SynbbError, match=r"above 0 and at most 1"):
        filled(np.array([1], np.uint8), np.array([True])).at(threshold)


def test_kinds_do_not_mix():
    with pytest.raises(SynbbError, match="merged"):
        ScoreHistogram(np.uint8).merge(ScoreHistogram(np.float32))
    with pytest.raises(SynbbError, match="was given float32"):
        ScoreHistogram(np.uint8).add(np.zeros(1, np.float32), np.zeros(1, bool))


def test_volumes_are_scored_where_they_overlap_in_the_world(store):
    rng = np.random.default_rng(1)
    truth = (rng.random((9, 20, 22)) < 0.2).astype(np.uint8) * 255
    probabilities = rng.integers(0, 256, (6, 25, 10), np.uint8)
    # voxel (0, 0, 0) of the probabilities is voxel (5, -3, 4) of the truth
    p = store("p.zarr", probabilities, offset=(5 * 40.0, -3 * 10.0, 4 * 10.0))
    t = store("t.zarr", truth)
    result = score_volumes(p, t)
    expected_truth, expected_p = truth[5:9, 0:20, 4:14] > 0, probabilities[0:4, 3:23, 0:10]
    assert result.window.truth == Box((5, 0, 4), (9, 20, 14))
    assert result.histogram.average_precision() == pytest.approx(
        average_precision_score(expected_truth.ravel(), expected_p.ravel())
    )
    assert "5:9,0:20,4:14" in result.window.note
    assert "probabilities cover" in result.window.note
    part = score_volumes(p, t, region=Box((6, 2, 0), (9, 9, 22)))
    assert part.window.truth == Box((6, 2, 4), (9, 9, 14))
    assert part.histogram.average_precision() == pytest.approx(
        average_precision_score((truth[6:9, 2:9, 4:14] > 0).ravel(), probabilities[1:4, 5:12, 0:10].ravel())
    )


def test_cremi_labels_and_a_valid_mask_are_left_out(store):
    rng = np.random.default_rng(2)
    truth = np.full((4, 9, 9), 0xFFFFFFFFFFFFFFFF, np.uint64)
    truth[1:3, 2:5, 2:5] = 17
    truth[0, :2] = 0xFFFFFFFFFFFFFFFE
    probabilities = rng.integers(0, 256, truth.shape, np.uint8)
    mask = np.ones(truth.shape, np.uint8)
    mask[:, :, 7:] = 0
    result = score_volumes(store("p.zarr", probabilities), store("t.zarr", truth), valid=store("v.zarr", mask))
    counted = (truth != 0xFFFFFFFFFFFFFFFE) & (mask > 0)
    assert result.histogram.total == counted.sum()
    assert result.histogram.average_precision() == pytest.approx(
        average_precision_score((truth == 17)[counted], probabilities[counted])
    )


@pytest.mark.parametrize(
    ("options", "region", "message"),
    [
        ({}, Box((0, 0, 0), (4, 9, 10)), "does not lie inside"),
        ({}, Box((1, 1, 1), (1, 5, 5)), "does not lie inside"),
        ({"offset": (0.0, 50.0, 0.0)}, Box((0, 0, 0), (4, 4, 9)), "no voxel in common"),
        ({"offset": (0.0, 5.0, 0.0)}, None, "between the voxels"),
        ({"offset": (4000.0, 0.0, 0.0)}, None, "do not overlap"),
        ({"voxel_size": (40.0, 5.0, 5.0)}, None, "voxel sizes"),
    ],
)
def test_volumes_that_do_not_fit_are_refused(store, options, region, message):
    truth = store("t.zarr", np.ones((4, 9, 9), np.uint8))
    probabilities = store("p.zarr", np.ones((4, 9, 9), np.uint8), **options)
    with pytest.raises(SynbbError, match=message):
        score_volumes(probabilities, truth, region=region)
