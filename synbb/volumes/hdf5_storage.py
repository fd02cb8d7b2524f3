"""HDF5 datasets, with the CREMI layout's attributes ``resolution`` and ``offset``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Nanometres, Triple, triple
from synbb.volumes.per_process import PerProcess
from synbb.volumes.storage import Voxels, plain_dtype, unreadable
from synbb.volumes.zarr_storage import space_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

CREMI_RAW = "volumes/raw"
CREMI_CLEFTS = "volumes/labels/clefts"
SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
VIRTUAL_CHUNKS = (32, 256, 256)  # for datasets stored in one piece, of which any part is read cheaply

_WITH_DATASET = re.compile(r"^(?P<file>.+?\.(?:h5|hdf5|hdf|he5|zarr|n5)):(?P<dataset>[^:]+)$", re.IGNORECASE)


def split_dataset(path: str, dataset: str | None = None) -> tuple[str, str | None]:
    """Cut ``file.h5:dataset/path`` in two; a path that exists as it stands is never cut.

    Raises:
        SynbbError: the path and ``dataset`` name two different datasets.
    """
    match = None if Path(path).exists() else _WITH_DATASET.match(path)
    if match is None:
        return path, _clean(dataset)
    inner = _clean(match["dataset"])
    if dataset is not None and _clean(dataset) != inner:
        raise SynbbError(f"{path}: names dataset {inner!r}, but dataset {dataset!r} was asked for as well; give one")
    return match["file"], inner


def _clean(dataset: str | None) -> str | None:
    return None if dataset is None else dataset.strip("/") or None


def open_hdf5(path: str) -> h5py.File:
    """The file, read only, without insisting on locks (network file systems have none).

    Raises:
        SynbbError: it cannot be opened, as when it is truncated.
    """
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise unreadable(path, "the HDF5 file", error) from error


@dataclass(frozen=True)
class Hdf5Storage:
    """One dataset of an HDF5 file."""

    path: str
    dataset: str
    shape: Triple
    dtype: np.dtype[Any]
    chunks: Triple
    space: Triple
    axes: int
    handle: PerProcess[h5py.File] = field(repr=False, compare=False)
    format: str = "HDF5"
    shards: Triple | None = None
    absence_costs: bool = False

    def absent(self, box: Box) -> list[Box]:
        """The parts of ``box`` whose chunks were never written; the file's index of chunks is asked.

        Raises:
            SynbbError: the index is damaged.
        """
        try:
            return self._never_written(box)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise unreadable(f"{self.path}:{self.dataset}", "the index of chunks", error) from error

    def _never_written(self, box: Box) -> list[Box]:
        dataset = self.handle.get()[self.dataset]
        if dataset.chunks is None or dataset.is_virtual:
            return []
        found = []
        for part in box.blocks(self.chunks):
            corner = [0] * self.axes
            for axis, start, length in zip(self.space, part.start, self.chunks, strict=True):
                corner[axis] = start // length * length
            if dataset.id.get_chunk_info_by_coord(tuple(corner)).byte_offset is None:
                found.append(part)
        return found

    def read(self, box: Box) -> Voxels:
        """The voxels of ``box``.

        Raises:
            SynbbError: a chunk is truncated or cannot be decoded.
        """
        try:
            return self._fetch(box)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise self._name_chunk(box, error) from error

    def _fetch(self, box: Box) -> Voxels:
        index: list[slice | int] = [0] * self.axes
        for axis, part in zip(self.space, box.slices, strict=True):
            index[axis] = part
        return np.asarray(self.handle.get()[self.dataset][tuple(index)])

    def _name_chunk(self, box: Box, error: Exception) -> SynbbError:
        where = f"{self.path}:{self.dataset}"
        for part in box.blocks(self.chunks):
            try:
                self._fetch(part)
            except (OSError, RuntimeError, KeyError, ValueError) as found:
                block = part.to_grid(self.chunks).intersect(Box.of_shape(self.shape)) or part
                return unreadable(where, f"the chunk of voxels {block}", found)
        return unreadable(where, f"region {box}", error)


def open_hdf5_storage(path: str, dataset: str | None) -> tuple[Hdf5Storage, Nanometres | None, Nanometres | None]:
    """Open a dataset; without a name, the CREMI layout's ``volumes/raw``.

    Returns:
        The storage, its ``resolution`` and its ``offset`` in nm (None where the attribute is missing).

    Raises:
        SynbbError: no such dataset (the message lists those there are), an empty one, or not three axes.
    """
    with open_hdf5(path) as file:
        name = dataset or CREMI_RAW
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise SynbbError(_no_dataset(path, name, file, asked=dataset is not None))
        where = f"{path}:{name}"
        if found.shape is None:
            raise SynbbError(f"{where}: an empty dataset, which has no shape and no voxels; name another one")
        space = space_axes(found.shape, None, where)
        shape = triple([found.shape[axis] for axis in space])
        chunks = triple([found.chunks[axis] for axis in space]) if found.chunks else VIRTUAL_CHUNKS
        storage = Hdf5Storage(
            path=path,
            dataset=name,
            shape=shape,
            dtype=plain_dtype(found.dtype, where),
            chunks=triple([max(1, min(c, n)) for c, n in zip(chunks, shape, strict=True)]),
            space=space,
            axes=found.ndim,
            handle=PerProcess(open_hdf5, path),
            format="HDF5 (CREMI layout)" if name.startswith("volumes/") else "HDF5",
        )
        return storage, _attribute(found, "resolution", where), _attribute(found, "offset", where)


def _attribute(dataset: h5py.Dataset, name: str, where: str) -> Nanometres | None:
    value = dataset.attrs.get(name)
    if value is None:
        return None
    return three_floats(value, f"{where}: attribute {name}")


def three_floats(value: Any, where: str) -> Nanometres:
    """Three numbers of an attribute (the last three of more, for files with t or c axes).

    Raises:
        SynbbError: fewer than three numbers, or something else.
    """
    try:
        numbers: Sequence[float] = [float(v) for v in np.ravel(np.asarray(value))]
    except (TypeError, ValueError) as error:
        raise SynbbError(f"{where} is {value!r}; three numbers in nm (z, y, x) are wanted") from error
    if len(numbers) < 3:
        raise SynbbError(f"{where} is {value!r}; three numbers in nm (z, y, x) are wanted")
    return numbers[-3], numbers[-2], numbers[-1]


def _no_dataset(path: str, name: str, file: h5py.File, *, asked: bool) -> str:
    names: list[str] = []

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 3:
            names.append(f"{key} {item.shape} {item.dtype}")

    file.visititems(visit)
    listed = "; ".join(names) or "none with three axes"
    reason = f"no dataset {name!r}" if asked else f"no dataset named, and no {CREMI_RAW} as in the CREMI layout"
    return f"{path}: {reason}. It holds: {listed}. Name one as {path}:DATASET"
