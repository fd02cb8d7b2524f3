import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.volumes import Box, ChunkCache

CHUNK = 4 * 8 * 8  # bytes


def source(shape=(12, 24, 20), log=None, delay=0.0, fail=()):
    """A dask array in chunks of 4 x 8 x 8, whose loads can be logged, slowed and made to fail."""
    whole = np.arange(np.prod(shape), dtype=np.int64).reshape(shape).astype(np.uint8)
    broken = set(fail)
    lock = threading.Lock()

    class Slow:
        def __init__(self):
            self.shape, self.dtype, self.ndim = shape, whole.dtype, 3

        def __getitem__(self, index):
            start = tuple(part.start for part in index)
            if log is not None:
                with lock:
                    log.append(start)
            time.sleep(delay)
            if start in broken:
                raise SynbbError(f"chunk at {start} is truncated")
            return whole[index].copy()

    array = da.from_array(Slow(), chunks=(4, 8, 8), name=False, asarray=False, meta=np.empty((0, 0, 0), np.uint8))
    return whole, array, broken


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.002)


@st.composite
def boxes_in(draw, shape):
    start = [draw(st.integers(0, n - 1)) for n in shape]
    stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    return Box(start, stop)


@settings(max_examples=25, deadline=None)
@given(
    boxes=st.lists(boxes_in((12, 24, 20)), min_size=1, max_size=8),
    ahead=st.lists(boxes_in((12, 24, 20)), max_size=4),
    room=st.integers(1, 40),
    threads=st.integers(0, 3),
)
def test_reads_are_right_whatever_the_memory(boxes, ahead, room, threads):
    whole, array, _ = source()
    with ChunkCache(array, max_bytes=room * CHUNK, loader_threads=threads) as cache:
        cache.prefetch(ahead)
        for box in boxes:
            assert (cache.read(box) == whole[box.slices]).all()
            assert cache.counters.bytes <= room * CHUNK
        assert cache.counters.peak_bytes <= room * CHUNK


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boxes=st.lists(boxes_in((13, 45, 38)), min_size=1, max_size=10))
def test_a_volume_and_its_crop(make, grey, boxes):
    volume = make("sharded", grey)
    crop = volume.crop(Box((1, 3, 5), grey.shape))
    with ChunkCache(volume, max_bytes=3000, loader_threads=2) as cache, ChunkCache(crop, max_bytes=3000) as part:
        for box in boxes:
            assert (cache.read(box) == volume.read(box)).all()
            inside = box.relative_to((1, 3, 5)).intersect(crop.box)
            if inside is not None:
                assert (part.read(inside) == crop.read(inside)).all()


def test_a_derived_array():
    whole, array, _ = source()
    with ChunkCache(array.astype(np.float32) * 2 + 1, max_bytes=10 * CHUNK * 4) as cache:
        box = Box((1, 2, 3), (9, 20, 18))
        assert (cache.read(box) == whole[box.slices] * 2.0 + 1).all()
        assert cache.dtype == np.float32


def test_many_readers_in_little_memory():
    whole, array, _ = source(delay=0.0005)
    box = Box.of_shape(whole.shape)
    boxes = [
        Box.of_shape((3, 9, 9), start).intersect(box)
        for start in np.random.default_rng(0).integers(0, (12, 24, 20), (150, 3)).tolist()
    ]
    with ChunkCache(array, max_bytes=2 * CHUNK, loader_threads=2) as cache:
        cache.prefetch(boxes[:40])
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(cache.read, boxes))
        assert cache.counters.peak_bytes <= 2 * CHUNK
    for part, block in zip(boxes, found, strict=True):
        assert (block == whole[part.slices]).all()


def test_counters_are_exact():
    log = []
    _, array, _ = source(log=log)
    cache = ChunkCache(array, max_bytes=2 * CHUNK, loader_threads=0)
    a, b, c = (Box.of_shape((4, 8, 8), (0, 0, x)) for x in (0, 8, 16))
    for box in (a, a, b, a):
        cache.read(box)
    counters = cache.counters
    assert (counters.misses, counters.hits, counters.evictions, counters.bytes) == (2, 2, 0, 2 * CHUNK)
    cache.read(c.intersect(cache.box))  # half a chunk wide; b was used longest ago
    assert cache.counters.evictions == 1
    cache.read(a)
    assert cache.counters.misses == 3
    cache.read(b)
    assert cache.counters.misses == 4
    assert len(log) == 4
    assert cache.counters.prefetched == 0
    cache.close()
    assert cache.counters.bytes == 0


