"""Creating volumes: OME-Zarr 0.5 on zarr v3, or 0.4 on zarr v2."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from synbb.errors import START_AGAIN, RunEnded, SynbbError, disk_errors, make_folder
from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.ome import VERSION, ZARR_FORMATS, OmeLevel, image_metadata
from synbb.volumes.opening import open_volume
from synbb.volumes.precomputed import is_precomputed_folder
from synbb.volumes.storage import Voxels, check_voxel_size, default_grid, plain_dtype
from synbb.volumes.zarr_opening import is_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from synbb.volumes.volume import Volume


OTHER_ENDINGS = frozenset({".tif", ".tiff", ".h5", ".hdf", ".hdf5", ".n5", ".png", ".csv", ".npy"})
"""Of files that a zarr must not be taken for."""


class OutputRemoved(RunEnded):
    """Somebody removed a volume while it was being written."""


class WritableVolume:
    """A volume under construction: one array (level 0) of an OME-Zarr group.

    Blocks that are whole shards (or chunks, without shards) may be written from several threads and
    processes at once. The object can be pickled.
    """

    def __init__(self, path: str, array: zarr.Array) -> None:
        self.path = path
        self.array = array

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return triple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def chunks(self) -> Triple:
        """Voxels of a chunk."""
        return triple(self.array.chunks)

    @property
    def shards(self) -> Triple | None:
        """Voxels of a shard, None where each chunk is a file."""
        return None if self.array.shards is None else triple(self.array.shards)

    @property
    def unit(self) -> Triple:
        """Voxels that one file holds: blocks that are whole multiples of it can be written independently."""
        return self.shards or self.chunks

    @property
    def box(self) -> Box:
        """All voxels."""
        return Box.of_shape(self.shape)

    @property
    def volume(self) -> Volume:
        """The volume as it is now, for reading."""
        return open_volume(self.path)

    @property
    def attributes(self) -> dict[str, Any]:
        """Our metadata as stored now."""
        return dict(_open_group(self.path).attrs.asdict().get("synbb", {}))

    def write(self, box: Box, array: Voxels, *, remedy: str = START_AGAIN) -> None:
        """Write the voxels of ``box``.

        Args:
            box: a region inside the volume.
            array: values of shape ``box.shape`` and of the volume's type.
            remedy: what to do about a full disk, for the message.

        Raises:
            SynbbError: wrong shape or type, or a region that is not inside.
            RunEnded: the disk is full, or the volume was removed.
        """
        if not self.box.contains(box):
            raise SynbbError(f"{self.path}: region {box.named} is not inside the volume, which is {self.box.named}")
        if tuple(array.shape) != box.shape:
            raise SynbbError(
                f"{self.path}: an array of shape {tuple(array.shape)} does not fill region {box}, {box.shape}"
            )
        if array.dtype.newbyteorder("=") != self.dtype:
            raise SynbbError(
                f"{self.path}: values are {array.dtype}, the volume holds {self.dtype}; convert them first"
            )
        if box.empty:
            return
        try:
            with disk_errors(self.path, remedy):
                # File by file: of several at once, zarr would go on writing the others after one has failed.
                for part in box.blocks(self.unit):
                    self._put(part, array[part.relative_to(box.start).slices])
        except FileNotFoundError:  # while it is being removed, a file loses its folder between writing and renaming
            self.check_there()
            raise

    def _put(self, part: Box, values: Voxels) -> None:
        """Write what belongs to one file."""
        self.array[part.slices] = values

    def check_there(self) -> None:
        """Make sure that nobody removed the volume meanwhile; files would be written in its place all the same.

        Raises:
            OutputRemoved: the metadata of group or array are gone.
        """
        for folder in (Path(self.path), Path(self.path) / self.array.name.strip("/")):
            if not is_zarr(folder):
                raise OutputRemoved(
                    f"{self.path}: was removed while it was being written ({folder} has no metadata any more); remove "
                    "what is left of it, then start again"
                )

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Merge ``attributes`` into our metadata in the file.

        Raises:
            RunEnded: the disk is full.
        """
        with disk_errors(self.path):
            group = _open_group(self.path)
            group.attrs["synbb"] = {**group.attrs.asdict().get("synbb", {}), **attributes}


