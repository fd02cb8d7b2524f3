"""An EM volume with its annotation: what a run trains on, validates on or tests on.

Labels are placed on the raw volume by offset and voxel size. Whatever lies outside the label array, the given regions
or the annotated mask, or carries an ignore value, is *invalid*: loss, sampler, on-rates and scores pass over it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property
from math import ceil, floor
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synbb.errors import SynbbError
from synbb.evaluation.components import find_components
from synbb.evaluation.labels import foreground_and_valid
from synbb.evaluation.object_tables import Ids, names_objects
from synbb.schema import Settings
from synbb.tasks.positives import index_positives
from synbb.tasks.sampling import SampledVolume
from synbb.volumes import Box, Volume, open_labels, open_volume, placement
from synbb.volumes.box import triple
from synbb.volumes.kinds import check_use
from synbb.volumes.resample import EDGE, WorkingView
from synbb.volumes.statistics import Normalisation, measure_normalisation
from synbb.volumes.streamed import streamed
from synbb.volumes.taps import Taps, resample_taps

if TYPE_CHECKING:
    from synbb.volumes.stream import ChunkCache

NEGATIVE = "none"
SCANNED = (32, 512, 512)  # voxels looked at together
GREY_KEYS = ("raw", "extent", "voxel_size", "invert")
TINY = 1e-4  # rounding of float32 sums of weights

Mask = NDArray[np.bool_]


class VolumeSettings(Settings):
    """One annotated volume, or one part of it, as a config names it.

    Attributes:
        name: for messages and reports.
        raw: path of the grey volume (``file.h5:dataset`` inside HDF5).
        labels: path of the annotation, foreground above 0; ``none`` states that the regions hold no synapse.
        regions: annotated boxes ``z0:z1,y0:y1,x0:x1`` in voxels of raw; by default all that the labels cover.
        mask: path of a volume that is above 0 where somebody annotated; by default everywhere.
        extent: box of raw beyond which nothing exists for this run, not even as context or for normalisation.
        split: what the part is for.
        weight: how often it is sampled, relative to the others.
        voxel_size: nm, z y x, where the files do not state theirs.
        invert: whether grey values are inverted (dark background).
        licence: of the data; by default what the files state.
        citation: likewise.
    """

    name: str
    raw: str
    labels: str
    regions: tuple[str, ...] = ()
    mask: str | None = None
    extent: str | None = None
    split: Literal["train", "validation", "test"]
    weight: Annotated[float, Field(gt=0)] = 1.0
    voxel_size: tuple[float, float, float] | None = None
    invert: bool = False
    licence: str | None = None
    citation: str | None = None

    @property
    def annotation(self) -> tuple[str | None, str | None]:
        """Paths of labels and mask, None where the entry names no file."""
        return None if self.labels == NEGATIVE else self.labels, self.mask

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all that the entry reads."""
        return tuple(path for path in (self.raw, *self.annotation) if path is not None)


