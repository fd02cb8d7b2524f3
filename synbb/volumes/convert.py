"""Conversion of any readable volume to OME-Zarr 0.5, chunk by chunk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synbb.errors import SynbbError, disk_errors
from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.image_stack import StackStorage
from synbb.volumes.opening import open_volume
from synbb.volumes.pyramid import Progress, build_pyramid, pyramid_blocks
from synbb.volumes.storage import Voxels
from synbb.volumes.writing import WritableVolume, clear_target, create_volume, is_zarr

if TYPE_CHECKING:
    from synbb.volumes.volume import Volume

BLOCK_BYTES = 2**28

Read = Callable[[Box], Voxels]


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    voxel_size: Sequence[float] | None = None,
    dataset: str | None = None,
    pyramid: bool = False,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Volume:
    """Write a volume as OME-Zarr 0.5 (zarr v3), values, type and offset unchanged.

    One block at a time is in memory (about 256 MB). The result is written beside ``dst`` and renamed when it is
    complete, so ``dst`` is never half-written; a source's coarser levels are not copied but made anew.

    Args:
        src: as for :func:`open_volume`.
        dst: the zarr to make.
        voxel_size: z, y, x in nm, needed where the source states none.
        dataset: array inside the source.
        pyramid: add coarser levels: means, or for labels the most frequent value.
        chunks: voxels of a chunk.
        shards: voxels of a shard.
        overwrite: replace a zarr at ``dst``.
        progress: told (blocks done, blocks in all).

    Raises:
        SynbbError: unreadable source, missing voxel size, or ``dst`` exists.
        RunEnded: the disk is full.
    """
    target = Path(dst)
    _check_target(target, overwrite=overwrite)
    source = open_volume(src, dataset=dataset, voxel_size=voxel_size)
    with _beside(target, overwrite=overwrite) as part:
        out = create_volume(
            part,
            shape=source.shape,
            dtype=source.dtype,
            voxel_size=source.voxel_size,
            offset=source.offset,
            chunks=chunks,
            shards=shards,
            attributes={**source.attributes, "converted_from": str(src)},
            name=target.stem,
        )
        later = pyramid_blocks(source.shape, source.voxel_size, out.chunks) if pyramid else 0
        copied = _copy(source, out, later, progress, part.parent)
        if pyramid:
            build_pyramid(str(part), progress=_shifted(progress, copied))
    return open_volume(target)


def _check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse at once what could only fail at the end."""
    if overwrite and is_zarr(target):
        return
    clear_target(target, overwrite=overwrite)


@contextmanager
def _beside(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A place to write ``target`` in: renamed to it on success, removed on any failure."""
    with disk_errors(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            part = scratch / target.name
            yield part
            clear_target(target, overwrite=overwrite)
            part.replace(target)
        except SynbbError as error:  # people know the target, not the scratch
            raise type(error)(str(error).replace(str(scratch / target.name), str(target))) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _shifted(progress: Progress | None, before: int) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(done + before, total + before)


def _copy(source: Volume, out: WritableVolume, later: int, progress: Progress | None, scratch: Path) -> int:
    """Copy level 0; returns the number of blocks."""
    shape = block_shape(source, out.unit)
    total = sum(1 for _ in source.box.blocks(shape))
    done = 0
    for slab in source.box.blocks((shape[0], *source.shape[1:])):
        with _slab_reader(source, slab, shape, scratch) as read:
            for block in slab.blocks(shape):
                out.write(block, read(block))
                done += 1
                if progress is not None:
                    progress(done, total + later)
    return done


def block_shape(source: Volume, unit: Sequence[int], limit: int = BLOCK_BYTES) -> Triple:
    """What is copied at once: whole target files, as much of whole source chunks as the limit allows.

    Args:
        source: the volume to be read.
        unit: voxels of one file (shard or chunk) of the target.
        limit: bytes; exceeded only where one target file is larger.
    """
    step = [int(u) for u in unit]
    wanted = source.shards or source.chunks
    block = [u * max(1, -(-min(w, n) // u)) for u, w, n in zip(step, wanted, source.shape, strict=True)]
    for axis in (0, 1, 2):  # sections are cut last along x, where files run contiguously
        rest = prod(block) // block[axis] * source.dtype.itemsize
        block[axis] = min(block[axis], max(1, limit // (rest * step[axis])) * step[axis])
    return triple(block)


@contextmanager
def _slab_reader(source: Volume, slab: Box, block: Triple, scratch: Path) -> Iterator[Read]:
    """How to read the blocks of one slab of sections.

    A compressed section can only be decoded whole. Where a slab is cut into several blocks, each section is decoded
    once into an uncompressed file beside the target, and the blocks are read from there.
    """
    storage = source.storage
    direct = not isinstance(storage, StackStorage) or all(section.offset is not None for section in storage.sections)
    if direct or slab.shape[1:] == tuple(min(b, n) for b, n in zip(block[1:], slab.shape[1:], strict=True)):
        yield source.read
        return
    with tempfile.TemporaryFile(dir=scratch) as spool:
        for z in range(slab.start[0], slab.stop[0]):
            section = Box((z, *slab.start[1:]), (z + 1, *slab.stop[1:]))
            spool.write(source.read(section).tobytes())
        spool.flush()
        planes = np.memmap(spool, source.dtype, "r", shape=slab.shape)

        def read(box: Box) -> Voxels:
            return np.array(planes[box.relative_to(slab.start).slices])

        yield read
