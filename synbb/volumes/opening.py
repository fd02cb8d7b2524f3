"""Opening a volume of any format that is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import zarr

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Nanometres
from synbb.volumes.checked_store import local_store
from synbb.volumes.hdf5_storage import CREMI_CLEFTS, CREMI_RAW, SUFFIXES, open_hdf5_storage, split_dataset, three_floats
from synbb.volumes.image_stack import PNG, TIFF, open_folder, open_multipage, section_files
from synbb.volumes.ome import OmeImage, OmeLevel, read_image
from synbb.volumes.storage import Storage, check_voxel_size, no_voxel_size, plain_dtype, unreadable
from synbb.volumes.volume import Volume
from synbb.volumes.zarr_storage import ZarrStorage, space_axes

ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")


def open_volume(path: str | Path, *, dataset: str | None = None, voxel_size: Sequence[float] | None = None) -> Volume:
    """Open a volume; only metadata is read.

    Args:
        path: an OME-Zarr image or zarr array (v2 or v3), an HDF5 file (``file.h5:dataset/path``, or the CREMI
            layout, whose ``volumes/raw`` needs no name), a folder of TIFF or PNG sections, or a TIFF
            file of many pages.
        dataset: array inside the file, instead of ``path:dataset``.
        voxel_size: z, y, x in nm, for files that do not state theirs; it overrules one that is stated.

    Raises:
        SynbbError: no such file, another format, not three axes, no voxel size, or broken metadata.
    """
    given = str(path)
    size = None if voxel_size is None else check_voxel_size(voxel_size, given)
    file, inner = split_dataset(given, dataset)
    where = Path(file)
    if not where.exists():
        raise SynbbError(f"{given}: no such file or folder{_hint(where)}")
    if where.is_dir():
        return _open_directory(given, where, inner, size)
    if where.suffix.lower() in SUFFIXES or h5py.is_hdf5(where):
        return _open_hdf5(file, inner, size)
    if inner is not None:
        raise SynbbError(f"{given}: dataset {inner!r} was named, but {file} is neither HDF5 nor zarr")
    if where.suffix.lower() in TIFF:
        return _plain(given, open_multipage(file), size, None)
    if where.suffix.lower() in PNG:
        raise SynbbError(f"{given}: a single PNG file is one section; give the folder that holds all sections")
    raise SynbbError(
        f"{given}: no format that is read. Those are: zarr, HDF5 ({', '.join(SUFFIXES)}), "
        "a folder of TIFF or PNG sections, a TIFF file of many pages"
    )


def open_labels(path: str | Path, *, voxel_size: Sequence[float] | None = None) -> Volume:
    """Open an annotation: as :func:`open_volume`, but an HDF5 file without a dataset name means CREMI's clefts.

    Raises:
        SynbbError: as :func:`open_volume`, or the volume says of itself that it holds grey values.
    """
    file, inner = split_dataset(str(path))
    where = Path(file)
    if inner is None and where.is_file() and (where.suffix.lower() in SUFFIXES or h5py.is_hdf5(where)):
        inner = CREMI_CLEFTS
    volume = open_volume(file, dataset=inner, voxel_size=voxel_size)
    if volume.attributes.get("kind") == "raw":
        raise SynbbError(f"{path} holds grey values (its metadata say kind: raw), not labels; name the annotation")
    return volume


def _hint(where: Path) -> str:
    parent = where.parent
    if not parent.is_dir():
        return f"; the folder {parent} does not exist either"
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"; {parent} holds {shown or 'nothing'}"


def _open_directory(given: str, where: Path, inner: str | None, size: Nanometres | None) -> Volume:
    if any((where / mark).is_file() for mark in ZARR_MARKS):
        return _open_zarr(given, where, inner, size)
    if inner is not None:
        raise SynbbError(f"{given}: dataset {inner!r} was named, but {where} is not a zarr")
    if section_files(where):
        return _plain(given, open_folder(str(where)), size, None)
    raise SynbbError(
        f"{given}: a folder without zarr metadata ({', '.join(ZARR_MARKS)}) and without TIFF or PNG sections"
    )


def _plain(path: str, storage: Storage, size: Nanometres | None, offset: Nanometres | None) -> Volume:
    if size is None:
        raise no_voxel_size(path)
    _check_values(path, storage)
    return Volume(path, storage, Box.of_shape(storage.shape), size, offset or (0.0, 0.0, 0.0))


def _check_values(path: str, storage: Storage) -> None:
    plain_dtype(storage.dtype, path)
    if 0 in storage.shape:
        raise SynbbError(f"{path}: shape {storage.shape} holds no voxel")


def _open_hdf5(file: str, inner: str | None, size: Nanometres | None) -> Volume:
    storage, resolution, offset = open_hdf5_storage(file, inner)
    path = f"{file}:{storage.dataset}"
    if size is None and resolution is not None:
        size = check_voxel_size(resolution, f"{path}: attribute resolution")
    return _plain(path, storage, size, offset)


@dataclass(frozen=True)
class _Described:
    """A zarr array with what the metadata around it says of it."""

    path: str
    array: zarr.Array
    axes: Sequence[str | None] | None
    level: OmeLevel
    format: str


def _open_node(path: Path) -> zarr.Group | zarr.Array | None:
    """The zarr node at ``path``, None when there is none."""
    if not any((path / mark).is_file() for mark in ZARR_MARKS):
        return None
    try:
        return zarr.open(store=local_store(str(path)), mode="r")
    except Exception as error:  # broken JSON and unknown codecs surface in many ways
        raise unreadable(str(path), "the zarr metadata", error) from error


def _open_zarr(given: str, where: Path, inner: str | None, size: Nanometres | None) -> Volume:
    place = where / inner if inner else where
    node = _open_node(place)
    if node is None:
        raise SynbbError(f"{given}: no array or group {inner!r} in it; {_arrays_text(where)}")
    if isinstance(node, zarr.Array):
        return _open_array(given, place, node, size)
    image = read_image(node.attrs.asdict(), given)
    if image is not None:
        return _open_image(given, place, node, image, size)
    if "bioformats2raw.layout" in node.attrs and (child := _open_node(place / "0")) is not None:
        image = read_image(child.attrs.asdict(), given)
        if image is not None:
            return _open_image(given, place / "0", child, image, size)
    raw = _open_node(place / CREMI_RAW)
    if isinstance(raw, zarr.Array):
        return _open_array(given, place / CREMI_RAW, raw, size)
    raise SynbbError(
        f"{given}: a zarr group without OME-Zarr image metadata; name the array as {given}:ARRAY. {_arrays_text(place)}"
    )


def _arrays_text(where: Path) -> str:
    marks = ("zarr.json", ".zarray")
    found: list[str] = []
    for folder in sorted(p for p in where.glob("**/") if len(p.relative_to(where).parts) <= 3):
        if any((folder / mark).is_file() for mark in marks):
            node = _open_node(folder)
            if isinstance(node, zarr.Array):
                found.append(f"{folder.relative_to(where)} {node.shape} {node.dtype}")
        if len(found) >= 20:
            break
    return f"It holds: {'; '.join(found) or 'no array'}"


def _open_array(given: str, place: Path, array: zarr.Array, size: Nanometres | None) -> Volume:
    parent = _open_node(place.parent)
    if isinstance(parent, zarr.Group):
        image = read_image(parent.attrs.asdict(), str(place.parent))
        for level in image.levels if image else ():
            if image is not None and level.path == place.name:
                only = OmeImage(image.version, image.axes, (level,))
                return _open_image(given, place.parent, parent, only, size)
    attributes = array.attrs.asdict()
    stated = attributes.get("resolution", attributes.get("voxel_size"))
    resolution = (
        None
        if stated is None
        else check_voxel_size(three_floats(stated, f"{given}: attribute resolution"), f"{given}: attribute resolution")
    )
    offset = attributes.get("offset")
    centre = (0.0, 0.0, 0.0) if offset is None else three_floats(offset, f"{given}: attribute offset")
    names = getattr(array.metadata, "dimension_names", None)
    described = _Described(given, array, names, OmeLevel("", resolution, centre), f"zarr v{array.metadata.zarr_format}")
    storage = _storage(described, str(place))
    return _with_metadata(_plain(given, storage, size or resolution, centre), attributes)


def _open_image(given: str, place: Path, group: zarr.Group, image: OmeImage, size: Nanometres | None) -> Volume:
    volumes = []
    sizes = _sizes(given, image, size)
    label = f"OME-Zarr {image.version} (zarr v{group.metadata.zarr_format})"
    for level, voxel_size in zip(image.levels, sizes, strict=True):
        array = _open_node(place / level.path)
        if not isinstance(array, zarr.Array):
            raise SynbbError(
                f"{given}: its metadata names level {level.path!r}, but there is no such array; restore it"
            )
        storage = _storage(_Described(given, array, image.axes, level, label), str(place / level.path))
        offset = level.offset
        if level.voxel_size is None:  # stated in voxels
            oz, oy, ox = (o * v for o, v in zip(level.offset, voxel_size, strict=True))
            offset = (oz, oy, ox)
        volumes.append(_plain(given, storage, voxel_size, offset))
    finest = Volume(
        given, volumes[0].storage, volumes[0].region, volumes[0].voxel_size, volumes[0].offset, {}, tuple(volumes[1:])
    )
    return _with_metadata(finest, group.attrs.asdict())


def _sizes(given: str, image: OmeImage, size: Nanometres | None) -> list[Nanometres]:
    """Voxel size of every level; one that is given overrules the finest, and the others keep their ratio to it."""
    stated = [level.voxel_size for level in image.levels]
    if size is None:
        known = [s for s in stated if s is not None]
        if len(known) < len(stated):
            raise no_voxel_size(given)
        return known
    first = stated[0]
    if first is None:
        if len(stated) > 1:
            raise SynbbError(
                f"{given}: its levels state no scale in a known unit; open one of them, for example "
                f"{given}:{image.levels[0].path}"
            )
        return [size]
    scaled = []
    for level in stated:
        z, y, x = (v * g / f for v, g, f in zip(level or first, size, first, strict=True))
        scaled.append((z, y, x))
    return scaled


def _storage(described: _Described, where: str) -> ZarrStorage:
    array = described.array
    axes = described.axes
    if axes is not None and len(axes) != array.ndim:
        if described.level.path and "c" not in axes:
            raise SynbbError(
                f"{where}: {array.ndim} axes, but its metadata names {len(axes)}: {', '.join(map(str, axes))}"
            )
        axes = None
    return ZarrStorage(where, array, space_axes(array.shape, axes, where), described.format)


def _with_metadata(volume: Volume, attributes: Mapping[str, Any]) -> Volume:
    ours = attributes.get("synbb")
    return volume.with_attributes(ours) if isinstance(ours, Mapping) else volume
