"""Scores of a region that was never seen, kept as counts by tile and by object so that they can be resampled.

Voxels are counted by tiles of 5 sections x 128 x 128 voxels of the volume, which begin anew in each region, so that
none crosses two of them. Objects are plain ones: probabilities rounded to 8 bits, p >= threshold, 26-connected, smaller
ones left out; annotated ones are the ids of the labels, or the 26-connected parts of a mask. The further rules that a
run chose (``object_choice.py``) do not count here, so that methods are compared by what their networks say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synbb.evaluation.detection import ObjectTable, score_by_distance
from synbb.evaluation.evaluate import DISTANCE_NM
from synbb.evaluation.object_tables import CONTEXT_NM
from synbb.evaluation.runs import label
from synbb.evaluation.thresholds import check_range, foreground
from synbb.inference.block_work import quantise
from synbb.pruning.resampling import Resampled
from synbb.tasks.base import HeldOut
from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from synbb.evaluation.labels import Mask
    from synbb.tasks.annotated import AnnotatedVolume

TILE: Triple = (5, 128, 128)
LOGIT_LIMIT = 12.0
BINS = 2048
"""Probabilities are counted in equal bins of their logit from -12 to 12: 0.012 wide, so that ties are rare."""
SMALL = 1 / 3
"""Share of the annotated objects of a test split that count as small."""

NOTE = (
    "objects: threshold and smallest size alone decide, without the further rules that the run chose, and annotated "
    "objects count whose centroid lies in the region; synbb evaluate --truth scores what segment wrote, pieces at the "
    "border of what was segmented included"
)

Counts = NDArray[np.int64]
Block = tuple[Box, NDArray[np.float32]]


@dataclass
class HeldOutCounts:
    """Counts of all test regions.

    Args:
        threshold: foreground is p >= threshold.
        min_size_nm3: predicted objects of less volume are left out.
    """

    threshold: float
    min_size_nm3: float
    histograms: list[Counts] = field(default_factory=list)  # (tiles, 2, BINS): foreground, background
    voxels: list[Counts] = field(default_factory=list)  # (tiles, 3): true positives, false positives, false negatives
    found: list[NDArray[np.bool_]] = field(default_factory=list)  # of each counted annotated object
    sizes: list[Counts] = field(default_factory=list)  # its voxels
    correct: list[NDArray[np.bool_]] = field(default_factory=list)  # of each counted predicted object
    tile_of_predicted: list[Counts] = field(default_factory=list)

    def add(self, volume: AnnotatedVolume, region: Box, blocks: Iterable[Block]) -> None:
        """Count one region.

        Args:
            volume: opened for testing.
            region: one of its regions.
            blocks: boxes that fill the region, with their probabilities, float32.
        """
        grid = triple([-(-n // t) for n, t in zip(region.shape, TILE, strict=True)])
        tiles = int(np.prod(grid))
        histogram, at_threshold = np.zeros((tiles, 2, BINS), np.int64), np.zeros((tiles, 3), np.int64)
        decided = np.zeros(region.shape, dtype=bool)
        for box, probabilities in blocks:
            wanted, valid = volume.truth(box)
            check_range(probabilities, volume.settings.raw)
            chosen = foreground(quantise(probabilities), self.threshold) & valid
            decided[box.relative_to(region.start).slices] = chosen
            tile = _tile_of(box, region, grid)[valid]
            cell = (tile * 2 + ~wanted[valid]) * BINS + _bins(probabilities[valid])
            histogram += np.bincount(cell, minlength=histogram.size).reshape(histogram.shape)
            for column, which in enumerate((chosen & wanted, chosen & ~wanted, ~chosen & wanted)):
                at_threshold[:, column] += np.bincount(tile[which[valid]], minlength=tiles)
        first = sum(len(each) for each in self.histograms)
        self.histograms.append(histogram)
        self.voxels.append(at_threshold)
        self._add_objects(volume, region, decided, grid, first)

    def _add_objects(self, volume: AnnotatedVolume, region: Box, decided: Mask, grid: Triple, first_tile: int) -> None:
        size = np.asarray(volume.raw.voxel_size)
        truth = true_objects(volume, region)
        labels, count = label(decided, 26)
        table = _table(labels, count, size)
        large = table.voxels * float(np.prod(size)) >= self.min_size_nm3
        predicted = ObjectTable(table.ids[large], table.voxels[large], table.centroids[large], table.counted[large])
        matched = score_by_distance(truth, predicted, DISTANCE_NM).matched
        pairs = np.asarray([(m.truth_id, m.predicted_id) for m in matched], np.int64).reshape(-1, 2)
        self.found.append(np.isin(truth.ids, pairs[:, 0])[truth.counted])
        self.sizes.append(truth.voxels[truth.counted])
        # A prediction that was matched with a synapse of the surroundings is neither right nor wrong here.
        inside = dict(zip(truth.ids.tolist(), truth.counted.tolist(), strict=True))
        elsewhere = {p for t, p in pairs.tolist() if not inside[t]}
        counted = ~np.isin(predicted.ids, sorted(elsewhere))
        self.correct.append(np.isin(predicted.ids, pairs[:, 1])[counted])
        place = np.minimum(predicted.centroids[counted] / size / np.asarray(TILE), np.asarray(grid) - 1).astype(
            np.int64
        )
        self.tile_of_predicted.append(first_tile + np.ravel_multi_index(tuple(place.T), grid))

    def held_out(self) -> HeldOut:
        """Scores and their counts; what has no meaning (no annotated object, no prediction) is nan."""
        histogram, voxels = np.concatenate(self.histograms), np.concatenate(self.voxels)
        found, correct, sizes = np.concatenate(self.found), np.concatenate(self.correct), np.concatenate(self.sizes)
        tiles = len(histogram)
        per_object = np.stack([found, np.zeros_like(found), ~found], axis=1).astype(np.int64)
        false = np.bincount(np.concatenate(self.tile_of_predicted)[~correct], minlength=tiles)
        per_tile = np.stack([np.zeros_like(false), false, np.zeros_like(false)], axis=1)
        recall = np.stack([found, np.ones_like(found)], axis=1).astype(np.int64)
        small = sizes <= np.quantile(sizes, SMALL) if len(sizes) else np.zeros(0, dtype=bool)
        resampled = {
            "pr_auc": Resampled("average_precision", {"tiles": histogram}),
            "voxel_f1": Resampled("f1", {"tiles": voxels}),
            "object_f1": Resampled("f1", {"objects": per_object, "tiles": per_tile}),
            "object_recall": Resampled("ratio", {"objects": recall}),
            "small_object_recall": Resampled("ratio", {"objects": recall * small[:, None]}),
        }
        scores = {name: each.score() for name, each in resampled.items()}
        true = int(found.sum())
        scores["object_precision"] = true / (true + int(false.sum())) if true + false.sum() else float("nan")
        scores |= {"objects": len(found), "small_objects": int(small.sum()), "tiles": tiles}
        scores |= {"foreground": int(histogram[:, 0].sum()), "voxels": int(histogram.sum())}
        return HeldOut(scores, "pr_auc", resampled, (NOTE,))


def _tile_of(box: Box, region: Box, grid: Triple) -> NDArray[np.int64]:
    """Number of the tile of each voxel of a box."""
    inner = box.relative_to(region.start)
    at = [np.arange(a, b) // t for a, b, t in zip(inner.start, inner.stop, TILE, strict=True)]
    z, y, x = np.ix_(*at)
    return np.asarray((z * grid[1] + y) * grid[2] + x, np.int64)


def _bins(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    scaled = (np.log(p) - np.log1p(-p) + LOGIT_LIMIT) * (BINS / (2 * LOGIT_LIMIT))
    return np.clip(scaled, 0, BINS - 1).astype(np.int64)


def true_objects(volume: AnnotatedVolume, region: Box) -> ObjectTable:
    """The annotated objects of a region.

    An object counts if its centroid lies in the region, and has its whole size; its place is that of the part inside,
    which is all that a prediction of the region can show.
    """
    size = volume.raw.voxel_size
    margin = triple([int(np.ceil(CONTEXT_NM / n)) for n in size])
    around = region.grow(margin).intersect(volume.raw.box) or region
    labels, count = _numbered(volume, around)
    whole = _table(labels, count, np.asarray(size), around.start)
    inside = np.where(volume.truth(region)[1], labels[region.relative_to(around.start).slices], 0)
    part = _table(inside, count, np.asarray(size))
    shown = np.isin(whole.ids, part.ids)
    start, stop = (np.asarray(edge) * np.asarray(size) for edge in (region.start, region.stop))
    half = np.asarray(size) / 2
    centred = np.all((whole.centroids >= start - half) & (whole.centroids < stop - half), axis=1)
    return ObjectTable(part.ids, whole.voxels[shown], part.centroids, centred[shown])


def _numbered(volume: AnnotatedVolume, box: Box) -> tuple[NDArray[np.int64], int]:
    """The annotated objects of a box as labels 1 to n, and n: the ids, or the 26-connected components of a mask."""
    if not volume.has_ids:
        return label(volume.annotation(box)[0], 26)
    ids = volume.ids(box)
    there = ids > 0
    names, number = np.unique(ids[there], return_inverse=True)
    labels = np.zeros(box.shape, np.int64)
    labels[there] = number + 1
    return labels, len(names)


def _table(labels: NDArray[Any], count: int, size: NDArray[Any], origin: Triple = (0, 0, 0)) -> ObjectTable:
    """Objects of an array of labels 1 to ``count`` that have a voxel there; centroids in nm from ``origin``'s zero."""
    at = np.nonzero(labels)
    owner = labels[at].astype(np.int64)
    voxels = np.bincount(owner, minlength=count + 1)
    there = np.flatnonzero(voxels)
    sums = np.stack([np.bincount(owner, weights=a + o, minlength=count + 1) for a, o in zip(at, origin, strict=True)])
    centroids = (sums[:, there] / voxels[there]).T * size
    return ObjectTable(there, voxels[there], centroids, np.ones(len(there), dtype=bool))
