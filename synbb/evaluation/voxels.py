"""Voxel scores from streaming histograms: precision, recall, F1 and the area under the precision-recall curve.

Nothing here needs a volume in memory: two counts a bin (foreground and background of the truth) hold every score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError
from synbb.evaluation.labels import Mask, foreground_and_valid
from synbb.evaluation.thresholds import UINT8_LEVELS, check_dtype, check_range, check_threshold, lowest_uint8
from synbb.evaluation.window import Window, common_window, reading_block
from synbb.volumes.box import BlockGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from synbb.volumes.box import Box
    from synbb.volumes.volume import Volume

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class VoxelScores:
    """Precision, recall and F1 at one threshold; None where the ratio is 0 / 0."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    true_positives: int
    false_positives: int
    false_negatives: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve over the thresholds that occur, ascending; three arrays of one length."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class FloatBins:
    """786,434 bins of [0, 1] that are finer the nearer they are to 0 and to 1, where networks put most voxels.

    They are floating-point numbers cut to 14 binary digits, of p below 0.5 and of 1 - p from there on: 16,384 bins for
    each halving of the distance to 0 or 1, down to 2**-25, nearer than float32 comes to 1. Equal bins of this number
    would hold a saturated network's voxels in a few. With some thousand voxels of foreground the area under the curve
    was that of scikit-learn to 1e-4; with 300, voxels that share a bin moved it by up to 3e-4.
    """

    DIGITS = 14
    HALVINGS = 24
    HALF = HALVINGS << DIGITS

    @classmethod
    def of(cls, probabilities: NDArray[Any]) -> NDArray[np.int64]:
        """The bin of each probability, floats in [0, 1] of any shape."""
        values = np.asarray(probabilities, np.result_type(probabilities.dtype, np.float32))
        integer, digits, bias = {4: (np.int32, 23, 127), 8: (np.int64, 52, 1023)}[values.dtype.itemsize]
        high = values >= 0.5
        distance = np.where(high, 1 - values, values)  # exact
        # A float's bits, read as an integer, ascend with it. A bin holds its lower edge: above 0.5 that is the largest
        # distance, so there the bits are those of the float just below.
        bits = distance.view(integer) - high
        bins = (bits >> (digits - cls.DIGITS)) - ((bias - cls.HALVINGS - 1) << cls.DIGITS)
        np.maximum(bins, -1, out=bins)
        return np.asarray(np.where(high, 2 * cls.HALF - bins, bins + 1), np.int64)

    @classmethod
    def levels(cls) -> NDArray[np.float64]:
        """The lower edge of each bin, ascending."""
        number = np.arange(cls.HALF + 1)
        halving, place = number >> cls.DIGITS, number & ((1 << cls.DIGITS) - 1)
        distances = np.ldexp(1 + place / 2**cls.DIGITS, halving - cls.HALVINGS - 1)
        return np.concatenate([[0.0], distances[:-1], 1 - distances[::-1]])


