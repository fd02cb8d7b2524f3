"""The objects of two volumes, measured in one pass: sizes, centroids and the voxels they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError
from synbb.evaluation.components import Components, find_components
from synbb.evaluation.detection import ObjectTable, Overlaps
from synbb.evaluation.labels import foreground_and_valid
from synbb.evaluation.runs import Runs
from synbb.evaluation.window import common_window, reading_block
from synbb.volumes.box import BlockGrid, Box, Triple, triple
from synbb.volumes.kinds import stated_kind

if TYPE_CHECKING:
    from synbb.volumes.volume import Volume

CONTEXT_NM = 1000.0
KEPT_ROWS = 2**16
"""Rows of tables that may wait before they are summed."""
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

    A volume with several label values of more than 8 bits (whole numbers, if they are floats), or one that ``segment``
    wrote, is taken as ids, one object an id; any other is a mask, whose objects are its 26-connected components
    (:func:`names_objects`). Objects are measured on the region and ``context_nm`` around it, as far as both volumes
    reach, so that one cut by the region's border has its true centroid and counts if that lies in the region. Voxels
    that the truth ignores belong to no object of either volume.

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
    wanted, offered, shared = _Collected(), _Collected(), _Collected()
    blocks = BlockGrid(window.truth, block, (0, 0, 0))
    for done, here in enumerate(blocks, 1):
        t, valid = true_ids.read(here)
        p, _ = predicted_ids.read(window.of("objects", here))
        if not valid.all():
            p[~valid] = 0
        wanted.add_objects(t, here.start)
        offered.add_objects(p, here.start)
        shared.add_pairs(t, p)
        if progress is not None:
            progress(done, len(blocks))
    true_table, predicted_table = (_table(each, truth, scored.truth) for each in (wanted, offered))
    note = (
        f"True objects are {true_ids.rule}, predicted ones {predicted_ids.rule}. Counted are objects whose centroid "
        f"lies in voxels {scored.truth} of the truth; they are measured, and may be matched, on {window.truth}."
    )
    return MeasuredObjects(true_table, predicted_table, _overlaps(shared, true_table, predicted_table), note)


class _Reader:
    """Ids of a volume's objects, block by block."""

    def __init__(self, volume: Volume, components: Components | None) -> None:
        self.volume = volume
        self.components = components
        self.rule = "label ids" if components is None else "26-connected components of the mask"

    def read(self, block: Box) -> tuple[Ids, NDArray[np.bool_]]:
        """Ids, 0 for background, and the voxels that are not ignored."""
        labels = self.volume.read(block)
        foreground, valid = foreground_and_valid(labels)
        if self.components is not None:
            return self.components.labels(block, foreground, np.uint64), valid
        return np.where(foreground, labels, 0).astype(np.uint64), valid


def _reader(volume: Volume, box: Box, block: Triple, anchor: Triple) -> _Reader:
    if names_objects(volume):
        return _Reader(volume, None)

    def read(here: Box) -> tuple[NDArray[np.bool_], None]:
        return foreground_and_valid(volume.read(here))[0], None

    return _Reader(volume, find_components(read, box, block, anchor=anchor))


def names_objects(volume: Volume, within: Sequence[Box] | None = None) -> bool:
    """Whether each value of a volume is an object: one that ``segment`` wrote, or ids (:func:`has_ids`)."""
    return stated_kind(volume) == "objects" or has_ids(volume, within)


def has_ids(volume: Volume, within: Sequence[Box] | None = None) -> bool:
    """Whether the values of a volume are ids: more than one foreground value, in a type of more than 8 bits.

    8-bit volumes are masks, for masks in the wild mix their values (1, 227, 254 and 255 in the VNC sections), and ids
    read from such a mask would be nonsense, while components of an 8-bit id volume are nearly its ids. Floats are ids
    where every foreground value is a whole number, as of labels that some program saved so; with fractions they are a
    mask (of coverage, say). Reads until the second value; floats until the first fraction, else all: of ``within``,
    where boxes are given.
    """
    if volume.dtype.itemsize == 1:
        return False
    fractions = volume.dtype.kind == "f"
    seen: set[Any] = set()
    shape = reading_block(volume)
    for block in (block for box in within or [volume.box] for block in box.blocks(shape)):
        labels = volume.read(block)
        found = np.unique(labels[foreground_and_valid(labels)[0]])
        if fractions and not (np.isfinite(found) & (np.floor(found) == found)).all():
            return False
        seen.update(found[:2].tolist())
        if len(seen) > 1 and not fractions:
            return True
    return len(seen) > 1


@dataclass
class _Collected:
    """Integers summed by key over blocks; what is held is about one row a key, however many blocks hold it."""

    keys: list[Ids] = field(default_factory=list)  # of (n, k)
    sums: list[NDArray[np.int64]] = field(default_factory=list)  # of (n, m)
    pending: int = 0

    def add_objects(self, ids: Ids, start: Triple) -> None:
        """Voxels, and sums of their z, y, x, of each id."""
        runs = Runs.of(ids)
        z, y, x = runs.index + np.asarray(start, np.int64)[:, None]
        n = runs.lengths
        self._add([ids], runs, np.stack([n, z * n, y * n, (2 * x + n - 1) * n // 2], axis=1))

    def add_pairs(self, truth: Ids, predicted: Ids) -> None:
        """Voxels of each pair of ids."""
        runs = Runs.of(truth, predicted)
        self._add([truth, predicted], runs, runs.lengths[:, None])

    def _add(self, ids: list[Ids], runs: Runs, values: NDArray[np.int64]) -> None:
        keys, sums = _summed(np.stack([each.reshape(-1)[runs.start] for each in ids], axis=1), values)
        self.keys.append(keys)
        self.sums.append(sums)
        self.pending += len(keys)
        if self.pending > max(KEPT_ROWS, 2 * len(self.keys[0])):
            self.merged()

    def merged(self) -> tuple[Ids, NDArray[np.int64]]:
        """The keys, ascending, and their sums."""
        keys, sums = _summed(np.concatenate(self.keys), np.concatenate(self.sums))
        self.keys, self.sums, self.pending = [keys], [sums], 0
        return keys, sums


def _summed(keys: Ids, values: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
    names, row = np.unique(keys, axis=0, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]), np.int64)
    np.add.at(sums, row.reshape(-1), values)
    return names, sums


def _table(objects: _Collected, truth: Volume, region: Box) -> ObjectTable:
    ids, sums = objects.merged()
    centre = sums[:, 1:] / sums[:, :1]  # an index is the centre of its voxel, which covers index +- 0.5
    inside = (centre >= np.asarray(region.start) - 0.5) & (centre < np.asarray(region.stop) - 0.5)
    world = np.asarray(truth.offset) + centre * np.asarray(truth.voxel_size)
    return ObjectTable(ids[:, 0], sums[:, 0], world, np.asarray(inside.all(axis=1), bool))


def _overlaps(shared: _Collected, truth: ObjectTable, predicted: ObjectTable) -> Overlaps:
    pairs, sums = shared.merged()
    return Overlaps(np.searchsorted(truth.ids, pairs[:, 0]), np.searchsorted(predicted.ids, pairs[:, 1]), sums[:, 0])
