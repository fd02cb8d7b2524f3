"""Zarr arrays, v2 and v3, plain or inside an OME-Zarr image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.codecs import ShardingCodec

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.storage import Voxels, plain_dtype, unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zarr

SPACE = ("z", "y", "x")
CRC = 4
"""Bytes of the checksum behind a shard's index."""
NEVER = np.uint64(2**64 - 1)
"""Place and length of a chunk that a shard does not hold."""


@dataclass(frozen=True)
class ZarrStorage:
    """A zarr array of three or more axes of which all but z, y, x are singletons.

    Attributes:
        path: where the array lies, for messages.
        array: the open zarr array (picklable, thread safe).
        space: positions of z, y, x among the array's axes.
        format: words for people.
    """

    path: str
    array: zarr.Array
    space: Triple
    format: str
    absence_costs: bool = False

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return self._pick(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native type of the values."""
        return plain_dtype(self.array.dtype, self.path)

    @property
    def chunks(self) -> Triple:
        """Voxels of a chunk (of an inner one where there are shards)."""
        return self._pick(self.array.chunks)

    @property
    def shards(self) -> Triple | None:
        """Voxels of a shard, None where each chunk is a file."""
        shards = self.array.shards
        return None if shards is None else self._pick(shards)

    def _pick(self, values: Sequence[int]) -> Triple:
        return triple([values[axis] for axis in self.space])

    def _fetch(self, box: Box) -> Voxels:
        index: list[slice | int] = [0] * self.array.ndim
        for axis, part in zip(self.space, box.slices, strict=True):
            index[axis] = part
        found = np.asarray(self.array[tuple(index)])
        # Axes left are z, y, x in stored order; rank them to give z, y, x.
        order = np.argsort(np.argsort(self.space))
        return found if order.tolist() == [0, 1, 2] else found.transpose(order)

    def read(self, box: Box) -> Voxels:
        """The voxels of ``box``; a chunk that was never written reads as the fill value.

        Raises:
            SynbbError: a chunk is truncated or cannot be decoded; the message names its key.
        """
        try:
            return self._fetch(box)
        except Exception as error:  # codecs raise whatever they like
            raise self._name_chunk(box, error) from error

    def absent(self, box: Box) -> list[Box]:
        """The parts of ``box`` whose chunks were never written; of a shard its index is read.

        Raises:
            SynbbError: a shard is too short to hold its index.
        """
        unit = self.shards or self.chunks
        found: list[Box] = []
        for part in box.blocks(unit):
            whole = part.to_grid(unit)
            file = Path(self.path) / self._key(whole, unit)
            if not file.is_file():
                found.append(part)
            elif self.shards is not None:
                inner = (chunk.intersect(part) for chunk in self._lost_chunks(file, whole))
                found.extend(each for each in inner if each is not None)
        return found

    def _lost_chunks(self, file: Path, shard: Box) -> list[Box]:
        """Chunks that a shard's index calls empty: both numbers all ones (zarr v3, sharding-indexed codec)."""
        index = [codec for codec in getattr(self.array.metadata, "codecs", ()) if isinstance(codec, ShardingCodec)]
        if not index or index[0].index_location.value != "end" or list(self.space) != sorted(self.space):
            return []  # an index that is laid out in another way is not looked at; a lost shard is told all the same
        chunks = list(shard.blocks(self.chunks, shard.start))
        size = 16 * len(chunks)
        with file.open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            if handle.tell() < size + CRC:
                raise unreadable(self.path, f"shard {file.name} (voxels {shard})", EOFError("no room for its index"))
            handle.seek(-(size + CRC), os.SEEK_END)
            places = np.frombuffer(handle.read(size), "<u8").reshape(-1, 2)
        return [chunk for chunk, place in zip(chunks, places, strict=True) if (place == NEVER).all()]

    def _name_chunk(self, box: Box, error: Exception) -> SynbbError:
        unit = self.shards or self.chunks
        for part in box.blocks(unit):
            try:
                self._fetch(part)
            except Exception as found:  # the same open set of codec errors
                block = part.to_grid(unit).intersect(Box.of_shape(self.shape)) or part
                return unreadable(self.path, f"chunk {self._key(block, unit)} (voxels {block})", found)
        return unreadable(self.path, f"region {box}", error)

    def _key(self, block: Box, unit: Triple) -> str:
        position = [0] * self.array.ndim
        for axis, start, step in zip(self.space, block.start, unit, strict=True):
            position[axis] = start // step
        return str(self.array.metadata.encode_chunk_key(tuple(position)))


def space_axes(shape: Sequence[int], names: Sequence[str | None] | None, path: str) -> Triple:
    """Positions of z, y, x: by name where axes are named, else the last three.

    Raises:
        SynbbError: an axis is missing, or another axis is longer than 1.
    """
    count = len(shape)
    named = [name.lower() if isinstance(name, str) else "" for name in names] if names else []
    if named and all(axis in named for axis in SPACE):
        space = triple([named.index(axis) for axis in SPACE])
    elif count >= 3 and not set(SPACE) & set(named):
        space = (count - 3, count - 2, count - 1)
    else:
        described = f" named {', '.join(named)}" if named else ""
        raise SynbbError(
            f"{path}: an array of {count} axes{described}, shape {tuple(shape)}, is no volume; "
            "three axes z, y, x are read"
        )
    long = [f"{named[i] if named else i} ({shape[i]})" for i in range(count) if i not in space and shape[i] != 1]
    if long:
        raise SynbbError(
            f"{path}: shape {tuple(shape)} has more axes than z, y, x, and of axis {', '.join(long)} only one entry "
            "could be read; store one channel or time point a volume"
        )
    return space
