"""Which rules make the best objects of probabilities: tried on the validation split, scored by the F1 of objects.

The threshold is chosen before, by the voxels; here it stays. Rules are tried with the code of ``synbb segment``, on the
probabilities of the validation regions, which are held in memory (8 bits a voxel).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from synbb.evaluation.components import ComponentTable, bridges_over
from synbb.evaluation.detection import ObjectTable, score_by_distance
from synbb.evaluation.evaluate import DISTANCE_NM
from synbb.evaluation.window import reading_block
from synbb.inference.block_work import quantise
from synbb.inference.objects import find_whole
from synbb.inference.rules import CHOSEN, ObjectRules
from synbb.inference.splitting import Splitter, split_components
from synbb.schema import Settings
from synbb.tasks.held_out import true_objects
from synbb.volumes.memory_storage import volume_of_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from synbb.inference.region import RegionBlock
    from synbb.tasks.annotated import AnnotatedVolume, Mask
    from synbb.volumes import Box, Volume

LARGEST = 2**29
"""Voxels of all validation regions up to which rules are tried: each is in memory as one byte."""

Share = Annotated[float, Field(gt=0, le=1)]
Size = Annotated[float, Field(ge=0)]
Sections = Annotated[int, Field(ge=0)]


class ObjectSearch(Settings):
    """Rules that are tried, all combinations; of equally good ones the first is taken, so the plainest stands first.

    Attributes:
        low: objects reach down to p >= this share of the threshold (1 is no hysteresis).
        split_nm: least distance of the seeds that share touching synapses out; 0 leaves objects whole.
        bridge: sections without data over which objects are joined; only tried where the regions have such a gap.
        min_size: smaller objects are left out, as a share of the median annotated object's volume.
        max_size: larger ones likewise; null keeps them.
        least_objects: annotated objects that the validation split must hold; of fewer, chance would choose.
    """

    low: Annotated[tuple[Share, ...], Field(min_length=1)] = (1.0, 0.5)
    split_nm: Annotated[tuple[Size, ...], Field(min_length=1)] = (0.0, 200.0, 400.0)
    bridge: Annotated[tuple[Sections, ...], Field(min_length=1)] = (0, 1, 2)
    min_size: Annotated[tuple[Size, ...], Field(min_length=1)] = (0.1, 0.05, 0.2, 0.4)
    max_size: Annotated[tuple[Annotated[float, Field(gt=0)] | None, ...], Field(min_length=1)] = (None, 20.0)
    least_objects: Annotated[int, Field(ge=1)] = 10


@dataclass(frozen=True)
class ObjectChoice:
    """The rules that were chosen.

    Attributes:
        rules: low, bridge, split_nm, min_size_nm3, max_size_nm3, by the names of :class:`ObjectRules`.
        f1: of the objects of the validation split, matched by distance, by these rules.
        plain_f1: likewise, by the first of each list.
        tried: combinations.
    """

    rules: dict[str, Any]
    f1: float
    plain_f1: float
    tried: int

    def to_dict(self) -> dict[str, Any]:
        """As stored with the threshold."""
        return {**self.rules, "object_f1": self.f1, "plain_object_f1": self.plain_f1, "tried": self.tried}


@dataclass
class RegionOfObjects:
    """A validation region: what the network says there, and its annotated objects.

    Attributes:
        values: round(255 p), 0 where nothing may be scored.
        voxel_size: nm.
        truth: annotated objects; places in nm from the region's first voxel.
        empty: voxels without data, by section.
    """

    values: NDArray[np.uint8]
    voxel_size: tuple[float, float, float]
    truth: ObjectTable
    empty: NDArray[np.int64]

    @classmethod
    def of(cls, volume: AnnotatedVolume, region: Box) -> RegionOfObjects:
        """One of which nothing is known yet but the annotation."""
        values, empty = np.zeros(region.shape, np.uint8), np.zeros(region.shape[0], np.int64)
        return cls(values, volume.raw.voxel_size, true_objects(volume, region), empty)

    def add(self, block: RegionBlock, region: Box, valid: Mask) -> None:
        """Keep a block of ``region``; ``valid`` says what may be scored."""
        there = block.box.relative_to(region.start).slices
        self.values[there] = np.where(valid, quantise(block.probabilities), 0)
        if block.no_data is not None:
            self.empty[there[0]] += block.no_data.sum(axis=(1, 2))

    @property
    def blank(self) -> tuple[int, ...]:
        """Sections without any data."""
        rows, columns = self.values.shape[1:]
        return tuple(np.flatnonzero(self.empty == rows * columns).tolist())

    @property
    def probabilities(self) -> Volume:
        """As a volume whose first voxel is the region's."""
        return volume_of_array("validation region", self.values, self.voxel_size)

    def table(self, objects: ComponentTable, rules: ObjectRules) -> ObjectTable:
        """Of the objects, those whose sizes are allowed."""
        enough, not_too_much = rules.fits(objects.voxels, float(np.prod(self.voxel_size)))
        kept = objects.take(enough & not_too_much)
        return ObjectTable.of(kept.centroids * np.asarray(self.voxel_size), kept.voxels)


