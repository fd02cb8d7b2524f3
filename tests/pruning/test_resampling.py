"""Counts that scores are made of again."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from synbb.errors import SynbbError
from synbb.pruning.resampling import Resampled, load_resampled, save_resampled


def histogram(bins: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    return np.stack([np.bincount(bins[truth == side], minlength=count) for side in (1, 0)])


def test_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    tiles = []
    everything = []
    for _ in range(7):
        truth = (rng.random(500) < 0.1).astype(int)
        bins = np.clip(rng.normal(20 + 8 * truth, 6), 0, 49).astype(int)
        tiles.append(histogram(bins, truth, 50))
        everything.append((bins, truth))
    counts = Resampled("average_precision", {"tiles": np.stack(tiles)})
    bins, truth = (np.concatenate(each) for each in zip(*everything, strict=True))
    assert counts.score() == pytest.approx(average_precision_score(truth, bins), abs=1e-12)
    drawn = np.array([[2, 0, 0, 1, 0, 0, 3], [0, 1, 1, 1, 1, 1, 1]])
    for row, score in zip(drawn, counts.scores({"tiles": drawn}), strict=True):
        bins, truth = (
            np.concatenate([each[i] for each, n in zip(everything, row, strict=True) for _ in range(n)]) for i in (0, 1)
        )
        assert score == pytest.approx(average_precision_score(truth, bins), abs=1e-12)


def test_f1_and_ratio_by_hand() -> None:
    # Objects: found, found, missed. False positives by tile: 1 and 0.
    objects = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]])
    tiles = np.array([[0, 1, 0], [0, 0, 0]])
    f1 = Resampled("f1", {"objects": objects, "tiles": tiles})
    assert f1.score() == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    draws = {"objects": np.array([[3, 0, 0], [0, 0, 3]]), "tiles": np.array([[0, 2], [2, 0]])}
    assert f1.scores(draws) == pytest.approx([1.0, 0.0])
    ratio = Resampled("ratio", {"objects": np.array([[1, 2], [0, 1]])})
    assert ratio.score() == pytest.approx(1 / 3)
    assert np.isnan(ratio.scores({"objects": np.array([[0, 0]])}))[0]


def test_word_accuracy_by_hand() -> None:
    # Errors and words of two utterances; much was inserted into the second.
    accuracy = Resampled("word_accuracy", {"utterances": np.array([[1, 4], [3, 2]])})
    assert accuracy.score() == pytest.approx(1 - 4 / 6)
    assert accuracy.scores({"utterances": np.array([[2, 0], [0, 2], [1, 1]])}) == pytest.approx([0.75, -0.5, 1 / 3])
    assert np.isnan(accuracy.scores({"utterances": np.array([[0, 0]])}))[0]
    with pytest.raises(SynbbError, match=r"for word_accuracy have shape \(4, 3\), not \(units, 2\)"):
        Resampled("word_accuracy", {"utterances": np.zeros((4, 3))})


def test_stored_and_read(tmp_path: Path) -> None:
    given = {
        "a": Resampled("f1", {"x": np.eye(3, dtype=int), "y": np.zeros((0, 3))}),
        "b": Resampled("ratio", {"x": np.ones((4, 2))}),
    }
    save_resampled(tmp_path / "below" / "counts.npz", given, "abc")
    found, config_hash = load_resampled(tmp_path / "below" / "counts.npz")
    assert config_hash == "abc"
    assert found.keys() == given.keys()
    for name, each in given.items():
        assert found[name].kind == each.kind
        assert all(np.array_equal(found[name].parts[part], counts) for part, counts in each.parts.items())


def test_files_that_hold_no_counts(tmp_path: Path) -> None:
    file = tmp_path / "counts.npz"
    save_resampled(file, {"a": Resampled("f1", {"x": np.arange(3000).reshape(-1, 3)})})
    stored = bytearray(file.read_bytes())
    damaged = stored[:]
    damaged[len(stored) // 2] ^= 0xFF
    array, other = BytesIO(), BytesIO()
    np.save(array, np.zeros(3))
    np.savez(other, bogus=np.zeros(3))
    foreign = BytesIO()
    np.savez(foreign, **{"a/auc/x": np.zeros((3, 3))})
    contents = [b"PK nothing", b"", stored[: len(stored) // 2], damaged, *(each.getvalue() for each in (array, other))]
    for content in [*contents, foreign.getvalue()]:
        file.write_bytes(content)
        with pytest.raises(SynbbError, match=r"counts.npz: counts of a run cannot be read .*; remove the file"):
            load_resampled(file)


def test_counts_that_do_not_fit() -> None:
    with pytest.raises(SynbbError, match="kind 'auc': kinds are average_precision, equal_error, error_rate, f1"):
        Resampled("auc", {})
    with pytest.raises(SynbbError, match=r"counts of 'tiles' for f1 have shape \(4, 2\), not \(units, 3\)"):
        Resampled("f1", {"tiles": np.zeros((4, 2))})
