"""Threads on either side of the network: readers ahead of it, writers behind it, both bounded.

The network stays in the calling thread. So an interrupt (Ctrl-C) arrives there, the first error of any thread is
raised there, and leaving the ``with`` block always waits for all threads: none is left behind.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads(NamedTuple):
    """How many threads read ahead of a network, and how many write behind it."""

    readers: int
    writers: int


def threads_beside(device: torch.device) -> Threads:
    """Threads for which a network on ``device`` leaves room.

    A network on the CPU needs the cores itself. One on a GPU is faster than a core can resample and compress: half of
    the cores, at most eight, do each.
    """
    if device.type == "cpu":
        return Threads(readers=2, writers=1)
    some = min(8, max(2, len(os.sched_getaffinity(0)) // 2))
    return Threads(readers=some, writers=some)


class Readers(Generic[Item, Result]):
    """Applies ``function`` to items in ``threads`` threads, at most ``ahead`` of them before their result is taken.

    After the first item that fails no other is begun: a store that does not answer is waited for once.
    """

    def __init__(self, function: Callable[[Item], Result], *, threads: int, ahead: int) -> None:
        self._function = function
        self._ahead = max(1, ahead)
        self._error: BaseException | None = None
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="synbb-reader")

    def __enter__(self) -> Readers[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def over(self, items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of ``items``; an item's error is raised when its turn comes."""
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(self._guarded, item))
            if len(waiting) > self._ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _guarded(self, item: Item) -> Result:
        if self._error is not None:  # the same one: whichever result is taken first raises it
            raise self._error
        try:
            return self._function(item)
        except BaseException as error:
            self._error = error
            raise


class Writers:
    """Runs jobs in ``threads`` threads, in the order they come; at most ``behind`` of them are not done.

    After the first job that fails no other is begun; its error is raised at the next :meth:`submit` or at the end.
    """

    def __init__(self, *, threads: int, behind: int) -> None:
        self._behind = max(1, behind)
        self._failed = False
        self._waiting: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="synbb-writer")

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # Work that is waiting is done, not dropped: after an interrupt its blocks need not be computed again.
        self._pool.shutdown(wait=True)
        if kind is None or isinstance(error, Exception):
            self._raise_first(error)

    def submit(self, job: Callable[[], None]) -> None:
        """Queue ``job``, waiting while the queue is full.

        Raises:
            Exception: whatever an earlier job raised.
        """
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._behind):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._guarded, job))

    def _guarded(self, job: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            job()
        except BaseException:
            self._failed = True
            raise

    def _raise_first(self, already: BaseException | None) -> None:
        """Raise the first error of the queue, unless another one is on its way."""
        for future in self._waiting:
            found = future.exception()
            if found is not None and already is None:
                raise found
            if found is not None and already is not None and found is not already:
                already.add_note(f"and a writer failed with {type(found).__name__}: {found}")
