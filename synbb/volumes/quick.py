"""Local zarr read and written through tensorstore, for threads that feed a GPU and take what it made.

The zarr library works chunk by chunk under Python's lock, at some hundred megavoxels a second however many threads ask.
tensorstore reads them in a fifth of the processor's time, works outside that lock, and keeps decoded chunks, of which
neighbouring blocks read the same (docs/performance.md). Whatever goes wrong is left to the zarr library to tell.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.volumes import stores
from synbb.volumes.per_process import PerProcess
from synbb.volumes.tensor_storage import as_volume
from synbb.volumes.writing import WritableVolume
from synbb.volumes.zarr_storage import ZarrStorage

if TYPE_CHECKING:
    import zarr

    from synbb.volumes.box import Box, Triple
    from synbb.volumes.storage import Voxels
    from synbb.volumes.volume import Volume

KEPT = 2**29
"""Bytes of decoded chunks that are kept."""


@dataclass(frozen=True)
class QuickZarr(ZarrStorage):
    """A local zarr array that tensorstore reads; what is not there or broken is told as :class:`ZarrStorage` does.

    Attributes:
        handle: tensorstore's array, axes z, y, x.
    """

    handle: PerProcess[Any] = field(kw_only=True, repr=False, compare=False)

    def _fetch(self, box: Box) -> Voxels:
        found: Voxels = np.asarray(self.handle.get()[box.slices].read().result())
        return found


class QuickOutput(WritableVolume):
    """A volume under construction that tensorstore writes; what it cannot, :class:`WritableVolume` writes, or tells."""

    def __init__(self, path: str, array: zarr.Array, *, empty_chunks: bool) -> None:
        super().__init__(path, array)
        place = str(Path(path) / array.name.strip("/"))
        self._handle = PerProcess(_open, place, array.metadata.zarr_format, (0, 1, 2), empty_chunks)

    def opens(self) -> bool:
        """Whether tensorstore knows the array."""
        return _opens(self._handle)

    def _put(self, part: Box, values: Voxels) -> None:
        try:
            self._handle.get()[part.slices].write(values).result()
        except stores.STORE_ERRORS:
            super()._put(part, values)


def written_quickly(output: WritableVolume, *, empty_chunks: bool) -> WritableVolume:
    """``output``, written through tensorstore where that (an extra) is installed and knows the array.

    Args:
        output: as created or opened.
        empty_chunks: whether it stores chunks that are 0 everywhere.
    """
    if not stores.installed():
        return output
    quick = QuickOutput(output.path, output.array, empty_chunks=empty_chunks)
    return quick if quick.opens() else output


def quickly(volume: Volume) -> Volume:
    """``volume``, its levels read through tensorstore where they are local zarr that it knows, and it is installed."""
    return replace(volume, storage=_quick(volume.storage), coarser=tuple(quickly(level) for level in volume.coarser))


def _quick(storage: Any) -> Any:
    if type(storage) is not ZarrStorage or not stores.installed():
        return storage
    handle = PerProcess(_open, storage.path, storage.array.metadata.zarr_format, storage.space)
    if not _opens(handle):
        return storage
    return QuickZarr(storage.path, storage.array, storage.space, storage.format, storage.absence_costs, handle=handle)


def _opens(handle: PerProcess[Any]) -> bool:
    try:
        handle.get()
    except stores.STORE_ERRORS:  # a codec, say, that only the zarr library has
        return False
    return True


def _open(path: str, version: int, space: Triple, empty_chunks: bool | None = None) -> Any:
    """Tensorstore's array; for writing too where it is said whether chunks of zeros are stored."""
    spec: dict[str, Any] = {"driver": "zarr3" if version == 3 else "zarr", "kvstore": stores.kvstore(path)}
    if empty_chunks is not None:
        spec["store_data_equal_to_fill_value"] = empty_chunks
    found = stores.tensorstore(path).open(
        spec,
        open=True,
        read=True,
        write=empty_chunks is not None,
        recheck_cached_data="open",
        context=_context(os.getpid()),
    )
    return as_volume(found.result(), space)


@cache
def _context(process: int) -> Any:  # noqa: ARG001
    # Files are renamed when they are whole, and the ledger's marks come after them: no two write one at a time.
    limits = {"cache_pool": {"total_bytes_limit": KEPT}, "file_io_sync": False, "file_io_locking": {"mode": "none"}}
    return stores.tensorstore("").Context(limits)