class AnnotatedVolume:
    """An opened :class:`VolumeSettings` at a working voxel size.

    Attributes:
        settings: what it was made of.
        raw: the grey volume, cut to its extent; all boxes here are in its voxels or in working voxels.
        extent: of raw in the file, voxels of the file.
        view: raw at the working voxel size.
        normalisation: fixed grey values of raw.
        regions: annotated boxes, voxels of raw.

    Raises:
        SynbbError: a path, box, offset or voxel size that does not fit, with the entry's name.
    """

    def __init__(
        self,
        settings: VolumeSettings,
        working_voxel_size: tuple[float, float, float],
        *,
        percentiles: tuple[float, float],
        normalisation: Normalisation | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.settings = settings
        try:
            self._open(settings, working_voxel_size, cache_bytes)
            self.normalisation = normalisation or measure_normalisation(
                self.raw, percentiles=percentiles, invert=settings.invert
            )
        except SynbbError as error:
            raise SynbbError(f"data.volumes {settings.name!r}: {error}") from None

    def _open(self, settings: VolumeSettings, working: tuple[float, float, float], cache_bytes: int) -> None:
        whole = open_volume(settings.raw, voxel_size=settings.voxel_size)
        extent = whole.box if settings.extent is None else Box.parse(settings.extent)
        _check_inside(extent, whole.box, "extent", settings.raw)
        self.raw, self.extent = whole.crop(extent), extent
        labels, mask = settings.annotation
        self._labels, label_box = self._annotation(labels, whole, extent)
        self._mask, _ = self._annotation(mask, whole, extent)
        regions = [Box.parse(text) for text in settings.regions] or [label_box.translate(extent.start)]
        for region in regions:
            _check_inside(region, whole.box, "region", settings.raw)
            _check_inside(region, extent, "region", f"the extent of {settings.raw}")
        self.regions = tuple(region.relative_to(extent.start) for region in regions)
        for region in self.regions:
            if region.intersect(label_box) is None:
                raise SynbbError(
                    f"region {region.translate(extent.start)} holds nothing of the labels {settings.labels}, which "
                    f"cover {label_box.translate(extent.start)} of raw: move the region, or correct the labels' offset"
                )
        self.view = WorkingView(self.raw, working)
        self._raw_cache: ChunkCache | None = None
        self._label_cache: ChunkCache | None = None
        if cache_bytes:
            self._stream(working, cache_bytes)

    def _stream(self, working: tuple[float, float, float], cache_bytes: int) -> None:
        """Read the level in use, and the labels, through caches that can be filled ahead of need."""
        levels = list(self.raw.levels)
        used = levels.index(self.view.volume)
        levels[used], self._raw_cache = streamed(levels[used], max_bytes=cache_bytes)
        self.raw = replace(levels[0], coarser=tuple(levels[1:]))
        self.view = WorkingView(self.raw, working)
        if self._labels is not None:
            volume, place = self._labels
            volume, self._label_cache = streamed(volume, max_bytes=cache_bytes)
            self._labels = (volume, place)

    def _annotation(self, path: str | None, whole: Volume, extent: Box) -> tuple[tuple[Volume, Box] | None, Box]:
        """A label or mask volume with its box in voxels of the cropped raw; None when there is no such file."""
        everywhere = Box.of_shape(extent.shape)
        if path is None:
            return None, everywhere
        volume = open_labels(path, voxel_size=self.settings.voxel_size)
        check_use(volume, "labels")
        box = placement(volume, whole).relative_to(extent.start)
        common = box.intersect(everywhere)
        if common is None:
            raise SynbbError(f"{path} covers {box.translate(extent.start)} of raw, outside the extent {extent}")
        return (volume.crop(common.relative_to(box.start)), common), common

    # ---- facts ----

    @property
    def labels(self) -> Volume | None:
        """The labels within raw; None where the entry says that there is no synapse."""
        return None if self._labels is None else self._labels[0]

    @property
    def mask(self) -> Volume | None:
        """What was annotated within raw; None for everything."""
        return None if self._mask is None else self._mask[0]

    @property
    def licence(self) -> str | None:
        """Licence of the data, from the config or the files."""
        return self.settings.licence or self.raw.attributes.get("licence")

    @property
    def citation(self) -> str | None:
        """Whom to cite, from the config or the files."""
        return self.settings.citation or self.raw.attributes.get("citation")

    def same_greys(self, other: VolumeSettings) -> bool:
        """Whether ``other`` names the same part of the same file, seen the same way."""
        return all(getattr(self.settings, key) == getattr(other, key) for key in GREY_KEYS)

    def facts(self) -> dict[str, Any]:
        """What a run keeps of this volume, plain values."""
        return {
            "name": self.settings.name,
            "path": self.settings.raw,
            "split": self.settings.split,
            "extent": self.settings.extent,
            "regions": list(self.settings.regions),
            "voxel_size": list(self.raw.voxel_size),
            "working_voxel_size": list(self.view.voxel_size),
            "normalisation": self.normalisation.to_dict(),
            "licence": self.licence,
            "citation": self.citation,
        }

    # ---- reading ----

    def image(self, box: Box) -> NDArray[np.float32]:
        """Normalised grey values of a working box, float32, z y x."""
        return self.normalisation.apply(self.view.read(box))

    def truth(self, box: Box) -> tuple[Mask, Mask]:
        """Foreground and validity of a box of raw voxels, both bool, z y x; foreground lies within valid."""
        inside = np.zeros(box.shape, dtype=bool)
        for region in self.regions:
            common = region.intersect(box)
            if common is not None:
                inside[common.relative_to(box.start).slices] = True
        foreground, valid = self.annotation(box)
        valid &= inside
        return foreground & valid, valid

    def annotation(self, box: Box) -> tuple[Mask, Mask]:
        """As :meth:`truth`, beyond the regions too, as far as labels and mask reach."""
        foreground, valid = np.zeros(box.shape, dtype=bool), np.zeros(box.shape, dtype=bool)
        if self._labels is None:
            valid[...] = True
        else:
            volume, place = self._labels
            common = place.intersect(box)
            if common is not None:
                at = common.relative_to(box.start).slices
                foreground[at], valid[at] = foreground_and_valid(volume.read(common.relative_to(place.start)))
        if self._mask is not None:
            volume, place = self._mask
            annotated = np.zeros(box.shape, dtype=bool)
            common = place.intersect(box)
            if common is not None:
                annotated[common.relative_to(box.start).slices] = volume.read(common.relative_to(place.start)) > 0
            valid &= annotated
        return foreground & valid, valid

    @cached_property
    def has_ids(self) -> bool:
        """Whether the regions' labels name objects, as ``synbb evaluate --truth`` takes them; else they are a mask."""
        if self._labels is None:
            return False
        volume, place = self._labels
        shared = (region.intersect(place) for region in self.regions)
        within = [box.relative_to(place.start) for box in shared if box is not None]
        return bool(within) and names_objects(volume, within)

    def ids(self, box: Box) -> Ids:
        """Ids of a box of raw voxels, uint64, z y x, 0 where :meth:`annotation` has no foreground."""
        found = np.zeros(box.shape, np.uint64)
        if self._labels is not None:
            volume, place = self._labels
            common = place.intersect(box)
            if common is not None:
                foreground, _ = self.annotation(common)
                at = common.relative_to(box.start).slices
                found[at] = np.where(foreground, volume.read(common.relative_to(place.start)), 0)
        return found

    def working_truth(self, box: Box) -> tuple[Mask, Mask]:
        """Foreground and validity of a working box, both bool, z y x.

        A working voxel is foreground where at least half of it is, and valid where all of it is.
        """
        source = self._covering(box)
        foreground, valid = self.truth(source)
        if all(f == 1 for f in self.view.scale):
            return foreground, valid
        known = self._area_mean(valid, source, box) > 1 - TINY
        return (self._area_mean(foreground, source, box) > 0.5 - TINY) & known, known

    def _covering(self, box: Box) -> Box:
        """The raw voxels that a working box depends on."""
        taps = self._taps(box)
        return Box(triple([each.first for each in taps]), triple([each.stop for each in taps]))

    def _taps(self, box: Box) -> list[Taps]:
        return [
            resample_taps(a, b, f, n)
            for a, b, f, n in zip(box.start, box.stop, self.view.scale, self.raw.shape, strict=True)
        ]

    def _area_mean(self, values: Mask, source: Box, box: Box) -> NDArray[np.float32]:
        out = values.astype(np.float32)
        for axis, taps in enumerate(self._taps(box)):
            if self.view.scale[axis] != 1:
                out = taps.apply(out, axis, source.start[axis])
        return out

    # ---- for the sampler ----

    def working_regions(self) -> tuple[Box, ...]:
        """Annotated boxes in working voxels, only those that lie wholly inside."""
        boxes = []
        for region in self.regions:
            start = [ceil(a / f - EDGE) for a, f in zip(region.start, self.view.scale, strict=True)]
            stop = [
                shape if b == n else floor(b / f + EDGE)
                for b, f, n, shape in zip(region.stop, self.view.scale, self.raw.shape, self.view.shape, strict=True)
            ]
            if any(a >= b for a, b in zip(start, stop, strict=True)):
                raise SynbbError(f"data.volumes {self.settings.name!r}: region {region} holds no whole working voxel")
            boxes.append(Box(triple(start), triple(stop)))
        return tuple(boxes)

    def sampled(self) -> SampledVolume:
        """What the sampler must know; indexes the positives in one pass over the labels, with bounded memory."""
        regions = self.working_regions()
        nothing = np.zeros((0, 3), dtype=np.int32), np.zeros(0, dtype=np.int32)
        positives, owners = (
            nothing
            if self._labels is None
            else index_positives(regions, self.view.scale, lambda box: self.working_truth(box)[0])
        )
        return SampledVolume(self.settings.name, regions, self.settings.weight, positives, owners)

    def has_foreground(self) -> bool:
        """Whether a valid voxel of the regions is foreground."""
        blocks = (block for region in self.regions for block in region.blocks(SCANNED))
        return self._labels is not None and any(self.truth(block)[0].any() for block in blocks)

    def object_sizes(self) -> NDArray[np.float64]:
        """Volume in nm³ of each annotated object within the regions: by id, or 26-connected parts of a mask."""
        if self._labels is None:
            return np.zeros(0)
        voxels = self._voxels_by_id() if self.has_ids else self._voxels_by_component()
        return voxels.astype(np.float64) * float(np.prod(self.raw.voxel_size))

    def _voxels_by_id(self) -> NDArray[np.int64]:
        counts: Counter[int] = Counter()
        for region in self.regions:
            for block in region.blocks(SCANNED):
                ids = self.ids(block)
                names, voxels = np.unique(ids[ids > 0], return_counts=True)
                counts.update(dict(zip(names.tolist(), voxels.tolist(), strict=True)))
        return np.array([*counts.values()], np.int64)

    def _voxels_by_component(self) -> NDArray[np.int64]:
        found = [
            find_components(lambda box: (self.truth(box)[0], None), region, SCANNED).table.voxels
            for region in self.regions
        ]
        return np.concatenate(found)

    def prefetch(self, boxes: list[Box]) -> None:
        """Start loading the chunks under these working boxes."""
        if self._raw_cache is not None:
            self._raw_cache.prefetch([self.view.level_box(box) for box in boxes])
        if self._label_cache is not None and self._labels is not None:
            place = self._labels[1]
            common = [self._covering(box).intersect(place) for box in boxes]
            self._label_cache.prefetch([box.relative_to(place.start) for box in common if box is not None])

    def close(self) -> None:
        """Stop loader threads and drop cached chunks."""
        for cache in (self._raw_cache, self._label_cache):
            if cache is not None:
                cache.close()


def _check_inside(inner: Box, outer: Box, what: str, whose: str) -> None:
    if inner.empty or not outer.contains(inner):
        raise SynbbError(f"{what} {inner} is empty or not inside {whose}, which is {outer} (z, y, x voxels)")
