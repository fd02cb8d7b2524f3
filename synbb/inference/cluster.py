"""A prediction over the workers of a dask.distributed cluster. See docs/cluster.md.

One task is one batch of the plan, its result are marks. This process holds the ledger and marks; it keeps a bounded
number of tasks at the scheduler, tries blocks that raise again elsewhere, and tells a block that fails from a worker
that is lost.
"""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed import KilledWorker
from distributed.comm import CommClosedError

from synbb.errors import RunEnded
from synbb.inference.attempts import Failure, check_hope, ended, what_failed
from synbb.inference.cluster_start import Connection, dashboard
from synbb.inference.cluster_worker import BlocksPlugin, Done, compute_batch
from synbb.inference.drivers import Prediction, SingleWriter, numbers

if TYPE_CHECKING:
    from synbb.inference.blocks import Block
    from synbb.inference.ledger import Ledger
    from synbb.volumes.writing import WritableVolume

AHEAD = 2
"""Tasks at the scheduler for each thread of the workers: one that runs, one that waits."""

LOSSES = 30
"""Workers that may be lost over one block before it is given up: a block may kill workers (memory, a driver).

More than a cluster loses in a bad hour, since whoever is lost next may again be the one that has a slow block.
"""

GATHERING = 10.0
"""Seconds for a finished task's marks to arrive until it is given out again."""

TICK = 1.0  # seconds between looks at the workers