@dataclass
class _Counts:
    """Of objects, over all regions."""

    truth: int = 0
    found: int = 0
    predicted: int = 0
    correct: int = 0

    def add(self, truth: ObjectTable, predicted: ObjectTable) -> None:
        scores = score_by_distance(truth, predicted, DISTANCE_NM)
        for name in ("truth", "found", "predicted", "correct"):
            setattr(self, name, getattr(self, name) + getattr(scores, name))

    @property
    def f1(self) -> float:
        if not self.found or not self.correct:
            return 0.0
        recall, precision = self.found / self.truth, self.correct / self.predicted
        return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True)
class _Trial:
    """Rules, and the objects that they make in each region, of any size."""

    rules: ObjectRules
    objects: Sequence[ComponentTable] = field(repr=False)


def choose_rules(
    regions: Sequence[RegionOfObjects], search: ObjectSearch, threshold: float, median_nm3: float
) -> ObjectChoice | None:
    """The combination of rules with the best F1 of objects; None where too few annotated objects count.

    Args:
        regions: of the validation split.
        search: what is tried.
        threshold: chosen before.
        median_nm3: volume of the median annotated object of the training split.
    """
    if sum(int(region.truth.counted.sum()) for region in regions) < search.least_objects:
        return None
    scored: list[tuple[float, dict[str, Any]]] = []
    for trial in _trials(regions, search, threshold):
        for smallest, largest in product(search.min_size, search.max_size):
            limit = None if largest is None else largest * median_nm3
            rules = replace(trial.rules, min_size_nm3=smallest * median_nm3, max_size_nm3=limit)
            counts = _Counts()
            for region, objects in zip(regions, trial.objects, strict=True):
                counts.add(region.truth, region.table(objects, rules))
            scored.append((counts.f1, {name: getattr(rules, name) for name in CHOSEN}))
    best = max(range(len(scored)), key=lambda i: scored[i][0])  # the first of equals
    return ObjectChoice(scored[best][1], scored[best][0], scored[0][0], len(scored))


def _trials(regions: Sequence[RegionOfObjects], search: ObjectSearch, threshold: float) -> Iterator[_Trial]:
    gaps = any(bridges_over(region.blank, len(region.values), max(search.bridge)) for region in regions)
    volumes = [region.probabilities for region in regions]
    for share, bridge in product(search.low, search.bridge if gaps else search.bridge[:1]):
        plain = ObjectRules(threshold, share * threshold, bridge=bridge)
        rules = [replace(plain, blank=region.blank) for region in regions]
        whole = [find_whole(v, each, reading_block(v)) for v, each in zip(volumes, rules, strict=True)]
        for split_nm in search.split_nm:
            tables = [found.table for found in whole]
            if split_nm:
                again = zip(volumes, rules, whole, strict=True)
                cut = [split_components(found, Splitter(v, replace(r, split_nm=split_nm))) for v, r, found in again]
                tables = [found.table for found in cut]
            yield _Trial(replace(plain, split_nm=split_nm), tables)
