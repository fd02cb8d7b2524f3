"""A volume whose reads go through a :class:`~synbb.volumes.stream.ChunkCache`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from synbb.volumes.stream import ChunkCache

if TYPE_CHECKING:
    import numpy as np

    from synbb.volumes.box import Box, Triple
    from synbb.volumes.storage import Voxels
    from synbb.volumes.volume import Volume


@dataclass(frozen=True)
class CachedStorage:
    """The storage of a volume, read through a cache of decoded chunks."""

    cache: ChunkCache
    original: Volume

    @property
    def format(self) -> str:
        """That of the volume."""
        return self.original.format

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return self.original.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.original.dtype

    @property
    def chunks(self) -> Triple:
        """Voxels of a chunk."""
        return self.original.chunks

    @property
    def shards(self) -> Triple | None:
        """Voxels of a shard, if there are any."""
        return self.original.shards

    def read(self, box: Box) -> Voxels:
        """The voxels of ``box``, from cached chunks where they are held."""
        return self.cache.read(box)


def streamed(volume: Volume, *, max_bytes: int, loader_threads: int = 2) -> tuple[Volume, ChunkCache]:
    """The same volume read through a cache, and the cache to prefetch into and to close.

    Coarser levels are read as before.
    """
    cache = ChunkCache(volume, max_bytes=max_bytes, loader_threads=loader_threads)
    return replace(volume, storage=CachedStorage(cache, volume), region=volume.box), cache
