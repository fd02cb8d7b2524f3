"""From stored arrays and what their metadata say to one volume with its pyramid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Nanometres
from synbb.volumes.storage import Storage, check_voxel_size, no_voxel_size, plain_dtype
from synbb.volumes.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from synbb.volumes.ome import OmeImage, OmeLevel


def volume_of(path: str, storage: Storage, size: Nanometres | None, offset: Nanometres | None) -> Volume:
    """A volume of one level.

    Raises:
        SynbbError: no voxel size, no voxel, or values that are no numbers.
    """
    if size is None:
        raise no_voxel_size(path)
    plain_dtype(storage.dtype, path)
    if 0 in storage.shape:
        raise SynbbError(f"{path}: shape {storage.shape} holds no voxel")
    return Volume(path, storage, Box.of_shape(storage.shape), size, offset or (0.0, 0.0, 0.0))


def volume_of_levels(
    path: str, image: OmeImage, storages: Sequence[Storage], size: Nanometres | None, attributes: Mapping[str, Any]
) -> Volume:
    """A volume with its pyramid.

    Args:
        path: as given, for messages.
        image: names of the stored axes, voxel sizes and offsets of the levels.
        storages: of the levels.
        size: overrules the finest level's voxel size; the others keep their ratio to it, and their place.
        attributes: metadata of the file, of which ours are kept.

    Raises:
        SynbbError: no voxel size.
    """
    volumes = []
    sizes = _sizes(path, image, size)
    for level, storage, voxel_size in zip(image.levels, storages, sizes, strict=True):
        offset = _offset(image, level, voxel_size, sizes[0])
        volumes.append(replace(volume_of(path, storage, voxel_size, offset), stored_axes=image.axes, unit=image.unit))
    return with_metadata(replace(volumes[0], coarser=tuple(volumes[1:])), attributes)


def alone(image: OmeImage, level: OmeLevel) -> OmeImage:
    """The image of one of its levels, at the place that it has in the pyramid."""
    finest = image.levels[0].voxel_size
    if level.voxel_size is not None and finest is not None:
        level = replace(level, offset=_offset(image, level, level.voxel_size, finest))
    return replace(image, levels=(level,))


def with_metadata(volume: Volume, attributes: Mapping[str, Any]) -> Volume:
    """The volume carrying our part (``synbb``) of a file's metadata."""
    ours = attributes.get("synbb")
    return volume.with_attributes(ours) if isinstance(ours, dict) else volume


def _offset(image: OmeImage, level: OmeLevel, size: Nanometres, finest: Nanometres) -> Nanometres:
    """Centre of a level's first voxel, nm, where ``size`` and ``finest`` are its voxel size and that of the finest."""
    first = image.levels[0]
    if level.voxel_size is None or first.voxel_size is None:  # stated in voxels
        z, y, x = (o * v for o, v in zip(level.offset, size, strict=True))
    elif level is not first and level.offset == first.offset and not image.placed:
        z, y, x = (o + (v - f) / 2 for o, v, f in zip(first.offset, size, finest, strict=True))
    else:  # as far from the finest, in voxels, as is stated
        apart = [
            (a - b) * (f / v - 1)
            for a, b, f, v in zip(level.offset, first.offset, finest, first.voxel_size, strict=True)
        ]
        z, y, x = (o + more for o, more in zip(level.offset, apart, strict=True))
    return z, y, x


def _sizes(path: str, image: OmeImage, size: Nanometres | None) -> list[Nanometres]:
    """Voxel size of every level."""
    stated = [level.voxel_size for level in image.levels]
    if size is None:
        known = [check_voxel_size(s, path) for s in stated if s is not None]
        if len(known) < len(stated):
            raise no_voxel_size(path)
        return known
    first = stated[0]
    if first is None:
        if len(stated) > 1:
            raise SynbbError(
                f"{path}: its levels state no scale in a known unit; open one of them, for example "
                f"{path}:{image.levels[0].path}"
            )
        return [size]
    scaled = []
    for level in stated:
        z, y, x = (v * g / f for v, g, f in zip(level or first, size, first, strict=True))
        scaled.append((z, y, x))
    return scaled
