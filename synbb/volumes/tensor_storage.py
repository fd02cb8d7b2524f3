"""Arrays read through tensorstore: N5, precomputed, and zarr in remote stores."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError
from synbb.volumes import stores
from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.per_process import PerProcess
from synbb.volumes.storage import Voxels, plain_dtype, unreadable
from synbb.volumes.zarr_storage import space_axes

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class TensorStorage:
    """An array of three or more axes of which all but z, y, x are singletons.

    Only the recipe is pickled; each process opens the array for itself.

    Attributes:
        handle: the array, in which chunks that were never written read as the fill value.
        strict: the same, in which they are an error; to tell them apart.
    """

    path: str
    shape: Triple
    dtype: np.dtype[Any]
    chunks: Triple
    shards: Triple | None
    format: str
    handle: PerProcess[Any] = field(repr=False, compare=False)
    strict: PerProcess[Any] = field(repr=False, compare=False)
    absence_costs: bool = True

    def absent(self, box: Box) -> list[Box]:
        """The parts of ``box`` whose chunks were never written; a voxel of each is read.

        Raises:
            SynbbError: as :meth:`read`.
        """
        store = self.strict.get()
        corners = [(part, Box(part.start, triple([a + 1 for a in part.start]))) for part in box.blocks(self.chunks)]
        asked = [(part, corner, store[corner.slices].read()) for part, corner in corners]
        found = []
        try:
            for part, corner, future in asked:
                try:
                    self._settle(corner, future)
                except SynbbError as error:
                    if not str(error.__cause__).startswith("NOT_FOUND"):
                        raise
                    found.append(part)
        finally:
            for _, _, future in asked:
                future.cancel()
        return found

    def read(self, box: Box) -> Voxels:
        """The voxels of ``box``; a chunk that was never written reads as the fill value.

        Raises:
            SynbbError: a chunk is truncated or cannot be decoded (the message names it), or the store did not bring
                the next piece within :data:`~synbb.volumes.stores.GIVE_UP` seconds, or refuses.
        """
        store = self.handle.get()
        out = np.empty(box.shape, self.dtype)
        with stores.tensorstore(self.path).Batch() as batch:
            pieces = [(part, store[part.slices].read(batch=batch)) for part in box.blocks(self.chunks)]
        try:
            for part, future in pieces:
                out[part.relative_to(box.start).slices] = self._settle(part, future)
        finally:
            for _, future in pieces:
                future.cancel()  # of those that are done, nothing
        return out

    def _settle(self, part: Box, future: Any) -> Voxels:
        try:
            found: Voxels = stores.settle(future, self.path, time.time() + stores.GIVE_UP)
        except stores.STORE_ERRORS as error:  # tensorstore's message names the key
            raise unreadable(self.path, f"the chunk with voxels {part.named}", error) from error
        return found


def open_array(spec: str, space: Triple, path: str, deadline: float | None = None) -> Any:
    """The tensorstore array that ``spec`` (JSON) says, its axes z, y, x, each beginning at 0.

    Args:
        spec: driver, kvstore and what else the driver needs.
        space: positions of z, y, x among the stored axes.
        path: for messages.
        deadline: seconds since the epoch; by default :data:`~synbb.volumes.stores.GIVE_UP` from now.

    Raises:
        SynbbError: the array cannot be opened.
    """
    return as_volume(_open(spec, path, deadline), space)


def _open(spec: str, path: str, deadline: float | None) -> Any:
    library = stores.tensorstore(path)
    future = library.open(json.loads(spec), open=True, read=True, context=stores.context())
    try:
        return stores.settle(future, path, deadline or time.time() + stores.GIVE_UP)
    except stores.STORE_ERRORS as error:
        raise unreadable(path, "the array's metadata", error) from error


def as_volume(store: Any, space: Triple) -> Any:
    """A tensorstore array seen with the axes z, y, x alone, each beginning at 0."""
    origin = store.domain.inclusive_min
    index = [slice(None) if axis in space else origin[axis] for axis in range(store.rank)]
    kept = sorted(space)
    spatial = store[tuple(index)].transpose([kept.index(axis) for axis in space])
    return spatial[tuple(slice(o, o + n) for o, n in zip(spatial.domain.inclusive_min, spatial.shape, strict=True))][
        stores.tensorstore("").d[:].translate_to[0]
    ]


def open_storage(
    spec: dict[str, Any], names: Sequence[str | None] | None, path: str, label: str, deadline: float
) -> TensorStorage:
    """Open an array and describe it.

    Args:
        spec: tensorstore's, without credentials.
        names: of the stored axes, in stored order; None where the last three are z, y, x.
        path: for messages.
        label: the format, in words for people.
        deadline: seconds since the epoch.

    Raises:
        SynbbError: it cannot be opened, or its axes are no volume's.
    """
    text = json.dumps(spec)
    store = _open(text, path, deadline)
    if names is not None and len(names) != store.rank:
        raise SynbbError(
            f"{path}: {store.rank} axes, but its metadata names {len(names)}: {', '.join(map(str, names))}"
        )
    space = space_axes(store.shape, names, path)
    layout = store.chunk_layout
    shape = triple([store.shape[axis] for axis in space])
    chunks = _within(layout.read_chunk.shape, space, shape)
    # A shard of precomputed may be a whole level, and its chunks are read one by one: only zarr's count as files.
    shards = _within(layout.write_chunk.shape, space, shape) if spec["driver"] == "zarr3" else None
    return TensorStorage(
        path=path,
        shape=shape,
        dtype=plain_dtype(store.dtype.numpy_dtype, path),
        chunks=chunks,
        shards=None if shards == chunks else shards,
        format=label,
        handle=PerProcess(open_array, text, space, path),
        strict=PerProcess(open_array, json.dumps({**spec, "fill_missing_data_reads": False}), space, path),
    )


def _within(lengths: Sequence[int] | None, space: Triple, shape: Triple) -> Triple:
    if lengths is None:
        return shape
    return triple([max(1, min(int(lengths[axis] or n), n)) for axis, n in zip(space, shape, strict=True)])
