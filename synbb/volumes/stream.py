"""The training stream: dask chunks loaded ahead of need into a cache of bounded memory.

A patch touches a few dask chunks. They are loaded whole, several at a time, and patches are cut from them,
so that a compressed chunk is decoded once for many patches. One dask graph a patch over a whole volume would cost
tenths of a second each; here the graph is laid out once and each load takes the few tasks of its chunk.

    prefetch(boxes) -> queue -> loader threads --+
                                                 v
    read(box) ------- missing? load here ----> cache (least recently used goes first) -> copy of the box

Invariants: ``bytes`` (chunks held and chunks being loaded) never exceeds ``max_bytes``; a chunk is loaded by one
thread at a time; a loader never drops a chunk that was prefetched and not read yet, a reader may.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Protocol

import dask
import dask.array as da
import numpy as np
from dask.optimization import cull

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from synbb.volumes.storage import Voxels

LOGGER = logging.getLogger(__name__)
Key = Triple


class HasDask(Protocol):
    """What a cache reads from: a Volume, or anything that shows a dask array of z, y, x."""

    @property
    def dask(self) -> da.Array:
        """The lazy array."""


@dataclass(frozen=True)
class CacheCounters:
    """Exact counts since the cache was made.

    Attributes:
        hits: chunks that a read found held or being loaded.
        misses: chunks that a read had to load itself.
        prefetched: chunks that loader threads loaded.
        failed: loads that raised (a read raises the error, too).
        evictions: chunks dropped for room.
        bytes: of chunks held and being loaded now.
        peak_bytes: the largest value ``bytes`` ever had.
    """

    hits: int = 0
    misses: int = 0
    prefetched: int = 0
    failed: int = 0
    evictions: int = 0
    bytes: int = 0
    peak_bytes: int = 0


@dataclass
class _Entry:
    nbytes: int
    array: Voxels | None = None  # None while it is being loaded
    pins: int = 0
    unread: bool = False


class ChunkCache:
    """A cache of dask chunks from which boxes are read. Thread safe; make one in each process.

    ``max_bytes`` bounds the decoded chunks, held or in flight. Beside it stand the arrays handed out by :meth:`read`
    and, while a chunk is loaded, its compressed bytes and dask's intermediate results for that one chunk.

    Args:
        source: a Volume or another object with ``.dask``, or a dask array of three axes.
        max_bytes: bound of the memory for decoded chunks.
        loader_threads: background threads that load ahead; 0 loads on demand only.

    Raises:
        SynbbError: ``max_bytes`` does not hold the largest chunk.
    """

    def __init__(self, source: HasDask | da.Array, *, max_bytes: int = 2**30, loader_threads: int = 4) -> None:
        array = source if isinstance(source, da.Array) else source.dask
        if array.ndim != 3:
            raise SynbbError(f"a stream reads arrays of three axes, z, y, x; this one has {array.ndim}")
        self.shape: Triple = triple(array.shape)
        self.dtype = np.dtype(array.dtype)
        self.max_bytes = int(max_bytes)
        self._name = array.name
        self._edges = [np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64) for lengths in array.chunks]
        largest = int(np.prod([max(lengths) for lengths in array.chunks])) * self.dtype.itemsize
        if largest > self.max_bytes:
            raise SynbbError(
                f"a cache of {self.max_bytes:,} bytes does not hold one chunk of {largest:,} bytes; "
                "give the stream more memory, or store the volume in smaller chunks"
            )
        self._graph = dict(array.__dask_graph__())
        self._lock = threading.Condition()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._pending: OrderedDict[Key, None] = OrderedDict()
        self._counters = CacheCounters()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"chunk-loader-{i}", daemon=True) for i in range(loader_threads)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> ChunkCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def box(self) -> Box:
        """All voxels."""
        return Box.of_shape(self.shape)

    @property
    def counters(self) -> CacheCounters:
        """The counts at this moment."""
        with self._lock:
            return self._counters

    def read(self, box: Box) -> Voxels:
        """The voxels of ``box`` as a new array, loading the chunks that are not here yet.

        Raises:
            SynbbError: the box is not inside the volume, or a chunk is truncated or unreadable.
            RuntimeError: the cache is closed.
        """
        self._check(box)
        out = np.empty(box.shape, self.dtype)
        keys = self._keys(box)
        if len(keys) > 1:
            self._enqueue(keys[1:], first=True)
        for key in keys:
            chunk = self._chunk_box(key)
            part = chunk.intersect(box)
            if part is None:
                continue
            entry = self._acquire(key)
            try:
                assert entry.array is not None
                out[part.relative_to(box.start).slices] = entry.array[part.relative_to(chunk.start).slices]
            finally:
                with self._lock:
                    entry.pins -= 1
                    self._lock.notify_all()
        return out

    def prefetch(self, boxes: Iterable[Box]) -> None:
        """Ask for boxes that will be read soon, the first needed first; returns at once.

        Loading waits while the cache is full of chunks that were prefetched and not read yet. An error while
        loading is raised by the read that needs the chunk.

        Raises:
            SynbbError: a box is not inside the volume.
            RuntimeError: the cache is closed.
        """
        for box in boxes:
            self._check(box)
            self._enqueue(self._keys(box))

    def close(self) -> None:
        """Stop the threads, after the chunks being loaded, and forget all chunks."""
        with self._lock:
            self._closed = True
            self._pending.clear()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()
        with self._lock:
            self._entries.clear()
            self._count(bytes=-self._counters.bytes)

    def _check(self, box: Box) -> None:
        if self._closed:
            raise RuntimeError("the chunk cache is closed")
        if not self.box.contains(box):
            raise SynbbError(f"region {box} is not inside the volume, which is {self.box}")

    def _keys(self, box: Box) -> list[Key]:
        if box.empty:
            return []
        ranges = [
            range(int(np.searchsorted(edges, a, side="right")) - 1, int(np.searchsorted(edges, b, side="left")))
            for edges, a, b in zip(self._edges, box.start, box.stop, strict=True)
        ]
        return [triple(key) for key in product(*ranges)]

    def _chunk_box(self, key: Key) -> Box:
        return Box(
            triple([edges[i] for edges, i in zip(self._edges, key, strict=True)]),
            triple([edges[i + 1] for edges, i in zip(self._edges, key, strict=True)]),
        )

    def _load(self, key: Key) -> Voxels:
        name = (self._name, *key)
        tasks, _ = cull(self._graph, [name])
        array = np.asarray(dask.get(tasks, name))
        # A view of a larger array would keep more alive than is counted.
        whole = array.base is None or getattr(array.base, "nbytes", 0) == array.nbytes
        return array if whole else array.copy()

    def _enqueue(self, keys: Sequence[Key], *, first: bool = False) -> None:
        if not self._threads:
            return
        with self._lock:
            for key in reversed(keys) if first else keys:
                if key not in self._entries:
                    self._pending.setdefault(key)
                    if first:
                        self._pending.move_to_end(key, last=False)
            self._lock.notify_all()

    def _acquire(self, key: Key) -> _Entry:
        """The chunk's entry, loaded and pinned. Only one pin is ever held by a reader, so none waits for another."""
        with self._lock:
            while True:
                if self._closed:
                    raise RuntimeError("the chunk cache is closed")
                entry = self._entries.get(key)
                if entry is None:
                    entry = self._reserve(key, take_unread=True)
                    if entry is not None:
                        self._count(misses=1)
                        break
                elif entry.array is not None:
                    entry.pins += 1
                    entry.unread = False
                    self._entries.move_to_end(key)
                    self._count(hits=1)
                    return entry
                self._lock.wait()
        return self._fill(key, entry, pins=1)

    def _fill(self, key: Key, entry: _Entry, pins: int) -> _Entry:
        try:
            array = self._load(key)
        except BaseException:
            with self._lock:
                if self._entries.pop(key, None) is not None:
                    self._count(failed=1, bytes=-entry.nbytes)
                self._lock.notify_all()
            raise
        with self._lock:
            entry.array = array
            entry.pins = pins
            entry.unread = pins == 0
            if entry.unread:
                self._count(prefetched=1)
            self._lock.notify_all()
        return entry

    def _reserve(self, key: Key, *, take_unread: bool) -> _Entry | None:
        """Make room and enter the chunk as being loaded; None when there is no room now. The lock is held."""
        needed = self._chunk_box(key).size * self.dtype.itemsize
        spare = self.max_bytes - self._counters.bytes
        victims = []
        for other, entry in self._entries.items():
            if spare >= needed:
                break
            if entry.array is not None and not entry.pins and (take_unread or not entry.unread):
                victims.append(other)
                spare += entry.nbytes
        if spare < needed:
            return None
        for other in victims:
            self._count(evictions=1, bytes=-self._entries.pop(other).nbytes)
        self._pending.pop(key, None)
        entry = self._entries[key] = _Entry(needed)
        self._count(bytes=needed)
        return entry

    def _work(self) -> None:
        """A loader thread: takes the foremost chunk asked for, when there is room for it."""
        while True:
            with self._lock:
                found = self._next()
                while found is None and not self._closed:
                    self._lock.wait()
                    found = self._next()
                if found is None or self._closed:
                    return
            key, entry = found
            try:
                self._fill(key, entry, pins=0)
            except Exception:  # the reader of this chunk meets the same error and raises it
                LOGGER.debug("prefetch of chunk %s failed", key, exc_info=True)

    def _next(self) -> tuple[Key, _Entry] | None:
        while self._pending:
            key = next(iter(self._pending))
            if key in self._entries:
                del self._pending[key]
                continue
            entry = self._reserve(key, take_unread=False)
            return None if entry is None else (key, entry)
        return None

    def _count(self, **more: int) -> None:
        now = {name: getattr(self._counters, name) + value for name, value in more.items()}
        if "bytes" in now:
            now["peak_bytes"] = max(self._counters.peak_bytes, now["bytes"])
        self._counters = replace(self._counters, **now)