def create_volume(
    path: str | Path,
    *,
    shape: Sequence[int],
    dtype: Any,
    voxel_size: Sequence[float],
    offset: Sequence[float] = (0.0, 0.0, 0.0),
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    name: str | None = None,
    empty_chunks: bool = True,
    ome_version: str = VERSION,
) -> WritableVolume:
    """Create an OME-Zarr image whose array ``0`` is filled with zeros.

    Args:
        path: folder to create, ``something.zarr``.
        shape: voxels along z, y, x.
        dtype: type of the values.
        voxel_size: nm.
        offset: nm, centre of the first voxel.
        chunks: voxels of a chunk; by default 32 x 128 x 128 or what fits.
        shards: voxels of a shard, a multiple of the chunks; by default about 64 x 512 x 512 for volumes above a
            quarter gigavoxel, none below and none where only ``chunks`` is given.
        attributes: our metadata (``synbb``).
        overwrite: replace a zarr that is already there.
        name: the image's name; by default that of the folder.
        empty_chunks: store chunks that are 0 everywhere, so that a lost one can be told from an empty one.
        ome_version: 0.5, or 0.4 for programs that read no zarr v3 (it has no shards).

    Raises:
        SynbbError: something is at ``path`` already, or an argument makes no sense.
        RunEnded: the disk is full.
    """
    where = followed(Path(path))
    size = check_voxel_size(voxel_size, str(path))
    z, y, x = (float(o) for o in offset)
    voxels = triple(shape)
    if min(voxels) < 1:
        raise SynbbError(f"{path}: shape {voxels} holds no voxel")
    values = plain_dtype(dtype, str(path))
    if ome_version not in ZARR_FORMATS:
        raise SynbbError(f"{path}: OME-Zarr {ome_version} is not written, only {' and '.join(ZARR_FORMATS)}")
    if shards is not None and ZARR_FORMATS[ome_version] == 2:
        raise SynbbError(f"{path}: OME-Zarr {ome_version} (zarr v2) has no shards; leave them out, or write 0.5")
    grid = _grid(str(path), voxels, chunks, shards)
    check_target(where, overwrite=overwrite)
    if is_volume(where):
        remove_volume(where)
    level = OmeLevel("0", size, (z, y, x))
    with disk_errors(str(path)):
        make_folder(where.parent)
        metadata = {**image_metadata(name or where.stem, [level], ome_version), "synbb": dict(attributes or {})}
        version = ZARR_FORMATS[ome_version]
        group = zarr.open_group(str(where), mode="w", zarr_format=version, attributes=metadata)
        array = create_level(group, "0", voxels, values, *grid, empty_chunks=empty_chunks)
    return WritableVolume(str(path), array)


def create_level(
    group: zarr.Group,
    path: str,
    shape: Triple,
    dtype: np.dtype[Any],
    chunks: Triple,
    shards: Triple | None,
    *,
    empty_chunks: bool = True,
) -> zarr.Array:
    """One array of the pyramid, zstd-compressed; zarr v2 has neither shards nor names of axes."""
    v3 = group.metadata.zarr_format == 3
    return group.create_array(
        path,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards if v3 else None,
        fill_value=0,
        dimension_names=("z", "y", "x") if v3 else None,
        chunk_key_encoding=None if v3 else {"name": "v2", "separator": "/"},  # OME-Zarr 0.4 asks for folders
        config={"write_empty_chunks": empty_chunks},
    )


def set_levels(path: str, name: str, levels: Sequence[OmeLevel]) -> None:
    """State the levels of the pyramid in the group's metadata."""
    with disk_errors(path):
        group = _open_group(path)
        version = next(v for v, number in ZARR_FORMATS.items() if number == group.metadata.zarr_format)
        group.attrs.update(image_metadata(name, levels, version))