class ClusterDriver(SingleWriter):
    """Blocks on the workers of a cluster.

    Args:
        connect: opens the cluster, for the time of the run.
        device: of each worker; ``auto`` takes a GPU where the worker sees one.
        retries: further attempts for a block that raises, on other workers where there are some.
        worker_timeout: seconds without any worker until the run ends.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        *,
        device: str = "auto",
        retries: int = 2,
        worker_timeout: float = 600.0,
    ) -> None:
        self._connect = connect
        self._device = device
        self._retries = retries
        self._timeout = worker_timeout

    def compute(self, prediction: Prediction, output: WritableVolume, ledger: Ledger) -> int:
        """As :meth:`SingleWriter.compute`.

        Raises:
            RunEnded: blocks failed (named), all workers or the scheduler were gone. Finished blocks are kept.
        """
        finished = frozenset(ledger.marks)
        if len(finished) == len(prediction.work.plan):
            return 0
        prediction.network.net.to("cpu")
        name = f"synbb-{uuid.uuid4().hex}"
        plugin = BlocksPlugin(name, prediction.work, prediction.network, self._device, output)
        with self._connect() as connection:
            client = connection.client
            prediction.say(dashboard(client))
            client.register_plugin(plugin)
            run = _Run(prediction, ledger, connection, name, self._retries, self._timeout)
            try:
                return run.until_done(_tasks(prediction, finished))
            except CommClosedError as error:
                raise run.end("the connection to the scheduler is lost") from error
            finally:
                with contextlib.suppress(OSError, ValueError):  # a scheduler that is gone needs no tidying
                    client.unregister_worker_plugin(name)


@dataclass
class _Task:
    """Blocks that are computed together."""

    batch: tuple[Block, ...]
    missing: frozenset[int]
    avoid: set[str] = field(default_factory=set)  # workers on which one of them raised
    suspect: bool = False  # was under way when workers died


def _tasks(prediction: Prediction, finished: frozenset[int]) -> Iterator[_Task]:
    for batch in prediction.work.plan.batches(prediction.network.batch):
        missing = frozenset(numbers(batch)) - finished
        if missing:
            yield _Task(batch, missing)


class _Run:
    """The loop of the driver; all of its state belongs to the calling thread."""

    def __init__(
        self, prediction: Prediction, ledger: Ledger, connection: Connection, name: str, retries: int, timeout: float
    ) -> None:
        self.prediction = prediction
        self.plan = prediction.work.plan
        self.ledger = ledger
        self.client = connection.client
        self.expected = connection.threads
        self.name = name
        self.retries = retries
        self.timeout = timeout
        self.again: deque[_Task] = deque()
        self.suspects: deque[_Task] = deque()
        self.running: dict[str, tuple[_Task, Any]] = {}
        self.ended: queue.SimpleQueue[Any] = queue.SimpleQueue()  # filled by dask's callback threads
        self.charges: Counter[int] = Counter()
        self.losses: Counter[int] = Counter()
        self.failed: dict[int, str] = {}  # given up, with the reason
        self.finished = len(ledger.marks)
        self.before = self.finished
        self.voxels = 0
        self.began = time.monotonic()
        self.workers: dict[str, int] = {}
        self.lost = 0
        self.looked = -TICK
        self.alone_since: float | None = None
        self.submitted = 0

    def until_done(self, fresh: Iterator[_Task]) -> int:
        """Compute all tasks; returns the voxels written."""
        self._report()
        while True:
            self._look_at_workers()
            self._fill(fresh)
            if not self.running:
                break
            with contextlib.suppress(queue.Empty):
                self._take(self.ended.get(timeout=TICK))
        if self.failed:
            raise what_failed(self.prediction.output, self.failed, self.finished, len(self.plan))
        return self.voxels

    def _fill(self, fresh: Iterator[_Task]) -> None:
        limit = AHEAD * max(1, self.expected, sum(self.workers.values()))
        while len(self.running) < limit:
            task = self._next(fresh)
            if task is None:
                return
            self._submit(task)

    def _next(self, fresh: Iterator[_Task]) -> _Task | None:
        if self.again:
            return self.again.popleft()
        # One at a time: dask blames all that wait at a worker that dies, so that a block which only ever waits behind
        # the one that kills would be given up with it.
        if self.suspects and not any(task.suspect for task, _ in self.running.values()):
            return self.suspects.popleft()
        return next(fresh, None)

    def _queue(self, task: _Task) -> None:
        (self.suspects if task.suspect else self.again).append(task)

    def _submit(self, task: _Task) -> None:
        others = sorted(set(self.workers) - task.avoid) if task.avoid else []
        self.submitted += 1
        future = self.client.submit(
            compute_batch,
            self.name,
            task.batch,
            task.missing,
            key=f"{self.name}-{self.submitted}",
            pure=False,
            workers=others or None,
            allow_other_workers=bool(others),  # a wish: those may be lost before it runs
        )
        self.running[future.key] = (task, future)
        future.add_done_callback(self.ended.put)

    def _take(self, future: Any) -> None:
        task, _ = self.running.pop(future.key)
        try:
            # With a timeout: where the worker is lost that held the result, dask computes it again and waits.
            done = future.result(timeout=GATHERING)
        except (TimeoutError, CancelledError):
            if future.status == "cancelled":
                raise self.end("the connection to the scheduler is lost") from None
            self._queue(task)
        except KilledWorker as error:
            self._give_back(task, error)
        except Exception as error:  # not a block's own: the worker could not begin
            self._charge(task, [Failure.of(block, error) for block in sorted(task.missing)], None)
        else:
            self._record(task, done)
        future.release()
        self._report()

    def _record(self, task: _Task, done: Done) -> None:
        boxes = {block.index: block.write for block in task.batch}
        for mark in done.marks:
            self.ledger.mark(mark)
            self.finished += 1
            self.voxels += boxes[mark.block].size
        self._charge(task, done.failures, done.worker)

    def _charge(self, task: _Task, failures: Iterable[Failure], worker: str | None) -> None:
        """Blocks that raised: once more elsewhere, or given up."""
        again = set()
        for failure in failures:
            if failure.fatal:
                raise RunEnded(failure.message)
            self.charges[failure.block] += 1
            if self.charges[failure.block] > self.retries:
                self._give_up(failure, f"failed {self.charges[failure.block]} times")
            else:
                again.add(failure.block)
        if again:
            avoid = task.avoid | ({worker} if worker else set())
            self._queue(_Task(task.batch, frozenset(again), avoid, task.suspect))

    def _give_back(self, task: _Task, error: Any) -> None:
        """Blocks whose workers were lost: not their fault, unless it happens again and again."""
        for number in sorted(task.missing):
            self.losses[number] += error.allowed_failures + 1
            if self.losses[number] < LOSSES:
                self._queue(_Task(task.batch, frozenset({number}), suspect=True))  # alone: is it this one?
            else:
                self._give_up(
                    Failure(number, f"{type(error).__name__}: {error}"),
                    f"was under way when {self.losses[number]} workers died",
                )

    def _give_up(self, failure: Failure, why: str) -> None:
        self.failed[failure.block] = failure.summary
        where = self.plan.block(failure.block).write
        self.prediction.say(f"block {failure.block} (voxels {where}) {why}; the rest goes on. {failure.text}")
        check_hope(self.prediction.output, failure, len(self.failed), self.before, self.finished, len(self.plan))

    def _look_at_workers(self) -> None:
        now = time.monotonic()
        if now - self.looked < TICK:
            return
        self.looked = now
        if self.client.status != "running":
            raise self.end("the connection to the scheduler is lost")
        found: dict[str, int] = self.client.nthreads()
        self.lost += len(set(self.workers) - set(found))
        self.workers = found
        if found:
            self.alone_since = None
            return
        if self.alone_since is None:
            self.alone_since = now
            what = "all workers are gone; waiting" if self.lost else "waiting for the first worker,"
            self.prediction.say(f"{what} up to {self.timeout:g} s (--worker-timeout)")
        elif now - self.alone_since > self.timeout:
            raise self.end(f"all workers are gone: none for {self.timeout:g} s")

    def end(self, why: str) -> RunEnded:
        """What to raise when the run cannot go on."""
        return ended(self.prediction.output, why, self.finished, len(self.plan))

    def _report(self) -> None:
        rate = self.voxels / 1e6 / max(time.monotonic() - self.began, 1e-9)
        note = f"{rate:.2f} Mvox/s, {len(self.workers)} workers"
        if self.lost:
            note += f", {self.lost} lost"
        if self.failed:
            note += f", {len(self.failed)} blocks failed"
        self.prediction.report(self.finished, note)
