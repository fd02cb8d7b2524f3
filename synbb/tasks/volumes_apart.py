"""Annotated volumes of a config beside each other: splits share no voxel, a split holds none twice, guards are told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING

from synbb.errors import SynbbError
from synbb.volumes import Box
from synbb.volumes.box import AXES, Nanometres, Triple, triple
from synbb.volumes.hdf5_storage import SUFFIXES, split_dataset
from synbb.volumes.stores import is_remote, split_kind
from synbb.volumes.streamed import CachedStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.tasks.annotated import AnnotatedVolume, VolumeSettings
    from synbb.volumes import Volume

Place = tuple[str, str]
Names = frozenset[Place]
"""Places that one volume goes by: what was written, and the array that was opened there. Empty for no volume."""


def place_of(path: str) -> Place:
    """File and dataset in it, however the path to the file is written; an array in a folder is a folder itself."""
    _, place = split_kind(path)
    return _place(*split_dataset(place))


def _place(file: str, dataset: str | None) -> Place:
    if dataset and not file.lower().endswith(SUFFIXES):
        file, dataset = f"{file}/{dataset}", None
    where = file.rstrip("/") if is_remote(file) else str(Path(file).resolve())
    return where, dataset or ""


def _written(path: str | None) -> Names:
    return frozenset() if path is None else frozenset({place_of(path)})


def _opened(volume: Volume | None) -> Names:
    """The array of a volume's finest level: an image and its first array, say, are one place."""
    if volume is None:
        return frozenset()
    storage = volume.storage.original.storage if isinstance(volume.storage, CachedStorage) else volume.storage
    file = getattr(storage, "path", None)  # what lies in memory has none
    return frozenset() if file is None else frozenset({_place(file, getattr(storage, "dataset", None))})


@dataclass(frozen=True)
class Part:
    """Where an entry of ``data.volumes`` lies.

    Attributes:
        settings: the entry.
        raw: places of its grey volume.
        labels: of its labels.
        mask: of its mask.
        regions: annotated boxes, voxels of raw; none where they are not known before the volume is opened.
        voxel_size: of raw, nm; None before it is opened.
    """

    settings: VolumeSettings
    raw: Names
    labels: Names
    mask: Names
    regions: tuple[Box, ...]
    voxel_size: Nanometres | None = None

    @classmethod
    def named(cls, settings: VolumeSettings) -> Part:
        """As the config says.

        Raises:
            SynbbError: a region has another form.
        """
        try:
            regions = tuple(map(Box.parse, settings.regions))
        except SynbbError as error:
            raise SynbbError(f"data.volumes {settings.name!r}: {error}") from None
        labels, mask = settings.annotation
        return cls(settings, _written(settings.raw), _written(labels), _written(mask), regions)

    @classmethod
    def opened(cls, volume: AnnotatedVolume) -> Part:
        """As the files say."""
        regions = tuple(region.translate(volume.extent.start) for region in volume.regions)
        named = cls.named(volume.settings)
        return replace(
            named,
            raw=named.raw | _opened(volume.raw),
            labels=named.labels | _opened(volume.labels),
            mask=named.mask | _opened(volume.mask),
            regions=regions,
            voxel_size=volume.raw.voxel_size,
        )

    def annotated_as(self, other: Part) -> bool:
        """Whether labels and mask are the same: two annotations of one place are no repetition."""
        return _same(self.labels, other.labels) and _same(self.mask, other.mask)

    def __str__(self) -> str:
        return f"{self.settings.name!r} ({self.settings.split})"


def check_splits_apart(parts: Sequence[Part]) -> None:
    """What is trained on may not be validated on or scored, nor the other way round.

    Raises:
        SynbbError: two splits share voxels, which are named.
    """
    for one, other in combinations(parts, 2):
        common = _common(one, other) if one.settings.split != other.settings.split else None
        if common is not None:
            raise SynbbError(
                f"data.volumes {one} and {other} share voxels {common} of {one.settings.raw}: splits must lie apart, "
                "with a guard of at least the network's view between them"
            )


def check_named_once(parts: Sequence[Part]) -> None:
    """What a split names twice would be drawn, and counted, twice.

    Raises:
        SynbbError: regions of one split share voxels, with the same annotation.
    """
    for part in parts:
        for first, second in combinations(part.regions, 2):
            if first.intersect(second) is not None:
                raise SynbbError(
                    f"data.volumes {part}: regions {first} and {second} share voxels, which would count twice; "
                    "leave out what they share in one of them"
                )
    for one, other in combinations(parts, 2):
        same = one.settings.split == other.settings.split and one.annotated_as(other)
        common = _common(one, other) if same else None
        if common is not None:
            raise SynbbError(
                f"data.volumes {one} and {other} both name voxels {common} of {one.settings.raw}, which would count "
                "twice; leave them out of one of the two (`weight` says how often an entry is drawn)"
            )


def missing_guards(parts: Sequence[Part], halo: Triple, working: Nanometres) -> list[str]:
    """A line for each two splits so close that the network sees what the other is scored on.

    Args:
        parts: of two with one raw and different splits at least one is opened; they share no voxel.
        halo: what the network sees beyond a voxel, working voxels.
        working: voxel size, nm.
    """
    lines = []
    for one, other in combinations(parts, 2):
        size = one.voxel_size or other.voxel_size
        if one.settings.split == other.settings.split or not _same(one.raw, other.raw) or size is None:
            continue
        view = triple([round(h * w / s) for h, w, s in zip(halo, working, size, strict=True)])
        for first, second in product(one.regions, other.regions):
            if first.grow(view).intersect(second) is None:
                continue
            axis = _axis_between(first, second)
            names = " and ".join(f"{each.settings.name} ({each.settings.split})" for each in (one, other))
            lines.append(
                f"{names} lie {first.gap(second, axis)} voxels apart along {AXES[axis]}, and the network sees "
                f"{view[axis]}: next to the border one is scored with grey values of the other in view (no labels); "
                "leave a guard as wide as that between them"
            )
            break
    return lines


def _axis_between(first: Box, second: Box) -> int:
    """The axis along which two boxes that share no voxel lie furthest apart, be it that they touch."""
    apart = [a for a in range(3) if first.stop[a] <= second.start[a] or second.stop[a] <= first.start[a]]
    return max(apart, key=lambda axis: first.gap(second, axis))


def _same(one: Names, other: Names) -> bool:
    return one == other or not one.isdisjoint(other)


def _common(one: Part, other: Part) -> Box | None:
    """Voxels that both name, the first that are found."""
    if not _same(one.raw, other.raw):
        return None
    shared = (first.intersect(second) for first, second in product(one.regions, other.regions))
    return next((box for box in shared if box is not None), None)
