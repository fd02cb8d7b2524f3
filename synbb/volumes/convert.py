"""Conversion of any readable volume to OME-Zarr or precomputed, chunk by chunk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synbb.errors import SynbbError, disk_errors, make_folder
from synbb.volumes.box import Box, Nanometres, Triple, triple
from synbb.volumes.hdf5_storage import split_dataset
from synbb.volumes.image_stack import StackStorage
from synbb.volumes.ome import VERSION
from synbb.volumes.opening import open_volume
from synbb.volumes.precomputed import CHUNK, SHIFT, Scale, Target, check_dtype, first_voxel, shift
from synbb.volumes.pyramid import Progress, build_pyramid, coarsen, holds_labels, plan_levels, pyramid_blocks
from synbb.volumes.storage import Voxels, default_shards
from synbb.volumes.stores import is_remote, split_kind
from synbb.volumes.writing import (
    WritableVolume,
    check_named,
    check_target,
    check_zarr_name,
    create_volume,
    followed,
    holds,
    publish,
)

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
    ome_version: str | None = None,
    progress: Progress | None = None,
) -> Volume:
    """Write a volume as OME-Zarr or as neuroglancer precomputed, values, type and offset unchanged.

    One block at a time is in memory (about 256 MB). The result is written beside ``dst`` and renamed when it is
    complete, so ``dst`` is never half-written; a source's coarser levels are not copied but made anew.

    Args:
        src: as for :func:`open_volume`.
        dst: the zarr to make, or ``precomputed://FOLDER``; where it is a symbolic link, the place that it leads to.
        voxel_size: z, y, x in nm, needed where the source states none.
        dataset: array inside the source.
        pyramid: add coarser levels: means, or for labels the most frequent value.
        chunks: voxels of a chunk.
        shards: voxels of a shard.
        overwrite: replace a zarr or precomputed volume at ``dst``, which may be the source if that is all of it.
        ome_version: of an OME-Zarr: 0.5 (zarr v3), the default, or 0.4 (zarr v2).
        progress: told (blocks done, blocks in all).

    Raises:
        SynbbError: unreadable source, missing voxel size, or ``dst`` exists, or holds the source as a part.
        RunEnded: the disk is full.
    """
    kind, place = split_kind(str(dst))
    if is_remote(place) or kind == "n5":
        raise SynbbError(f"{dst}: volumes are written to folders, as OME-Zarr or precomputed://FOLDER; choose one")
    check_named(Path(place))
    if kind != "precomputed":
        check_zarr_name(Path(place))
    target = followed(Path(place))
    check_target(target, overwrite=overwrite)
    source = open_volume(src, dataset=dataset, voxel_size=voxel_size)
    if holds(target, source) and not _is_all_of(target, source, str(src), dataset):
        raise SynbbError(
            f"{dst}: holds the source {source.path} beside other things, which would be removed; choose another name"
        )
    if kind == "precomputed":
        if shards is not None:
            raise SynbbError(f"{dst}: precomputed volumes are written without shards; leave them out")
        if ome_version is not None:
            raise SynbbError(f"{dst}: a precomputed volume has no OME version, {ome_version} was given; leave it out")
        _to_precomputed(source, target, src, pyramid=pyramid, chunks=chunks, overwrite=overwrite, progress=progress)
        return open_volume(str(dst))
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
            ome_version=ome_version or VERSION,
        )
        later = pyramid_blocks(source.shape, source.voxel_size, out.chunks) if pyramid else 0
        copied = _copy(source, out, later, progress, part.parent)
        if pyramid:
            build_pyramid(str(part), progress=_shifted(progress, copied))
    return open_volume(Path(place))


def _to_precomputed(
    source: Volume,
    target: Path,
    src: str | Path,
    *,
    pyramid: bool,
    chunks: Sequence[int] | None,
    overwrite: bool,
    progress: Progress | None,
) -> None:
    """Write the scales of a precomputed volume, each from the one before."""
    check_dtype(source.dtype, str(target))
    first, size = first_voxel(source.offset, source.voxel_size), source.voxel_size
    labels = holds_labels(source)
    off_grid = shift(source.offset, size)
    attributes = {**source.attributes, "converted_from": str(src), SHIFT: off_grid}
    plan = scales(source.shape, size, first) if pyramid else []
    with _beside(target, overwrite=overwrite) as part:
        grid = CHUNK if chunks is None else triple(chunks)
        out = Target(part, source.dtype, labels, attributes, grid)
        scale = out.scale(source.shape, size, first)
        later = sum(sum(1 for _ in Box.of_shape(s).blocks(default_shards(s, grid))) for _, _, s, _ in plan)
        done = _copy(source, scale, later, progress, part.parent)
        total = done + later
        for number, (step, lead, shape, begin) in enumerate(plan):
            before = open_volume(f"precomputed://{part}").levels[number]
            size = _times(size, step)
            scale = out.scale(shape, size, begin)
            for _ in coarsen(before, scale, step, default_shards(shape, grid), labels=labels, lead=lead):
                done += 1
                if progress is not None:
                    progress(done, total)
        out.finish()


def scales(shape: Triple, voxel_size: Nanometres, first: Triple) -> list[tuple[Triple, Triple, Triple, Triple]]:
    """Step, lead, shape and first voxel of every coarser scale, all on the grid from the world's origin."""
    plan = []
    for step in plan_levels(shape, voxel_size):
        begin = triple([a // f for a, f in zip(first, step, strict=True)])
        stop = [-(-(a + n) // f) for a, n, f in zip(first, shape, step, strict=True)]
        lead = triple([a % f for a, f in zip(first, step, strict=True)])
        shape, first = triple([b - a for a, b in zip(begin, stop, strict=True)]), begin
        plan.append((step, lead, shape, first))
    return plan


def _times(size: Nanometres, step: Triple) -> Nanometres:
    z, y, x = (v * f for v, f in zip(size, step, strict=True))
    return z, y, x


def _is_all_of(target: Path, source: Volume, src: str, dataset: str | None) -> bool:
    """Whether the source is the whole volume at ``target``, named as such: that may be rewritten in its place."""
    file, inner = split_dataset(split_kind(src)[1], dataset)
    at = Path(getattr(source.storage, "path", source.path)).resolve()
    if (target / "labels").is_dir():  # label images that an OME-Zarr carries within it
        return False
    return (Path(file) / (inner or "")).resolve() == target.resolve() and target.resolve() in (at, at.parent)


@contextmanager
def _beside(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A place to write ``target`` in: renamed to it on success, removed on any failure."""
    with disk_errors(str(target)):
        make_folder(target.parent)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            part = scratch / target.name
            yield part
            check_target(target, overwrite=overwrite)
            publish(part, target)
        except SynbbError as error:  # people know the target, not the scratch
            raise type(error)(str(error).replace(str(scratch / target.name), str(target))) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _shifted(progress: Progress | None, before: int) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(done + before, total + before)


def _copy(source: Volume, out: WritableVolume | Scale, later: int, progress: Progress | None, scratch: Path) -> int:
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
