"""Opening a volume of any format that is read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from synbb.errors import SynbbError
from synbb.volumes.hdf5_storage import CREMI_CLEFTS, SUFFIXES, open_hdf5_storage, split_dataset
from synbb.volumes.image_stack import PNG, TIFF, open_folder, open_multipage, section_files
from synbb.volumes.levels import volume_of
from synbb.volumes.n5 import open_n5
from synbb.volumes.precomputed import is_precomputed, open_precomputed
from synbb.volumes.storage import check_voxel_size
from synbb.volumes.stores import GIVE_UP, is_remote, read_json, split_kind
from synbb.volumes.zarr_opening import ZARR_MARKS, LocalTree, RemoteTree, is_zarr, open_zarr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.volumes.box import Nanometres
    from synbb.volumes.volume import Volume

_MARKS = {**dict.fromkeys(ZARR_MARKS, "zarr"), "attributes.json": "n5", "info": "precomputed"}
TENSORSTORE_MARKS = ("attributes.json", "info")


def is_there(path: str | Path) -> bool:
    """Whether the file or folder of a volume exists; addresses are taken to, since asking may take long."""
    kind, place = split_kind(str(path))
    return kind is not None or is_remote(place) or Path(split_dataset(place, None)[0]).exists()


def open_volume(path: str | Path, *, dataset: str | None = None, voxel_size: Sequence[float] | None = None) -> Volume:
    """Open a volume; only metadata is read.

    Args:
        path: an OME-Zarr image or zarr array (v2 or v3), an HDF5 file (``file.h5:dataset/path``, or the CREMI
            layout, whose ``volumes/raw`` needs no name), a folder of TIFF or PNG sections, a TIFF file of many
            pages, an N5 array or multiscale group, or a precomputed volume. Zarr, N5 and precomputed also at
            ``s3://``, ``gs://`` and ``http(s)://``; ``precomputed://PLACE`` (``n5://``, ``zarr://``) says which.
        dataset: array inside the file, instead of ``path:dataset``.
        voxel_size: z, y, x in nm, for files that do not state theirs; it overrules one that is stated.

    Raises:
        SynbbError: no such file, another format, not three axes, no voxel size, broken metadata, a store that does
            not answer, or the extra ``remote`` is missing.
    """
    given = str(path)
    size = None if voxel_size is None else check_voxel_size(voxel_size, given)
    kind, place = split_kind(given)
    file, inner = split_dataset(place, dataset)
    if is_remote(place) or kind not in (None, "zarr"):
        return _open_address(kind, given, file, inner, size)
    where = Path(file)
    if not where.exists():
        raise SynbbError(f"{given}: no such file or folder{_hint(where)}")
    if kind == "zarr" and not is_zarr(where):
        raise SynbbError(f"{given}: no zarr there (none of {', '.join(ZARR_MARKS)}); check the path")
    if where.is_dir():
        return _open_directory(given, where, inner, size)
    if where.suffix.lower() in SUFFIXES or h5py.is_hdf5(where):
        return _open_hdf5(file, inner, size)
    if inner is not None:
        raise SynbbError(f"{given}: dataset {inner!r} was named, but {file} is neither HDF5, zarr nor N5")
    if where.suffix.lower() in TIFF:
        return volume_of(given, open_multipage(file), size, None)
    if where.suffix.lower() in PNG:
        raise SynbbError(f"{given}: a single PNG file is one section; give the folder that holds all sections")
    raise SynbbError(
        f"{given}: no format that is read. Those are: zarr, N5, precomputed, HDF5 ({', '.join(SUFFIXES)}), "
        "a folder of TIFF or PNG sections, a TIFF file of many pages"
    )


def open_labels(path: str | Path, *, voxel_size: Sequence[float] | None = None) -> Volume:
    """Open an annotation: as :func:`open_volume`, but an HDF5 file without a dataset name means CREMI's clefts.

    Raises:
        SynbbError: as :func:`open_volume`.
    """
    file, inner = split_dataset(str(path))
    where = Path(file)
    if inner is None and where.is_file() and (where.suffix.lower() in SUFFIXES or h5py.is_hdf5(where)):
        inner = CREMI_CLEFTS
    return open_volume(file, dataset=inner, voxel_size=voxel_size)


def _hint(where: Path) -> str:
    parent = where.parent
    if not parent.is_dir():
        return f"; the folder {parent} does not exist either"
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"; {parent} holds {shown or 'nothing'}"


def _open_directory(given: str, where: Path, inner: str | None, size: Nanometres | None) -> Volume:
    if is_zarr(where):
        return open_zarr(LocalTree(), given, str(where), inner, size)
    if any((where / mark).is_file() for mark in TENSORSTORE_MARKS):
        found = _open_by_tensorstore(None, given, str(where), inner, size)
        if found is not None:
            return found
    if inner is not None:
        raise SynbbError(f"{given}: dataset {inner!r} was named, but {where} is neither zarr nor N5")
    if section_files(where):
        return volume_of(given, open_folder(str(where)), size, None)
    marks = ", ".join((*ZARR_MARKS, *TENSORSTORE_MARKS))
    raise SynbbError(
        f"{given}: a folder without metadata of zarr, N5 or precomputed ({marks}) and without TIFF or PNG sections"
    )


def _open_by_tensorstore(
    kind: str | None, given: str, place: str, inner: str | None, size: Nanometres | None
) -> Volume | None:
    """What lies at a path or address, None where it is of no format that is read.

    Args:
        kind: the only format to look for, any when None.
        given: for messages.
        place: path or address.
        inner: array below it.
        size: overrules the voxel size that is stated.
    """
    place = place.rstrip("/")
    deadline = time.time() + GIVE_UP
    folder = f"{place}/{inner}" if inner else place
    marks = [mark for mark, of in _MARKS.items() if kind in (None, of)]
    found = {_MARKS[mark]: value for mark, value in read_json(folder, marks, deadline).items()}
    if is_remote(place) and "zarr" in found:
        return open_zarr(RemoteTree(deadline), given, place, inner, size)
    if is_precomputed(found.get("precomputed", {})):
        return open_precomputed(given, folder, found["precomputed"], size, deadline)
    if "n5" in found:
        return open_n5(given, folder, found["n5"], size, deadline)
    return None


def _open_address(kind: str | None, given: str, place: str, inner: str | None, size: Nanometres | None) -> Volume:
    found = _open_by_tensorstore(kind, given, place, inner, size)
    if found is None:
        what, where = kind or "zarr, N5 or precomputed", f"in {inner!r}" if inner else "there"
        raise SynbbError(f"{given}: no {what} {where} (none of {', '.join(_MARKS)}); check the address")
    return found


def _open_hdf5(file: str, inner: str | None, size: Nanometres | None) -> Volume:
    storage, resolution, offset = open_hdf5_storage(file, inner)
    path = f"{file}:{storage.dataset}"
    if size is None and resolution is not None:
        size = check_voxel_size(resolution, f"{path}: attribute resolution")
    return volume_of(path, storage, size, offset)
