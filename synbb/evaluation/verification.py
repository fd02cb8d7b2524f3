"""Who is it, and are these two the same: scores of face identification and verification from embeddings.

Similarities are cosines; the embeddings of all functions here are unit vectors, one a row. Definitions follow
Phillips, Grother and Micheals, *Evaluation Methods in Face Recognition* (Handbook of Face Recognition, 2011): a
*genuine* pair shows one identity, an *impostor* pair two; a probe is *known* when its identity is in the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]

BINS = 4000
"""Cosines are counted in equal bins from -1 to 1, 0.0005 wide."""

ROWS = 256
"""Images that are compared with all others at once."""


@dataclass(frozen=True)
class Ranking:
    """What a gallery says of each probe.

    Attributes:
        best: row of the most similar gallery entry.
        similarity: its cosine.
        correct: whether it is of the probe's identity.
        known: whether the gallery holds that identity at all.
    """

    best: Integers
    similarity: Floats
    correct: NDArray[np.bool_]
    known: NDArray[np.bool_]

    @property
    def rank_1(self) -> float:
        """Share of the known probes that are named right; nan without any."""
        return float(self.correct[self.known].mean()) if self.known.any() else float("nan")

    def threshold_at(self, false_alarms: float) -> float:
        """The smallest cosine at which at most this share of the unknown probes is named; nan without any."""
        unknown = np.sort(self.similarity[~self.known])[::-1]
        if not len(unknown):
            return float("nan")
        allowed = int(np.floor(false_alarms * len(unknown) + 1e-9))
        return float("-inf") if allowed >= len(unknown) else float(np.nextafter(unknown[allowed], np.inf))

    def even_threshold(self) -> float:
        """The cosine at which as many unknown probes are named as known ones are not, or wrongly; nan without either.

        It lies above that of pairs, and the more so the larger the gallery is: a stranger is compared with everybody,
        and looks like somebody. Halfway between two probes; of several as even, where the fewest errors are.
        """
        known, unknown = np.sort(self.similarity[self.known & self.correct]), np.sort(self.similarity[~self.known])
        if not len(unknown) or not self.known.any():
            return float("nan")
        at = np.unique(self.similarity)
        between = np.concatenate([at[:1] - 1, (at[:-1] + at[1:]) / 2, at[-1:] + 1])
        missed = 1 - (len(known) - np.searchsorted(known, between)) / self.known.sum()
        named = (len(unknown) - np.searchsorted(unknown, between)) / len(unknown)
        order = np.lexsort((missed + named, np.round(np.abs(missed - named), 12)))
        return float(between[order[0]])

    def identified_at(self, threshold: float) -> float:
        """Detection and identification rate: share of the known probes that are named, and right.

        It is nan without any, and where the threshold is, for want of unknown probes.
        """
        if not self.known.any() or np.isnan(threshold):
            return float("nan")
        named = self.correct & (self.similarity >= threshold)
        return float(named[self.known].mean())

    def alarms_at(self, threshold: float) -> float:
        """Share of the unknown probes that are named all the same; nan without any."""
        unknown = ~self.known
        return float((self.similarity[unknown] >= threshold).mean()) if unknown.any() else float("nan")


def rank(gallery: Floats, gallery_names: Sequence[str], probes: Floats, names: Sequence[str]) -> Ranking:
    """Name each probe by the most similar entry of a gallery, the first of equals.

    Args:
        gallery: (entries, size).
        gallery_names: identity of each.
        probes: (probes, size).
        names: their true identities.

    Raises:
        SynbbError: an empty gallery, or embeddings of another size.
    """
    if not len(gallery):
        raise SynbbError("the gallery is empty: enroll at least one identity")
    if gallery.shape[1] != probes.shape[1]:
        raise SynbbError(
            f"the gallery holds embeddings of {gallery.shape[1]} numbers, the probes have {probes.shape[1]}: enroll it "
            "with the same run"
        )
    similarity = probes.astype(np.float64) @ gallery.astype(np.float64).T
    best = similarity.argmax(axis=1)
    there = set(gallery_names)
    return Ranking(
        best=best.astype(np.int64),
        similarity=similarity[np.arange(len(probes)), best],
        correct=np.array([gallery_names[b] == name for b, name in zip(best, names, strict=True)], dtype=bool),
        known=np.array([name in there for name in names], dtype=bool),
    )


def mean_by_identity(embeddings: Floats, names: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """One unit vector an identity, the direction of the mean of its embeddings; identities in sorted order."""
    kept = sorted(set(names))
    rows = {name: number for number, name in enumerate(kept)}
    owner = np.array([rows[name] for name in names], dtype=np.int64)
    sums = np.zeros((len(kept), embeddings.shape[1]))
    np.add.at(sums, owner, embeddings.astype(np.float64))
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12), kept


def pair_histograms(cosines: Floats, genuine: NDArray[np.bool_], unit: Integers, units: int) -> Integers:
    """Counts of pairs by unit, kind and cosine.

    Args:
        cosines: of each pair, shape (pairs,).
        genuine: whether it shows one identity.
        unit: number of the resampling unit that each pair belongs to.
        units: how many there are.

    Returns:
        (units, 2, :data:`BINS`): genuine and impostor pairs, lowest cosine first.
    """
    bins = np.clip(((np.asarray(cosines, np.float64) + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)
    cell = (unit * 2 + ~genuine) * BINS + bins
    return np.bincount(cell, minlength=units * 2 * BINS).reshape(units, 2, BINS).astype(np.int64)


def count_all_pairs(embeddings: Floats, owner: Integers) -> Integers:
    """Histograms of every pair of images, by the identity of the first of the two; memory grows with images, not pairs.

    Args:
        embeddings: (images, size).
        owner: number of each image's identity, 0 to identities - 1.

    Returns:
        (identities, 2, :data:`BINS`), as :func:`pair_histograms`.
    """
    identities = int(owner.max(initial=-1)) + 1
    total = np.zeros((identities, 2, BINS), np.int64)
    wide = embeddings.astype(np.float64)
    for first in range(0, len(wide), ROWS):
        rows = np.arange(first, min(first + ROWS, len(wide)))
        one, other = np.nonzero(rows[:, None] < np.arange(len(wide)))
        cosines = (wide[rows] @ wide.T)[one, other]
        total += pair_histograms(cosines, owner[rows[one]] == owner[other], owner[rows[one]], identities)
    return total


def edge(place: int) -> float:
    """Lowest cosine of a bin of :func:`pair_histograms`."""
    return 2 * place / BINS - 1


def rates(histogram: Integers) -> tuple[Floats, Floats]:
    """Shares of genuine and of impostor pairs that each threshold accepts.

    Args:
        histogram: (2, bins) genuine and impostor pairs, lowest cosine first.

    Returns:
        True and false acceptance with the threshold at the lower edge of bin 0, 1, ..., and beyond the last; both fall.
        nan where there is no pair of a kind.
    """
    above = np.concatenate([histogram[:, ::-1].cumsum(axis=1)[:, ::-1], np.zeros((2, 1))], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        accepted = above / histogram.sum(axis=1, keepdims=True)
    return accepted[0], accepted[1]


def accepted_at(histogram: Integers, false_acceptance: float) -> tuple[float, float]:
    """True acceptance rate at a false one, and the threshold: the lowest that keeps false acceptance within it."""
    true, false = rates(histogram)
    place = int(np.argmax(false <= false_acceptance))
    return float(true[place]), edge(place)


def equal_error_threshold(histogram: Integers) -> float:
    """The threshold at which as many genuine pairs are refused as impostors accepted.

    Where several are as even, the one in their middle: pairs that are wholly apart leave a gap, and the next impostor
    may lie a little above the last. -1 where there is no pair of a kind.
    """
    if not histogram.sum(axis=1).all():
        return edge(0)
    true, false = rates(histogram)
    uneven = np.abs((1 - true) - false)
    even = np.flatnonzero(uneven <= uneven.min() + 1e-12)
    return edge((int(even[0]) + int(even[-1])) // 2)
