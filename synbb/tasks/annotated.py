"""An EM volume with its annotation: what a run trains on, validates on or tests on.

Labels are placed on the raw volume by offset and voxel size. Whatever lies outside the label array, the given regions
or the annotated mask, or carries an ignore value, is *invalid*: loss, sampler, on-rates and scores pass over it.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synbb.errors import SynbbError
from synbb.evaluation.labels import foreground_and_valid
from synbb.schema import Settings
from synbb.tasks.sampling import SampledVolume
from synbb.volumes import Box, Volume, open_volume, placement
from synbb.volumes.box import triple
from synbb.volumes.resample import EDGE, WorkingView
from synbb.volumes.statistics import Normalisation, measure_normalisation
from synbb.volumes.stream import ChunkCache
from synbb.volumes.streamed import streamed
from synbb.volumes.taps import resample_taps

MAX_POSITIVES = 4_000_000
NEGATIVE = "none"

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


class AnnotatedVolume:
    """An opened :class:`VolumeSettings` at a working voxel size.

    Attributes:
        settings: what it was made of.
        raw: the grey volume, cut to its extent; all boxes here are in its voxels or in working voxels.
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
        self.raw = whole.crop(extent)
        self._labels, label_box = self._annotation(settings.labels, whole, extent)
        self._mask, _ = self._annotation(settings.mask, whole, extent)
        regions = [Box.parse(text) for text in settings.regions] or [label_box.translate(extent.start)]
        for region in regions:
            _check_inside(region, whole.box, "region", settings.raw)
            _check_inside(region, extent, "region", f"the extent of {settings.raw}")
        self.regions = tuple(region.relative_to(extent.start) for region in regions)
        if not any(region.intersect(label_box) for region in self.regions):
            raise SynbbError(f"labels {settings.labels} cover {label_box} of raw, outside every region given")
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
        if path is None or path == NEGATIVE:
            return None, everywhere
        volume = open_volume(path, voxel_size=self.settings.voxel_size)
        box = placement(volume, whole).relative_to(extent.start)
        common = box.intersect(everywhere)
        if common is None:
            raise SynbbError(f"{path} covers {box.translate(extent.start)} of raw, outside the extent {extent}")
        return (volume.crop(common.relative_to(box.start)), common), common

    # ---- facts ----

    @property
    def licence(self) -> str | None:
        """Licence of the data, from the config or the files."""
        return self.settings.licence or self.raw.attributes.get("licence")

    @property
    def citation(self) -> str | None:
        """Whom to cite, from the config or the files."""
        return self.settings.citation or self.raw.attributes.get("citation")

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
        foreground, valid = self._stored_truth(box)
        valid &= inside
        return foreground & valid, valid

    def _stored_truth(self, box: Box) -> tuple[Mask, Mask]:
        """As :meth:`truth`, regions aside."""
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

    def working_truth(self, box: Box) -> tuple[Mask, Mask]:
        """Foreground and validity of a working box: foreground where at least half of the raw voxels are, valid where all are."""
        source = self._covering(box)
        foreground, valid = self.truth(source)
        if source.shape == box.shape and all(f == 1 for f in self.view.scale):
            return foreground, valid
        share = self._area_mean(foreground, source, box)
        return (share >= 0.5) & (known := self._area_mean(valid, source, box) > 1 - 1e-3), known

    def _covering(self, box: Box) -> Box:
        start = [floor(a * f + EDGE) for a, f in zip(box.start, self.view.scale, strict=True)]
        stop = [ceil(b * f - EDGE) for b, f in zip(box.stop, self.view.scale, strict=True)]
        return Box(triple(start), triple([min(b, n) for b, n in zip(stop, self.raw.shape, strict=True)]))

    def _area_mean(self, values: Mask, source: Box, box: Box) -> NDArray[np.float32]:
        out = values.astype(np.float32)
        for axis in range(3):
            factor = self.view.scale[axis]
            if factor != 1:
                taps = resample_taps(box.start[axis], box.stop[axis], factor, self.raw.shape[axis])
                first = min(taps.first, source.start[axis])
                out = taps.apply(out, axis, first)
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
        """Index the positives once, a pass over the labels' chunks with bounded memory."""
        regions = self.working_regions()
        found: list[NDArray[np.int32]] = []
        owner: list[NDArray[np.int32]] = []
        scale = np.array(self.view.scale)
        if self._labels is not None:
            for number, region in enumerate(self.regions):
                for block in region.blocks((64, 512, 512)):
                    foreground, _ = self.truth(block)
                    voxels = np.argwhere(foreground) + np.array(block.start)
                    working = np.floor((voxels + 0.5) / scale).astype(np.int32)
                    limits = regions[number]
                    keep = np.all((working >= limits.start) & (working < limits.stop), axis=1)
                    unique = np.unique(working[keep], axis=0)
                    found.append(unique)
                    owner.append(np.full(len(unique), number, dtype=np.int32))
        positives = np.concatenate(found) if found else np.zeros((0, 3), dtype=np.int32)
        owners = np.concatenate(owner) if owner else np.zeros(0, dtype=np.int32)
        if len(positives) > MAX_POSITIVES:
            chosen = np.random.default_rng(0).choice(len(positives), MAX_POSITIVES, replace=False)
            positives, owners = positives[np.sort(chosen)], owners[np.sort(chosen)]
        return SampledVolume(regions, self.settings.weight, positives, owners)

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
