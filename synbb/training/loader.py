"""Batches prepared ahead by threads, handed out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from synbb.tasks.base import Batch, Task


class Prefetcher:
    """The batches of steps ``first`` to ``last``, at most ``ahead`` of them waiting.

    A batch is a function of (seed, step), so neither the number of threads nor a restart changes what is
    trained on.

    Args:
        task: makes the batches.
        first: first step.
        last: one past the last step.
        rank: of this process among ``world_size``.
        world_size: processes that share each batch.
        threads: that cut and augment.
        ahead: steps prepared ahead of need; their chunks are asked for twice as far ahead.
    """

    def __init__(
        self, task: Task, first: int, last: int, *, rank: int, world_size: int, threads: int, ahead: int
    ) -> None:
        self._task, self._first, self._last, self._ahead = task, first, last, ahead
        self._share = (rank, world_size)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="synbb-loader")

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) in order; an error in a loader thread is raised here."""
        waiting: deque[Future[Batch]] = deque()
        window = max(self._ahead, 1)
        asked = submitted = self._first
        for step in range(self._first, self._last):
            if asked <= min(step + window, self._last - 1):
                upto = min(asked + 2 * window, self._last)
                self._task.upcoming(range(asked, upto), *self._share)
                asked = upto
            while submitted < min(step + window, self._last):
                waiting.append(self._pool.submit(self._task.batch, submitted, *self._share))
                submitted += 1
            yield step, waiting.popleft().result()

    def close(self) -> None:
        """Stop the threads; batches not yet begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
