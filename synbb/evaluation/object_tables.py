"""The objects of two volumes, measured in one pass: sizes, centroids and the voxels they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError
from synbb.evaluation.components import Components, find_components
from synbb.evaluation.detection import ObjectTable, Overlaps
from synbb.evaluation.labels import foreground_and_valid
from synbb.evaluation.window import common_window, reading_block
from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from synbb.volumes.volume import Volume

CONTEXT_NM = 1000.0
Progress = Callable[[int, int], None]
Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class MeasuredObjects:
    """True and predicted objects, the voxels they share, and a sentence on what counts as an object."""

    truth: ObjectTable
    predicted: ObjectTable
    overlaps: Overlaps
    note: str


def measure_objects(
    truth: Volume,
    objects: Volume,
    *,
    region: Box | None = None,
    context_nm: float = CONTEXT_NM,
    progress: Progress | None = None,
) -> MeasuredObjects:
    """Measure all objects whose centroid lies in ``region``, and those just outside that may be their partners.

    A volume with several label values of more than 8 bits, or one that ``segment`` wrote, is taken as ids, one object
    an id; any other is a mask, whose objects are its 26-connected components (:func:`has_ids`). Objects are measured
    on the region and ``context_nm`` around it, as far as both volumes reach, so that one cut by the region's border
    has its true centroid and counts if that lies in the region. Voxels that the truth ignores belong to no object of
    either volume.

    Args:
        truth: labels.
        objects: labels, on the same voxel grid.
        region: voxels of ``truth``, all when None.
        context_nm: width of the surroundings.
        progress: called with (done, total) blocks.

    Raises:
        SynbbError: the grids differ, nothing is common, or ``objects`` are not integers.
    """
    if not (np.issubdtype(objects.dtype, np.integer) or objects.dtype == bool):
        raise SynbbError(
            f"{objects.path}: objects are integer labels, as `synbb segment` makes them, not {objects.dtype}"
        )
    scored = common_window(truth, {"objects": objects}, region)
    margin = triple([int(np.ceil(context_nm / size)) for size in truth.voxel_size])
    around = scored.truth.grow(margin).intersect(truth.box) or scored.truth
    window = common_window(truth, {"objects": objects}, around)
    block = reading_block(truth)
    true_ids = _reader(truth, window.truth, block, (0, 0, 0))
    predicted_ids = _reader(objects, window.of("objects"), block, window.origins["objects"])
    wanted, offered, shared = _Sums(), _Sums(), _Pairs()
    blocks = list(window.truth.blocks(block))
    for done, here in enumerate(blocks, 1):
        valid = foreground_and_valid(truth.read(here))[1]
        t = true_ids.read(here)
        p = np.where(valid, predicted_ids.read(window.of("objects", here)), np.uint64(0))
        wanted.add(t, here.start)
        offered.add(p, here.start)
        shared.add(t, p)
        if progress is not None:
            progress(done, len(blocks))
    true_table, predicted_table = wanted.table(truth, scored.truth), offered.table(truth, scored.truth)
    note = (
        f"True objects are {true_ids.rule}, predicted ones {predicted_ids.rule}. Counted are objects whose centroid "
        f"lies in voxels {scored.truth} of the truth; they are measured, and may be matched, on {window.truth}."
    )
    return MeasuredObjects(true_table, predicted_table, shared.overlaps(true_table, predicted_table), note)


class _Reader:
    """Ids of a volume's objects, block by block."""

    def __init__(self, volume: Volume, components: Components | None) -> None:
        self.volume = volume
        self.components = components
        self.rule = "label ids" if components is None else "26-connected components of the mask"

    def read(self, block: Box) -> Ids:
        labels = self.volume.read(block)
        foreground, _ = foreground_and_valid(labels)
        if self.components is not None:
            return self.components.labels(block, foreground, np.uint64)
        return np.where(foreground, labels, 0).astype(np.uint64)


def _reader(volume: Volume, box: Box, block: Triple, anchor: Triple) -> _Reader:
    if volume.attributes.get("kind") == "objects" or has_ids(volume):
        return _Reader(volume, None)

    def read(here: Box) -> tuple[NDArray[np.bool_], None]:
        return foreground_and_valid(volume.read(here))[0], None

    return _Reader(volume, find_components(read, box, block, anchor=anchor))


def has_ids(volume: Volume) -> bool:
    """Whether the values of a volume are ids: more than one foreground value, in a type of more than 8 bits.

    8-bit volumes are masks, for masks in the wild mix their values (1, 227, 254 and 255 in the VNC sections), and ids
    read from such a mask would be nonsense, while components of an 8-bit id volume are nearly its ids. Reads until the
    second value.
    """
    if volume.dtype.itemsize == 1:
        return False
    seen: set[Any] = set()
    for block in volume.box.blocks(reading_block(volume)):
        labels = volume.read(block)
        seen.update(np.unique(labels[foreground_and_valid(labels)[0]]).tolist())
        if len(seen) > 1:
            return True
    return False


@dataclass
class _Sums:
    """Sizes and coordinate sums of ids, collected over blocks."""

    ids: list[Ids] = field(default_factory=list)
    voxels: list[NDArray[np.int64]] = field(default_factory=list)
    sums: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, labels: Ids, start: Triple) -> None:
        at = np.nonzero(labels)
        ids, row, count = np.unique(labels[at], return_inverse=True, return_counts=True)
        # Sums of integers below 2**53: float64 holds them exactly, whatever the order of the blocks.
        sums = [np.bincount(row, weights=at[a] + start[a], minlength=len(ids)) for a in range(3)]
        self.ids.append(ids)
        self.voxels.append(count.astype(np.int64))
        self.sums.append(np.stack(sums, axis=1))

    def table(self, truth: Volume, region: Box) -> ObjectTable:
        ids, row = np.unique(np.concatenate(self.ids), return_inverse=True)
        voxels, sums = np.zeros(len(ids), np.int64), np.zeros((len(ids), 3))
        np.add.at(voxels, row, np.concatenate(self.voxels))
        np.add.at(sums, row, np.concatenate(self.sums))
        centre = sums / voxels[:, None]  # an index is the centre of its voxel, which covers index +- 0.5
        inside = (centre >= np.asarray(region.start) - 0.5) & (centre < np.asarray(region.stop) - 0.5)
        world = np.asarray(truth.offset) + centre * np.asarray(truth.voxel_size)
        return ObjectTable(ids, voxels, world, np.asarray(inside.all(axis=1), bool))


@dataclass
class _Pairs:
    """Voxels that ids of two volumes share, collected over blocks."""

    pairs: list[NDArray[np.uint64]] = field(default_factory=list)
    voxels: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, truth: Ids, predicted: Ids) -> None:
        both = (truth > 0) & (predicted > 0)
        pairs, count = np.unique(np.stack([truth[both], predicted[both]], axis=1), axis=0, return_counts=True)
        self.pairs.append(pairs)
        self.voxels.append(count.astype(np.int64))

    def overlaps(self, truth: ObjectTable, predicted: ObjectTable) -> Overlaps:
        pairs, row = np.unique(np.concatenate(self.pairs), axis=0, return_inverse=True)
        voxels = np.zeros(len(pairs), np.int64)
        np.add.at(voxels, row.ravel(), np.concatenate(self.voxels))
        return Overlaps(np.searchsorted(truth.ids, pairs[:, 0]), np.searchsorted(predicted.ids, pairs[:, 1]), voxels)