def _open_group(path: str) -> zarr.Group:
    return zarr.open_group(path, mode="r+")


def _grid(
    path: str, shape: Triple, chunks: Sequence[int] | None, shards: Sequence[int] | None
) -> tuple[Triple, Triple | None]:
    usual_chunks, usual_shards = default_grid(shape)
    if shards is None:
        if chunks is None:
            return usual_chunks, usual_shards
        return _positive(path, "chunks", chunks), None
    outer = _positive(path, "shards", shards)
    inner = triple(np.minimum(usual_chunks, outer).tolist()) if chunks is None else _positive(path, "chunks", chunks)
    if any(s % c for s, c in zip(outer, inner, strict=True)):
        raise SynbbError(f"{path}: shards {outer} are no whole number of chunks {inner}; choose multiples")
    return inner, outer


def _positive(path: str, what: str, values: Sequence[int]) -> Triple:
    if len(values) != 3 or min(int(v) for v in values) < 1:
        raise SynbbError(f"{path}: {what} {tuple(values)} must be three positive numbers of voxels: z, y, x")
    return triple(values)


def check_target(where: Path, *, overwrite: bool) -> None:
    """Make sure that a volume may be put at ``where``: nothing is there, or what may be replaced.

    Raises:
        SynbbError: something is there, and ``overwrite`` is false or it is neither a zarr nor precomputed.
    """
    if not where.exists() and not where.is_symlink():
        return
    if where.is_dir() and not any(where.iterdir()):
        return
    if not overwrite:
        raise SynbbError(
            f"{where}: exists already; remove it, choose another name, or ask to overwrite it (--overwrite)"
        )
    if not is_volume(where):
        raise SynbbError(
            f"{where}: exists and is not a zarr or precomputed volume, so it is not overwritten; remove it yourself"
        )


def remove_volume(where: Path, *, ignore_errors: bool = False) -> None:
    """Remove a volume in a folder, its metadata last: what a kill leaves of it still may be replaced."""
    for path in where.iterdir() if where.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=ignore_errors)
    shutil.rmtree(where, ignore_errors=ignore_errors)


def publish(made: Path, target: Path) -> None:
    """Put what is finished in its place; what was there stands aside until then, and comes back if that fails.

    Raises:
        RunEnded: the disk is full.
    """
    old = target.with_name(f".{target.name}.old")
    with disk_errors(str(target)):
        replaced = target.is_dir()
        if replaced:
            shutil.rmtree(old, ignore_errors=True)
        try:
            if replaced:
                target.rename(old)
            made.replace(target)
        except BaseException:
            if replaced and not target.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def followed(where: Path) -> Path:
    """The place that a symbolic link leads to, there or not; any other path as it is."""
    return where.resolve() if where.is_symlink() else where


def check_named(where: Path) -> None:
    """Refuse a path that ends in no name, as ``.`` and ``..``: outputs are written beside their place and renamed.

    Raises:
        SynbbError: there is no name.
    """
    if where.name in ("", ".."):
        raise SynbbError(f"{where}: names no new folder for a volume; give a name such as out.zarr")


def check_zarr_name(where: Path) -> None:
    """Refuse a name that promises another format than the zarr that would be written there.

    Raises:
        SynbbError: an address, the ending of another format, or no name.
    """
    check_named(where)
    if re.match(r"[a-z0-9+]+:/", str(where)) or where.suffix.lower() in OTHER_ENDINGS:
        raise SynbbError(f"{where}: what is written here is OME-Zarr, in a folder; give a name such as out.zarr")


def holds(target: Path, volume: Volume) -> bool:
    """Whether what is stored of ``volume`` lies at ``target`` or below, so that replacing that would remove it."""
    where = target.resolve()
    stored = [Path(getattr(level.storage, "path", level.path)).resolve() for level in volume.levels]
    return any(where == each or where in each.parents for each in stored)


def is_volume(where: Path) -> bool:
    """Whether the folder holds a zarr or a precomputed volume."""
    return is_zarr(where) or is_precomputed_folder(where)