class ScoreHistogram:
    """Counts of truth foreground and background for each probability.

    uint8 probabilities (value / 255) have one bin a value, so every score is exact. Floats in [0, 1] share the bins of
    :class:`FloatBins`, each standing for its lower edge: values in one bin count as ties, and a threshold between two
    edges is moved up to the next one (at most 1.6e-5, and less near 0 and 1).

    Args:
        dtype: type of the probabilities that will be added, uint8 or a float.

    Attributes:
        positives: (bins,) int64, voxels of the truth's foreground.
        negatives: (bins,) int64, voxels of its background.
        ignored: voxels left out by ``valid``.
        levels: (bins,) float64, the lowest probability of each bin.
    """

    def __init__(self, dtype: Any = np.uint8) -> None:
        kind = np.dtype(dtype)
        check_dtype(kind)
        self.exact = kind == np.uint8
        self.levels = UINT8_LEVELS if self.exact else FloatBins.levels()
        self.positives = np.zeros(len(self.levels), np.int64)
        self.negatives = np.zeros(len(self.levels), np.int64)
        self.ignored = 0

    def add(
        self, probabilities: NDArray[Any], truth: Mask, valid: Mask | None = None, name: str = "probabilities"
    ) -> None:
        """Count voxels.

        Args:
            probabilities: any shape, of the histogram's kind (uint8, or floats in [0, 1]).
            truth: the same shape, boolean.
            valid: the same shape, False where a voxel is not to be scored.
            name: of the probabilities, for messages.

        Raises:
            SynbbError: shapes or types differ, or a float that is scored is NaN or outside [0, 1].
        """
        if probabilities.shape != truth.shape or (valid is not None and valid.shape != truth.shape):
            shapes = [probabilities.shape, truth.shape] + ([] if valid is None else [valid.shape])
            raise SynbbError(f"probabilities, truth and valid differ in shape: {', '.join(map(str, shapes))}")
        check_dtype(probabilities.dtype, name)
        if (probabilities.dtype == np.uint8) != self.exact:
            raise SynbbError(f"a histogram for {'uint8' if self.exact else 'floats'} was given {probabilities.dtype}")
        if valid is not None and not valid.all():
            self.ignored += int(valid.size - np.count_nonzero(valid))
            probabilities, truth = probabilities[valid], truth[valid]
        check_range(probabilities, name)
        count = len(self.levels)
        bins = probabilities if self.exact else FloatBins.of(probabilities)
        everything = np.bincount(bins.ravel(), minlength=count)
        positives = np.bincount(bins[truth], minlength=count)
        self.positives += positives
        self.negatives += everything - positives

    def merge(self, other: ScoreHistogram) -> None:
        """Add another histogram's counts to this one's.

        Raises:
            SynbbError: one is for uint8 and the other for floats.
        """
        if self.exact != other.exact:
            raise SynbbError("a histogram for uint8 and one for floats cannot be merged")
        self.positives += other.positives
        self.negatives += other.negatives
        self.ignored += other.ignored

    @property
    def total(self) -> int:
        """Voxels scored."""
        return int(self.positives.sum() + self.negatives.sum())

    @property
    def truth_voxels(self) -> int:
        """Voxels of the truth's foreground among the scored ones."""
        return int(self.positives.sum())

    @property
    def prevalence(self) -> float | None:
        """Share of foreground among the scored voxels: the average precision of a random guess."""
        return self.truth_voxels / self.total if self.total else None

    @property
    def explanation(self) -> str | None:
        """Why there is no average precision, None when there is one."""
        if not self.total:
            return "no voxel was scored"
        if not self.truth_voxels:
            return f"none of the {self.total:,} scored voxels is foreground in the truth, so recall has no meaning"
        return None

    def average_precision(self) -> float | None:
        """Area under the precision-recall curve as scikit-learn's ``average_precision_score`` defines it.

        The sum of (R_n - R_(n-1)) P_n over thresholds from high to low, without interpolation; equal probabilities
        are one threshold. None without foreground in the truth; :attr:`explanation` then says so.
        """
        if not self.truth_voxels:
            return None
        found = np.cumsum(self.positives[::-1])
        chosen = found + np.cumsum(self.negatives[::-1])
        with np.errstate(invalid="ignore"):
            precision = np.where(chosen > 0, found / np.maximum(chosen, 1), 0.0)
        return float((self.positives[::-1] * precision).sum() / self.truth_voxels)

    def curve(self) -> Curve:
        """Precision and recall at every threshold that occurs, ascending. Recall is NaN without foreground."""
        found, chosen = self._at_or_above()
        occurs = np.flatnonzero(self.positives + self.negatives)
        recall = found[occurs] / self.truth_voxels if self.truth_voxels else np.full(len(occurs), np.nan)
        return Curve(found[occurs] / chosen[occurs], recall, self.levels[occurs])

    def at(self, threshold: float) -> VoxelScores:
        """Scores of the foreground p >= threshold.

        Raises:
            SynbbError: the threshold is not in (0, 1].
        """
        value = check_threshold(threshold)
        first = lowest_uint8(value) if self.exact else int(np.searchsorted(self.levels, value))
        # Above the last edge lies only p = 1, and in float64 what rounds to it: the last bin.
        return self._scores(min(first, len(self.levels) - 1), value)

    def best_f1(self) -> VoxelScores | None:
        """Scores at the threshold above 0 with the highest F1, the highest one among equals.

        Chosen on the voxels that it is measured on, hence too good: say so wherever it is shown. None without
        foreground in the truth.
        """
        if not self.truth_voxels:
            return None
        found, chosen = self._at_or_above()
        f1 = 2 * found / (chosen + self.truth_voxels)
        f1[0] = -1.0  # probability 0 is never foreground
        best = len(f1) - 1 - int(np.argmax(f1[::-1]))  # the highest of equal ones is a level that occurs
        return self._scores(best, float(self.levels[best]))

    def _at_or_above(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found = np.cumsum(self.positives[::-1])[::-1]
        return found, found + np.cumsum(self.negatives[::-1])[::-1]

    def _scores(self, first: int, threshold: float) -> VoxelScores:
        found = int(self.positives[first:].sum())
        wrong = int(self.negatives[first:].sum())
        missed = self.truth_voxels - found
        return VoxelScores(
            threshold=threshold,
            precision=found / (found + wrong) if found + wrong else None,
            recall=found / (found + missed) if found + missed else None,
            f1=2 * found / (2 * found + wrong + missed) if found + wrong + missed else None,
            true_positives=found,
            false_positives=wrong,
            false_negatives=missed,
        )


@dataclass(frozen=True)
class VoxelComparison:
    """A histogram and the voxels it was counted on."""

    histogram: ScoreHistogram
    window: Window


def score_volumes(
    probabilities: Volume,
    truth: Volume,
    *,
    region: Box | None = None,
    valid: Volume | None = None,
    window: Window | None = None,
    progress: Progress | None = None,
) -> VoxelComparison:
    """Count probabilities against the truth, chunk by chunk.

    The volumes are placed by offset and voxel size; either may cover only part of the other. Scored is what both (and
    ``valid``) cover within ``region``, less the labels that the truth itself marks as ignored; ``window.note`` of the
    result says which box that was.

    Args:
        probabilities: uint8 (value / 255) or floats in [0, 1].
        truth: labels, foreground as :func:`foreground_and_valid` has it.
        region: voxels of ``truth``; all of it when None.
        valid: a mask, 0 where a voxel is not to be scored.
        window: an already known common window with members ``probabilities`` (and ``valid``), instead of ``region``.
        progress: called with (done, total) blocks.

    Raises:
        SynbbError: the volumes do not share a grid or a voxel, the region leaves the truth, or the values are no
            probabilities.
    """
    check_dtype(probabilities.dtype, probabilities.path)
    if window is None:
        members = {"probabilities": probabilities} | ({} if valid is None else {"valid": valid})
        window = common_window(truth, members, region)
    histogram = ScoreHistogram(probabilities.dtype)
    blocks = BlockGrid(window.truth, reading_block(probabilities), (0, 0, 0))
    for done, block in enumerate(blocks, 1):
        wanted, scored = foreground_and_valid(truth.read(block))
        if valid is not None:
            scored &= valid.read(window.of("valid", block)) > 0
        values = probabilities.read(window.of("probabilities", block))
        histogram.add(values, wanted, scored, probabilities.path)
        if progress is not None:
            progress(done, len(blocks))
    return VoxelComparison(histogram, window)
