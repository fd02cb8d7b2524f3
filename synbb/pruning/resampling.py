"""What a score was counted from, by resampling unit, so that a bootstrap can count it again.

A score like an average precision is no mean over objects: it must be computed anew from the counts of the units that
a bootstrap has drawn. A :class:`Resampled` keeps those counts, one row a unit, in parts that are drawn independently
(tiles of a volume, annotated objects, utterances).
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError
from synbb.pruning.rows import HASH

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats = NDArray[np.float64]

SHAPES = {
    "average_precision": (2, None),
    "roc_auc": (2, None),
    "equal_error": (2, None),
    "f1": (3,),
    "ratio": (2,),
    "error_rate": (2,),
    "word_accuracy": (2,),
}
"""Kind of score → shape of the counts of one unit; None is any length."""

SMALLER_IS_BETTER = frozenset({"equal_error", "error_rate"})
"""Kinds of which a lower score is the better one."""

TOGETHER = 250
"""Bootstrap samples that are counted at once, to bound memory."""


@dataclass(frozen=True)
class Resampled:
    """Counts of one score.

    Attributes:
        kind: ``average_precision``, ``roc_auc`` and ``equal_error`` (rate) of histograms (positives, negatives) x bins,
            lowest score first; ``f1`` of true positives, false positives, false negatives; ``ratio`` of numerator and
            denominator; ``error_rate`` of errors and reference words; ``word_accuracy``, 1 less that, which may be
            negative.
        parts: name of the resampling unit → counts (units, *shape of the kind). Parts are summed.

    Raises:
        SynbbError: the kind is unknown, or the counts of a part have another shape.
    """

    kind: str
    parts: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        if self.kind not in SHAPES:
            raise SynbbError(f"a resampled score of kind {self.kind!r}: kinds are {', '.join(sorted(SHAPES))}")
        wanted = SHAPES[self.kind]
        for name, counts in self.parts.items():
            shape = counts.shape[1:]
            if len(shape) != len(wanted) or any(w not in (None, n) for n, w in zip(shape, wanted, strict=True)):
                raise SynbbError(
                    f"counts of {name!r} for {self.kind} have shape {counts.shape}, not (units, "
                    f"{', '.join('bins' if w is None else str(w) for w in wanted)})"
                )

    @property
    def units(self) -> dict[str, int]:
        """Number of units of each part."""
        return {name: len(counts) for name, counts in self.parts.items()}

    def score(self) -> float:
        """The score of all units; nan where it has no meaning."""
        totals = sum(counts.sum(axis=0, dtype=np.float64) for counts in self.parts.values())
        return float(score_of(self.kind, np.asarray(totals)[None])[0])

    def scores(self, draws: Mapping[str, NDArray[Any]]) -> Floats:
        """The score of each of n bootstrap samples.

        Args:
            draws: name of a part → (n, units) how often each unit was drawn.

        Returns:
            (n,) scores; nan where one has no meaning.
        """
        length = len(next(iter(draws.values())))
        found = [
            self._scores({name: each[i : i + TOGETHER] for name, each in draws.items()})
            for i in range(0, length, TOGETHER)
        ]
        return np.concatenate(found)

    def _scores(self, draws: Mapping[str, NDArray[Any]]) -> Floats:
        totals: Any = 0.0
        for name, counts in self.parts.items():
            flat = counts.reshape(len(counts), -1).astype(np.float64)
            totals = totals + (draws[name].astype(np.float64) @ flat).reshape(-1, *counts.shape[1:])
        return score_of(self.kind, totals)


def score_of(kind: str, totals: Floats) -> Floats:
    """Scores of summed counts.

    Args:
        kind: of the score.
        totals: (n, *shape of the kind).

    Returns:
        (n,) float64. Average precision is that of scikit-learn's ``average_precision_score``: the sum of
        (R_k - R_(k-1)) P_k over thresholds from high to low, the members of one bin being ties. The area under the ROC
        curve is by trapezoids, that of scikit-learn's ``roc_auc_score``; the equal error rate lies where a straight
        line between two neighbouring thresholds has as many false rejections as false acceptances.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if kind == "average_precision":
            positives, everything = totals[:, 0, ::-1], totals.sum(axis=1)[:, ::-1]
            found, chosen = positives.cumsum(axis=1), everything.cumsum(axis=1)
            precision = found / np.where(chosen > 0, chosen, 1)
            return np.asarray((positives * precision).sum(axis=1) / found[:, -1])
        if kind in ("roc_auc", "equal_error"):
            above = totals[:, :, ::-1].cumsum(axis=2)
            accepted = np.pad(above, ((0, 0), (0, 0), (1, 0))) / above[:, :, -1:]
            return _area(accepted) if kind == "roc_auc" else _equal_error(accepted)
        if kind == "f1":
            true, wrong, missed = totals.T
            return np.asarray(2 * true / (2 * true + wrong + missed))
        ratio = np.asarray(totals[:, 0] / totals[:, 1])
        return 1 - ratio if kind == "word_accuracy" else ratio


