"""Who computes the blocks of a prediction: this process, workers of a cluster, or processes that share leases.

``predict_volume`` (``predictor.py``) decides what is to be computed (a :class:`Prediction`) and hands it to a
:class:`Driver`, which opens the books, computes what is missing and marks it. Drivers: :class:`LocalDriver` here,
``ClusterDriver`` in ``cluster.py``, ``LeasedDriver`` in ``leased.py``.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from synbb.inference.leases import check_nobody_shares
from synbb.inference.ledger import Ledger, remove_workers
from synbb.inference.output import NoDataReport, complete, forget_damaged, open_output
from synbb.inference.pipeline import Readers, Writers, threads_beside
from synbb.volumes.quick import written_quickly

if TYPE_CHECKING:
    from synbb.inference.block_work import BlockInput, BlockWork, Voxels
    from synbb.inference.blocks import Block
    from synbb.inference.network import Network
    from synbb.inference.no_data import Where
    from synbb.volumes.writing import WritableVolume

Progress = Callable[..., None]
"""Called with (blocks done, blocks); drivers that know more add words on how it goes as ``note``."""


@dataclass(frozen=True)
class Prediction:
    """What is to be computed, and where to.

    Attributes:
        work: the blocks.
        network: not yet on its device.
        output: path of the output.
        dtype: of the output.
        attributes: metadata of the output.
        verify: read finished blocks first and compute again what is not what was written.
        progress: told of finished blocks; None for nobody.
        say: prints a line for a person.
    """

    work: BlockWork
    network: Network
    output: str
    dtype: str
    attributes: Mapping[str, Any]
    verify: bool = False
    progress: Progress | None = None
    say: Callable[[str], None] = lambda _: None

    def report(self, done: int, note: str = "") -> None:
        """Tell of ``done`` finished blocks."""
        if self.progress is None:
            return
        if note:
            self.progress(done, len(self.work.plan), note=note)
        else:
            self.progress(done, len(self.work.plan))

    def open_output(self, path: str, *, created: bool) -> WritableVolume:
        """The output at ``path``: reopened when it was ``created`` before, else made anew.

        Raises:
            SynbbError: the output of an earlier call is damaged.
            RunEnded: the disk is full.
        """
        output = open_output(
            path,
            self.work.view.source,
            self.work.plan,
            self.dtype,
            self.attributes,
            created=created,
            empty_chunks=self.work.empty_chunks,
        )
        return self.in_the_quickest_way(output)

    def in_the_quickest_way(self, output: WritableVolume) -> WritableVolume:
        """``output``, beside a GPU written through tensorstore where that is possible."""
        return written_quickly(output, empty_chunks=self.work.empty_chunks) if self.network.on_card else output


@dataclass(frozen=True)
class Outcome:
    """What a driver did.

    Attributes:
        done: blocks computed now.
        skipped: blocks that were finished before.
        damaged: finished blocks that were found damaged and computed again.
        voxels: voxels of the input written now.
        seconds: wall time of the blocks.
        no_data: where the output has none.
    """

    done: int
    skipped: int
    damaged: int
    voxels: int
    seconds: float
    no_data: NoDataReport


class Driver(Protocol):
    """Computes what is missing of a prediction."""

    def run(self, prediction: Prediction) -> Outcome:
        """Compute and mark all that is missing.

        Raises:
            SynbbError: an output of another plan; a mistake in the input.
            RunEnded: the disk is full, blocks failed, workers are gone. Finished blocks are kept.
        """


class SingleWriter(ABC):
    """A driver that holds the ledger: it alone marks, whoever computes."""

    def run(self, prediction: Prediction) -> Outcome:
        """As :meth:`Driver.run`."""
        # Before the ledger is locked, so that nobody who begins meanwhile is refused for a process that only looks.
        check_nobody_shares(prediction.output, prediction.say)
        with Ledger(prediction.output, prediction.work.plan.fields(), prediction.say) as ledger:
            output = prediction.open_output(prediction.output, created=ledger.created)
            if not ledger.created:
                ledger.record_creation()
            damaged = forget_damaged(output, ledger) if prediction.verify else []
            skipped = len(ledger.marks)
            began = time.perf_counter()
            voxels = self.compute(prediction, output, ledger)
            seconds = time.perf_counter() - began
            without = complete(output, ledger.marks)
            remove_workers(prediction.output)  # their marks are in the ledger now
        return Outcome(len(prediction.work.plan) - skipped, skipped, len(damaged), voxels, seconds, without)

    @abstractmethod
    def compute(self, prediction: Prediction, output: WritableVolume, ledger: Ledger) -> int:
        """Compute and mark all blocks that are not marked; returns the voxels written."""


class LocalDriver(SingleWriter):
    """This process: reader threads -> bounded queue -> network (calling thread) -> bounded queue -> writer threads.

    Args:
        reader_threads: threads that read and normalise ahead of the network.
        writer_threads: threads that turn logits into voxels and write them. None for either: as many as
            :func:`synbb.inference.pipeline.threads_beside` finds room for.
    """

    def __init__(self, reader_threads: int | None = None, writer_threads: int | None = None) -> None:
        self._reader_threads, self._writer_threads = reader_threads, writer_threads

    def compute(self, prediction: Prediction, output: WritableVolume, ledger: Ledger) -> int:
        """As :meth:`SingleWriter.compute`."""
        work, network = prediction.work, prediction.network
        finished = frozenset(ledger.marks)
        prediction.report(len(finished))
        size = network.batch  # of the plan, whatever becomes of the network's when memory runs out

        def batches() -> Iterator[tuple[Block, ...]]:
            return (each for each in work.plan.batches(size) if not finished.issuperset(numbers(each)))

        read = partial(_read, work, finished, for_card=network.on_card)
        voxels, tally = 0, _Tally(prediction, len(finished))
        some = threads_beside(network.device)
        reading, writing = self._reader_threads or some.readers, self._writer_threads or some.writers
        with (
            network,
            Writers(threads=writing, behind=writing + 1) as writers,
            Readers(read, threads=reading, ahead=reading + size) as readers,
        ):
            inputs_of_blocks = readers.over(block for batch in batches() for block in batch)
            for batch in batches():
                inputs = [next(inputs_of_blocks) for _ in batch]
                found = work.logits(network, batch, inputs)
                for block, given, logits in zip(batch, inputs, found, strict=True):
                    if given is None:
                        continue
                    voxels += block.write.size
                    values = work.voxels(logits, block, given.no_data, output.dtype)
                    writers.submit(_Job(work, output, ledger, tally, block, values, given.no_data))
        return voxels


class _Tally:
    """Blocks done, told one after another whichever thread finished them."""

    def __init__(self, prediction: Prediction, done: int) -> None:
        self._prediction, self._done, self._telling = prediction, done, threading.Lock()

    def one_more(self) -> None:
        with self._telling:
            self._done += 1
            self._prediction.report(self._done)


@dataclass(frozen=True)
class _Job:
    """A block on its way to the writers."""

    work: BlockWork
    output: WritableVolume
    ledger: Ledger
    tally: _Tally
    block: Block
    values: Callable[[], Voxels]
    no_data: Where | None

    def __call__(self) -> None:
        """Probabilities of the block to the output, then its mark."""
        self.ledger.mark(self.work.write(self.output, self.block, self.values(), self.no_data))
        self.tally.one_more()


def numbers(batch: tuple[Block, ...]) -> list[int]:
    """Of the blocks of a batch."""
    return [block.index for block in batch]


def _read(work: BlockWork, finished: frozenset[int], block: Block, *, for_card: bool) -> BlockInput | None:
    """What was read for a block; None for a finished one."""
    return None if block.index in finished else work.read(block, for_card=for_card)
