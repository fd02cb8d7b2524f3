"""Object scores: how many true objects were found, and how many found objects are true, matched one to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ObjectTable:
    """n objects.

    Attributes:
        ids: (n,) ids, ascending.
        voxels: (n,) sizes.
        centroids: (n, 3) z, y, x, world, nm.
        counted: (n,) False for objects that may be matched but lie outside the scored region.
    """

    ids: NDArray[Any]
    voxels: NDArray[np.int64]
    centroids: Floats
    counted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, centroids: Any, voxels: Any = None, ids: Any = None, counted: Any = None) -> ObjectTable:
        """A table of plain lists; sizes default to 1, ids to 1..n, and all objects count."""
        points = np.asarray(centroids, np.float64).reshape(-1, 3)
        n = len(points)
        return cls(
            np.arange(1, n + 1) if ids is None else np.asarray(ids),
            np.ones(n, np.int64) if voxels is None else np.asarray(voxels, np.int64),
            points,
            np.ones(n, bool) if counted is None else np.asarray(counted, bool),
        )


@dataclass(frozen=True)
class Overlaps:
    """Voxels that pairs of objects share: rows of the truth's table, rows of the prediction's, voxels."""

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    voxels: NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """A true object and the predicted one it was matched with; nm between centroids, intersection over union."""

    truth_id: int
    predicted_id: int
    distance_nm: float
    iou: float | None


@dataclass(frozen=True)
class Unmatched:
    """An object without partner: its centroid, and how far the nearest object of the other kind is, matched or not."""

    id: int
    centroid_nm: tuple[float, float, float]
    voxels: int
    nearest_nm: float | None


@dataclass(frozen=True)
class DetectionScores:
    """Object precision, recall and F1 by one rule.

    Attributes:
        rule: what counts as a match.
        truth: true objects counted.
        found: of these, the matched ones.
        predicted: predicted objects counted.
        correct: of these, the matched ones. It differs from ``found`` only where a pair straddles the region's border.
        precision: correct / predicted, None without predictions.
        recall: found / truth, None without true objects.
        f1: harmonic mean of the two, None where one of them has no meaning and the other is not 0.
        matched: pairs with at least one counted object.
        missed: counted true objects without partner.
        false: counted predicted objects without partner.
    """

    rule: str
    truth: int
    found: int
    predicted: int
    correct: int
    precision: float | None
    recall: float | None
    f1: float | None
    matched: list[Match]
    missed: list[Unmatched]
    false: list[Unmatched]

    def to_dict(self) -> dict[str, Any]:
        """The numbers for JSON, without the lists."""
        names = ("rule", "truth", "found", "predicted", "correct", "precision", "recall", "f1")
        return {name: getattr(self, name) for name in names}


def match_one_to_one(
    rows: Sequence[int] | NDArray[Any], columns: Sequence[int] | NDArray[Any], cost: Sequence[float] | Floats
) -> NDArray[np.int64]:
    """As many one-to-one matches as possible among the allowed pairs, of these the ones with the least total cost.

    The pairs are cut into connected groups, each solved by the Hungarian method (scipy's ``linear_sum_assignment``),
    so memory is bounded by the largest group and not by all objects times all objects.

    Args:
        rows: (n,) row index of each allowed pair; each pair at most once.
        columns: (n,) column index.
        cost: (n,) cost, at least 0.

    Returns:
        Indices into the pairs, ascending.
    """
    row, column = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    price = np.asarray(cost, np.float64)
    if not len(row):
        return np.empty(0, np.int64)
    n_rows, n_all = int(row.max()) + 1, int(row.max()) + int(column.max()) + 2
    graph = coo_array((np.ones(len(row), bool), (row, column + n_rows)), shape=(n_all, n_all))
    group_of_node = connected_components(graph, directed=False)[1]
    group = group_of_node[row]
    order = np.argsort(group, kind="stable")
    chosen: list[int] = []
    for pairs in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        i_names, i = np.unique(row[pairs], return_inverse=True)
        j_names, j = np.unique(column[pairs], return_inverse=True)
        scale = price[pairs].max()
        relative = price[pairs] / scale if scale > 0 else np.zeros(len(pairs))
        # One match more is worth more than all costs together (each is at most 1), so their number comes first.
        reward = np.zeros((len(i_names), len(j_names)))
        reward[i, j] = min(reward.shape) + 1.0 - relative
        which = np.full(reward.shape, -1, np.int64)
        which[i, j] = pairs
        taken = which[linear_sum_assignment(reward, maximize=True)]
        chosen.extend(taken[taken >= 0].tolist())
    return np.sort(np.asarray(chosen, np.int64))


def score_by_distance(
    truth: ObjectTable, predicted: ObjectTable, distance_nm: float, overlaps: Overlaps | None = None
) -> DetectionScores:
    """Match objects whose centroids lie at most ``distance_nm`` apart: most matches first, then least total distance.

    Args:
        truth: the true objects.
        predicted: the predicted ones.
        distance_nm: largest distance of centroids, nm.
        overlaps: for the IoU of the matched pairs, which the rule does not use.

    Raises:
        SynbbError: the distance is not above 0.
    """
    if not 0 < distance_nm < np.inf:
        raise SynbbError(f"matching distance {distance_nm} nm is not a number above 0")
    rule = f"centroids at most {distance_nm:g} nm apart"
    none = np.empty(0, np.int64)
    if not len(truth) or not len(predicted):
        return _scores(rule, truth, predicted, none, none, overlaps)
    near = KDTree(truth.centroids).query_ball_tree(KDTree(predicted.centroids), distance_nm)
    rows = np.repeat(np.arange(len(truth)), [len(found) for found in near])
    columns = np.asarray([j for found in near for j in found], np.int64)
    distance = np.linalg.norm(truth.centroids[rows] - predicted.centroids[columns], axis=1)
    best = match_one_to_one(rows, columns, distance)
    return _scores(rule, truth, predicted, rows[best], columns[best], overlaps)


def score_by_overlap(
    truth: ObjectTable, predicted: ObjectTable, overlaps: Overlaps, iou: float | None = None
) -> DetectionScores:
    """Match objects that overlap: most matches first, then the largest total intersection over union.

    Args:
        truth: the true objects.
        predicted: the predicted ones.
        overlaps: voxels in common.
        iou: least intersection over union; any common voxel suffices when None.

    Raises:
        SynbbError: ``iou`` is not in (0, 1].
    """
    if iou is not None and not 0 < iou <= 1:
        raise SynbbError(f"IoU threshold {iou} is not above 0 and at most 1")
    rule = "any common voxel, one to one" if iou is None else f"intersection over union at least {iou:g}"
    ratio = _iou(truth, predicted, overlaps)
    allowed = np.ones(len(ratio), bool) if iou is None else ratio >= iou
    rows, columns = overlaps.truth[allowed], overlaps.predicted[allowed]
    best = match_one_to_one(rows, columns, 1.0 - ratio[allowed])
    return _scores(rule, truth, predicted, rows[best], columns[best], overlaps)


def _iou(truth: ObjectTable, predicted: ObjectTable, overlaps: Overlaps) -> Floats:
    union = truth.voxels[overlaps.truth] + predicted.voxels[overlaps.predicted] - overlaps.voxels
    return np.asarray(overlaps.voxels / union, np.float64)


def _scores(
    rule: str,
    truth: ObjectTable,
    predicted: ObjectTable,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    overlaps: Overlaps | None,
) -> DetectionScores:
    ious: dict[tuple[int, int], float] = {}
    if overlaps is not None:
        pairs = zip(overlaps.truth.tolist(), overlaps.predicted.tolist(), strict=True)
        ious = dict(zip(pairs, _iou(truth, predicted, overlaps).tolist(), strict=True))
    distance = np.linalg.norm(truth.centroids[rows] - predicted.centroids[columns], axis=1)
    matched = [
        Match(int(truth.ids[i]), int(predicted.ids[j]), float(d), None if overlaps is None else ious.get((i, j), 0.0))
        for i, j, d in zip(rows.tolist(), columns.tolist(), distance, strict=True)
        if truth.counted[i] or predicted.counted[j]
    ]
    has_partner = np.zeros(len(truth), bool)
    has_partner[rows] = True
    is_true = np.zeros(len(predicted), bool)
    is_true[columns] = True
    wanted, offered = int(truth.counted.sum()), int(predicted.counted.sum())
    found, correct = int((truth.counted & has_partner).sum()), int((predicted.counted & is_true).sum())
    recall = found / wanted if wanted else None
    precision = correct / offered if offered else None
    return DetectionScores(
        rule=rule,
        truth=wanted,
        found=found,
        predicted=offered,
        correct=correct,
        precision=precision,
        recall=recall,
        f1=_harmonic(precision, recall),
        matched=matched,
        missed=_unmatched(truth, truth.counted & ~has_partner, predicted),
        false=_unmatched(predicted, predicted.counted & ~is_true, truth),
    )


def _harmonic(precision: float | None, recall: float | None) -> float | None:
    if 0 in (precision, recall):  # whatever the other one is
        return 0.0
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall)


def _unmatched(table: ObjectTable, rows: NDArray[np.bool_], others: ObjectTable) -> list[Unmatched]:
    places = table.centroids[rows]
    nearest: list[float | None] = [None] * len(places)
    if len(others) and len(places):
        nearest = [float(d) for d in KDTree(others.centroids).query(places)[0]]
    return [
        Unmatched(int(name), (float(z), float(y), float(x)), int(size), near)
        for name, (z, y, x), size, near in zip(table.ids[rows], places, table.voxels[rows], nearest, strict=True)
    ]