def _area(accepted: Floats) -> Floats:
    """Area under true over false acceptance, (n, 2, thresholds) from the strictest on."""
    true, false = accepted[:, 0], accepted[:, 1]
    return np.asarray((np.diff(false, axis=1) * (true[:, 1:] + true[:, :-1]) / 2).sum(axis=1))


def _equal_error(accepted: Floats) -> Floats:
    """Error rate where false acceptance has risen to false rejection; nan where either has no meaning."""
    gap = accepted[:, 1] - (1 - accepted[:, 0])  # from -1 at the strictest threshold to 1 at the laxest
    after = np.argmax(gap >= 0, axis=1)
    rows = np.arange(len(gap))
    before = np.maximum(after - 1, 0)
    step = gap[rows, after] - gap[rows, before]
    part = np.where(step > 0, -gap[rows, before] / np.where(step > 0, step, 1), 0.0)
    low, high = accepted[rows, 1, before], accepted[rows, 1, after]
    return np.asarray(np.where(np.isnan(gap[:, -1]), np.nan, low + part * (high - low)))


def interval(counts: Resampled, replicates: int = 2000, seed: int = 0, level: float = 0.05) -> tuple[float, float]:
    """Percentile bootstrap interval of one score over its units; what varies with the seed of training is not in it.

    Returns:
        Both ends; nan where there are no units to draw from, or no more than one.
    """
    if sum(counts.units.values()) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    draws = {name: rng.multinomial(n, np.full(n, 1 / n), size=replicates) for name, n in counts.units.items() if n}
    if len(draws) < len(counts.units):
        return float("nan"), float("nan")
    low, high = np.nanquantile(counts.scores(draws), [level / 2, 1 - level / 2])
    return float(low), float(high)


def save_resampled(path: Path, scores: Mapping[str, Resampled], config_hash: str = "") -> None:
    """Store counts as one compressed npz, atomically.

    Args:
        path: of the file.
        scores: name → counts.
        config_hash: of the settings of the run that they are of.
    """
    arrays = {
        f"{name}/{each.kind}/{part}": counts for name, each in scores.items() for part, counts in each.parts.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{HASH: np.asarray(config_hash)}, **arrays)  # type: ignore[arg-type]  # names hold slashes
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(buffer.getbuffer())
    beside.replace(path)


def load_resampled(path: Path) -> tuple[dict[str, Resampled], str]:
    """What :func:`save_resampled` stored.

    Returns:
        Name → counts, and the hash of the run's settings; empty where none was given.

    Raises:
        SynbbError: the file is missing or damaged.
    """
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        config_hash = str(arrays.pop(HASH, ""))
        found: dict[str, tuple[str, dict[str, NDArray[Any]]]] = {}
        for key, counts in arrays.items():
            name, kind, part = key.split("/")
            found.setdefault(name, (kind, {}))[1][part] = counts
        return {name: Resampled(kind, parts) for name, (kind, parts) in found.items()}, config_hash
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error, SynbbError) as error:
        raise SynbbError(f"{path}: counts of a run cannot be read ({error}); remove the file") from None
