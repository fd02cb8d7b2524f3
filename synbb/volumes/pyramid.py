"""Coarser levels of an OME-Zarr image, each made from the one before, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import zarr

from synbb.errors import SynbbError, disk_errors
from synbb.volumes.box import Box, Nanometres, Triple, triple
from synbb.volumes.kinds import LABEL_KINDS, stated_kind
from synbb.volumes.ome import OmeLevel
from synbb.volumes.opening import open_volume
from synbb.volumes.storage import SHARDED_FROM, Voxels, default_shards
from synbb.volumes.writing import WritableVolume, create_level, set_levels

if TYPE_CHECKING:
    from synbb.volumes.volume import Volume

SMALLEST = 64  # voxels: a level that is no longer along any axis ends the pyramid
ISOTROPY = 1.5  # an axis is halved while its voxels are less than so many times the smallest

Progress = Callable[[int, int], None]


def holds_labels(volume: Volume) -> bool:
    """Whether values are names (averaging them makes no sense): 32 and 64 bit integers, or our own label volumes."""
    wide = volume.dtype.kind in "ui" and volume.dtype.itemsize >= 4
    return wide or stated_kind(volume) in LABEL_KINDS


def plan_levels(shape: Triple, voxel_size: Nanometres) -> list[Triple]:
    """Factors from level to level: the axes of small voxels are halved first, until the voxels are about cubes.

    Args:
        shape: voxels of level 0.
        voxel_size: nm.

    Returns:
        One triple of 1 and 2 for each coarser level.
    """
    size, length = list(voxel_size), list(shape)
    steps: list[Triple] = []
    while max(length) > SMALLEST:
        smallest = min(v for v, n in zip(size, length, strict=True) if n > SMALLEST)
        step = triple([2 if n > 1 and v < ISOTROPY * smallest else 1 for v, n in zip(size, length, strict=True)])
        steps.append(step)
        size = [v * f for v, f in zip(size, step, strict=True)]
        length = [-(-n // f) for n, f in zip(length, step, strict=True)]
    return steps


def downsample(block: Voxels, step: Sequence[int], *, labels: bool) -> Voxels:
    """Make every ``step`` voxels one: their mean, or for labels the most frequent (the first met, at a tie).

    Args:
        block: axes z, y, x, beginning at a whole number of steps; the far end may be incomplete.
        step: 1 or 2 for each axis.
        labels: whether values are names.

    Returns:
        Shape ceil(n / step), type of ``block``; means of integers are rounded (half to even).
    """
    # An incomplete step of two holds one voxel, so repeating it leaves mean and mode as they are.
    filled = np.pad(block, [(0, -n % f) for n, f in zip(block.shape, step, strict=True)], mode="edge")
    corners = product(*(range(f) for f in step))
    parts = [filled[tuple(slice(c, None, f) for c, f in zip(corner, step, strict=True))] for corner in corners]
    return _mode(parts) if labels else _mean(parts)


def _mean(parts: list[Voxels]) -> Voxels:
    dtype = parts[0].dtype
    total = np.zeros(parts[0].shape, np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64)
    for part in parts:
        total += part
    total /= len(parts)
    return (np.rint(total) if dtype.kind in "ui" else total).astype(dtype)


def _mode(parts: list[Voxels]) -> Voxels:
    best = parts[0].copy()
    most = sum((part == parts[0]).astype(np.uint8) for part in parts)
    for candidate in parts[1:]:
        votes = sum((part == candidate).astype(np.uint8) for part in parts)
        wins = votes > most
        best[wins] = candidate[wins]
        most = np.maximum(most, votes)
    return best


def pyramid_blocks(shape: Triple, voxel_size: Nanometres, chunks: Triple) -> int:
    """How many blocks :func:`build_pyramid` writes (for progress)."""
    count = 0
    for step in plan_levels(shape, voxel_size):
        shape = triple([-(-n // f) for n, f in zip(shape, step, strict=True)])
        count += sum(1 for _ in Box.of_shape(shape).blocks(_block(shape, chunks)))
    return count


def build_pyramid(path: str, *, name: str | None = None, progress: Progress | None = None) -> Volume:
    """Add coarser levels to an OME-Zarr image of one level that we wrote.

    Memory stays at a few blocks. The metadata names the new levels only when all are complete.

    Args:
        path: the zarr group, array ``0`` complete.
        name: the image's name; by default as it is.
        progress: told (blocks done, blocks in all).

    Raises:
        SynbbError: the image has coarser levels already.
        RunEnded: the disk is full.
    """
    finest = open_volume(path)
    if finest.coarser:
        raise SynbbError(f"{path}: has {len(finest.levels)} levels already")
    group = zarr.open_group(path, mode="r+")
    steps = plan_levels(finest.shape, finest.voxel_size)
    total = pyramid_blocks(finest.shape, finest.voxel_size, finest.chunks)
    done = 0
    levels = [OmeLevel("0", finest.voxel_size, finest.offset)]
    for number, step in enumerate(steps, start=1):
        for _ in _add_level(group, path, number, step, finest, labels=holds_labels(finest)):
            done += 1
            if progress is not None:
                progress(done, total)
        levels.append(_level(str(number), levels[-1], step))
    set_levels(path, name or _name_of(group), levels)
    return open_volume(path)


def _level(path: str, before: OmeLevel, step: Triple) -> OmeLevel:
    assert before.voxel_size is not None
    size = [v * f for v, f in zip(before.voxel_size, step, strict=True)]
    # The centre of two voxels is half a voxel beyond the centre of the first.
    offset = [o + (f - 1) / 2 * v for o, f, v in zip(before.offset, step, before.voxel_size, strict=True)]
    return OmeLevel(path, (size[0], size[1], size[2]), (offset[0], offset[1], offset[2]))


def _name_of(group: zarr.Group) -> str:
    attributes: Any = group.attrs.asdict()
    return str(attributes.get("ome", attributes)["multiscales"][0].get("name", ""))


def _grid_of(shape: Triple, chunks: Triple) -> tuple[Triple, Triple | None]:
    inner = triple([min(c, n) for c, n in zip(chunks, shape, strict=True)])
    return inner, default_shards(shape, inner) if prod(shape) > SHARDED_FROM else None


def _block(shape: Triple, chunks: Triple) -> Triple:
    """What is written at once: a shard, or as many chunks as a shard would hold."""
    return default_shards(shape, _grid_of(shape, chunks)[0])


def _add_level(
    group: zarr.Group, path: str, number: int, step: Triple, finest: Volume, *, labels: bool
) -> Iterator[Box]:
    """Write one level from the one before it, yielding each block when it is written."""
    with disk_errors(path):
        before = open_volume(f"{path}/{number - 1}", voxel_size=finest.voxel_size)
        shape = triple([-(-n // f) for n, f in zip(before.shape, step, strict=True)])
        array = create_level(group, str(number), shape, before.dtype, *_grid_of(shape, finest.chunks))
        level = WritableVolume(path, array)
        yield from coarsen(before, level, step, _block(shape, finest.chunks), labels=labels)


class Sink(Protocol):
    """What a level is written to."""

    @property
    def box(self) -> Box:
        """All voxels."""

    def write(self, box: Box, array: Voxels) -> None:
        """Write the voxels of ``box``."""


def coarsen(
    before: Volume, level: Sink, step: Triple, block: Triple, *, labels: bool, lead: Triple = (0, 0, 0)
) -> Iterator[Box]:
    """Write a level from the one before it, yielding each block when it is written.

    Args:
        before: the finer level.
        level: where to write.
        step: voxels of ``before`` in one of ``level``.
        block: voxels that are written at once.
        labels: whether values are names.
        lead: by how many voxels of ``before`` the level begins earlier; its first voxels are made of what is there.
    """
    for part in level.box.blocks(block):
        begin = [a * f - p for a, f, p in zip(part.start, step, lead, strict=True)]
        stop = [min(b * f - p, n) for b, f, p, n in zip(part.stop, step, lead, before.shape, strict=True)]
        found = before.read(Box(triple([max(a, 0) for a in begin]), triple(stop)))
        filled = np.pad(found, [(max(-a, 0), 0) for a in begin], mode="edge")
        level.write(part, downsample(filled, step, labels=labels))
        yield part
