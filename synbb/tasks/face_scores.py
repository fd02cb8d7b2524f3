"""Scores of the protocols for faces, from embeddings: figures, what they were counted from, and the single cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError
from synbb.evaluation.verification import (
    Ranking,
    accepted_at,
    count_all_pairs,
    equal_error_threshold,
    pair_histograms,
    rank,
)
from synbb.pruning.resampling import Resampled
from synbb.tasks.base import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.tasks.face_images import Chosen

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FALSE_ALARMS = (0.1, 0.01)
"""Shares of strangers named, and of impostor pairs accepted, at which rates are told."""


@dataclass(frozen=True)
class FaceScores:
    """Scores of one protocol on the images of a split.

    Attributes:
        chosen: the images.
        figures: every figure by name.
        counts: histograms of genuine and impostor cosines by identity.
        ranking: what the gallery says of each image, where there is one.
        people: whom the gallery holds, in its order.
    """

    chosen: Chosen
    figures: dict[str, float]
    counts: Integers
    ranking: Ranking | None = None
    people: tuple[str, ...] = ()

    @property
    def threshold(self) -> float:
        """The cosine of equal errors: of naming where strangers come by, else of pairs."""
        if self.ranking is not None and not np.isnan(even := self.ranking.even_threshold()):
            return even
        return equal_error_threshold(self.counts.sum(axis=0))

    def figures_at(self, threshold: float) -> dict[str, float]:
        """What a gallery gets right, and whom it names wrongly, at a threshold chosen elsewhere."""
        if self.ranking is None:
            return {}
        figures = {"named_right_at_threshold": self.ranking.identified_at(threshold)}
        if not self.ranking.known.all():
            figures["strangers_named_at_threshold"] = self.ranking.alarms_at(threshold)
        return figures

    def resampled(self) -> dict[str, Resampled]:
        """Counts by identity, and those of rank 1 by probe."""
        found = {name: Resampled(name, {"identities": self.counts}) for name in ("roc_auc", "equal_error")}
        if self.ranking is not None:
            correct = self.ranking.correct
            right = np.stack([correct, np.ones_like(correct)], axis=1).astype(np.int64)[self.ranking.known]
            found["rank_1"] = Resampled("ratio", {"probes": right})
        return found

    def cases(self, threshold: float | None = None) -> Table | None:
        """Who each image shows and who it was named: the wrong ones first, the surest of them at the top.

        None without a gallery.

        Args:
            threshold: cosine below which nobody is named, which is right for a stranger; None names everybody.
        """
        if self.ranking is None:
            return None
        cosine, known = self.ranking.similarity, self.ranking.known
        named = np.full(len(cosine), True) if threshold is None else cosine >= threshold
        right = np.where(known, self.ranking.correct & named, ~named)
        names = [self.people[best] if sure else "" for best, sure in zip(self.ranking.best, named, strict=True)]
        rows = [
            [str(face.path), face.identity, name, f"{value:.4f}", "yes" if good else "no"]
            for face, name, value, good in zip(self.chosen.faces, names, cosine, right, strict=True)
        ]
        order = np.lexsort((np.where(right, 0.0, -cosine), right))
        return Table(["image", "shows", "named", "cosine", "right"], [rows[place] for place in order])


def score_gallery(
    probes: Floats, chosen: Chosen, gallery: Floats, people: Sequence[str], *, strangers: bool
) -> FaceScores:
    """Name each image by the most similar entry of a gallery.

    Args:
        probes: embeddings of the images.
        chosen: the images.
        gallery: embeddings of known people.
        people: who they are.
        strangers: whether people come by whom the gallery does not hold.

    Raises:
        SynbbError: no genuine pair of probe and gallery, or no impostor.
    """
    names = [face.identity for face in chosen.faces]
    ranking = rank(gallery, people, probes, names)
    figures = {"rank_1": ranking.rank_1}
    if strangers:
        for share in FALSE_ALARMS:
            figures[f"identified_at_{share:g}"] = ranking.identified_at(ranking.threshold_at(share))
    genuine = np.array([[one == name for one in people] for name in names], dtype=bool)
    unit = np.repeat(chosen.owners(), len(people))
    counts = pair_histograms((probes @ gallery.T).ravel(), genuine.ravel(), unit, len(chosen.identities))
    return FaceScores(chosen, figures | _figures_of_pairs(counts), counts, ranking, tuple(people))


def score_pairs(embeddings: Floats, chosen: Chosen, pairs: Integers | None) -> FaceScores:
    """Tell whether two images show one person: of all pairs within each folder, or of those listed.

    Args:
        embeddings: of the images.
        chosen: the images.
        pairs: numbers of two images, shape (pairs, 2).

    Raises:
        SynbbError: no genuine pair, or no impostor.
    """
    counts = _count_pairs(embeddings, chosen, pairs)
    return FaceScores(chosen, _figures_of_pairs(counts), counts)


def check_pairs(split: str, chosen: Chosen, pairs: Integers | None = None) -> None:
    """Refuse images of which no genuine pair, or no impostor, can be made, before a network is trained.

    Args:
        split: for the message.
        chosen: its images.
        pairs: (n, 2) those that are compared; all within one source by default.

    Raises:
        SynbbError: one of the two kinds is missing.
    """
    owner = chosen.owners()
    if pairs is None:
        images = [np.bincount(owner[chosen.sources == each]) for each in np.unique(chosen.sources)]
        genuine = any(each.max() > 1 for each in images)
        impostor, listed = any(np.count_nonzero(each) > 1 for each in images), ""
    else:
        same = owner[pairs[:, 0]] == owner[pairs[:, 1]]
        genuine, impostor, listed = bool(same.any()), not same.all(), " in data.pairs"
    if not genuine or not impostor:
        missing = "images of two people" if genuine else "two images of one person"
        raise SynbbError(
            f"data.images: verification compares {missing}, and split {split} has none{listed}; choose others"
        )


def _count_pairs(embeddings: Floats, chosen: Chosen, pairs: Integers | None) -> Integers:
    """Histograms by identity."""
    owner, identities = chosen.owners(), len(chosen.identities)
    if pairs is not None:
        one, other = pairs.T
        cosines = (embeddings[one] * embeddings[other]).sum(axis=1)
        return pair_histograms(cosines, owner[one] == owner[other], owner[one], identities)
    parts = []
    for source in np.unique(chosen.sources):
        inside = chosen.sources == source
        own, local = np.unique(owner[inside], return_inverse=True)
        part = count_all_pairs(embeddings[inside], local)
        whole = np.zeros((identities, *part.shape[1:]), np.int64)
        whole[own] = part
        parts.append(whole)
    return np.asarray(sum(parts), np.int64)


def _figures_of_pairs(counts: Integers) -> dict[str, float]:
    total = counts.sum(axis=0)
    if not total.sum(axis=1).all():
        raise SynbbError("data.images: no genuine pair, or no impostor, can be made of the images that are scored")
    figures = {name: Resampled(name, {"all": total[None]}).score() for name in ("roc_auc", "equal_error")}
    return figures | {f"accepted_at_{share:g}": accepted_at(total, share)[0] for share in FALSE_ALARMS}