def test_prefetched_chunks_are_hits_and_loaded_once():
    log = []
    _, array, _ = source(log=log)
    with ChunkCache(array, max_bytes=100 * CHUNK, loader_threads=3) as cache:
        box = Box((0, 0, 0), (8, 16, 16))
        cache.prefetch([box, box])
        until(lambda: cache.counters.prefetched == 8)
        cache.read(box)
        counters = cache.counters
        assert (counters.hits, counters.misses) == (8, 0)
    assert len(log) == len(set(log)) == 8


def test_loading_several_at_a_time():
    together = threading.Barrier(4, timeout=20)
    _, array, _ = source()

    def wait_for_three_others(block):
        together.wait()
        return block

    array = array.map_blocks(wait_for_three_others, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    with ChunkCache(array, max_bytes=100 * CHUNK, loader_threads=4) as cache:
        cache.prefetch([Box((0, 0, 0), (8, 16, 16))])
        until(lambda: cache.counters.prefetched == 8, 20)
        assert cache.counters.failed == 0


def test_unread_chunks_are_not_dropped_by_loaders_and_come_in_order():
    log = []
    _, array, _ = source(log=log)
    boxes = [Box.of_shape((4, 8, 4), (z, y, x)) for z in (0, 4, 8) for y in (0, 8, 16) for x in (0, 8)]
    with ChunkCache(array, max_bytes=4 * CHUNK, loader_threads=1) as cache:
        cache.prefetch(boxes)
        until(lambda: cache.counters.prefetched == 4)
        time.sleep(0.05)
        assert cache.counters.prefetched == 4
        assert cache.counters.evictions == 0
        for box in boxes:
            cache.read(box)
        counters = cache.counters
        assert counters.hits + counters.misses == len(boxes)
    assert len(log) == len(boxes)  # nothing was loaded twice
    assert log[:4] == [box.start for box in boxes[:4]]


def test_a_broken_chunk_is_the_readers_error_and_no_others():
    whole, array, broken = source(fail=[(4, 8, 8)])
    with ChunkCache(array, max_bytes=100 * CHUNK, loader_threads=2) as cache:
        cache.prefetch([cache.box])
        until(lambda: cache.counters.failed == 1)
        good = Box((0, 0, 0), (4, 24, 20))
        assert (cache.read(good) == whole[good.slices]).all()
        for _ in range(2):
            with pytest.raises(SynbbError, match="truncated"):
                cache.read(Box((3, 7, 7), (6, 10, 10)))
        assert cache.counters.bytes <= 100 * CHUNK
        broken.clear()  # repaired
        assert (cache.read(cache.box) == whole).all()


def test_one_chunk_must_fit():
    _, array, _ = source()
    with pytest.raises(SynbbError, match="255 bytes does not hold one chunk of 256 bytes"):
        ChunkCache(array, max_bytes=CHUNK - 1)


def test_outside_and_closed():
    _, array, _ = source()
    cache = ChunkCache(array, max_bytes=4 * CHUNK)
    for call in (cache.read, lambda box: cache.prefetch([box])):
        with pytest.raises(SynbbError, match="not inside"):
            call(Box((0, 0, 0), (13, 1, 1)))
    assert cache.read(Box((1, 1, 1), (1, 2, 2))).shape == (0, 1, 1)
    cache.close()
    assert not any(thread.is_alive() for thread in cache._threads)
    with pytest.raises(RuntimeError, match="closed"):
        cache.read(Box((0, 0, 0), (1, 1, 1)))
    cache.close()


def test_two_axes_are_no_volume():
    with pytest.raises(SynbbError, match="three axes"):
        ChunkCache(da.zeros((4, 4)), max_bytes=1000)
