"""What a dask worker does with the blocks of a prediction.

A worker gets network, plan, volume and output once, as a plugin that the scheduler hands to every worker that joins.
A task names blocks, and its result is their marks: no voxel passes through the scheduler.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from distributed import WorkerPlugin, get_worker

from synbb.inference.allocator import keep_freed_memory
from synbb.inference.attempts import Failure, compute_blocks
from synbb.inference.blocks import Block
from synbb.inference.ledger_lines import Mark
from synbb.volumes.quick import written_quickly

if TYPE_CHECKING:
    from synbb.inference.block_work import BlockWork
    from synbb.inference.network import Network
    from synbb.volumes.writing import WritableVolume


@dataclass(frozen=True)
class Done:
    """What became of the blocks of one task, and where."""

    worker: str
    marks: tuple[Mark, ...]
    failures: tuple[Failure, ...]


class BlocksPlugin(WorkerPlugin):  # type: ignore[misc, unused-ignore]
    """Network, plan, volume and output on a worker.

    Args:
        name: of this run of the driver.
        work: the blocks.
        network: on the CPU, not entered.
        device: ``auto`` takes a GPU where the worker sees one.
        output: where to.
    """

    def __init__(self, name: str, work: BlockWork, network: Network, device: str, output: WritableVolume) -> None:
        self.name = name
        self._work = work
        self._network = network
        self._device = device
        self._output = output

    def setup(self, worker: Any) -> None:
        """Called by dask when the worker has received the plugin; the network is loaded with the first block."""
        keep_freed_memory()
        self._worker = worker.address
        self._place = worker_device(self._device, str(worker.name))
        self._loading, self._turn = threading.Lock(), threading.Lock()
        self._loaded = False

    def compute(self, batch: Sequence[Block], missing: frozenset[int]) -> Done:
        """Compute, write and mark; a worker of several threads reads and writes while the network has another's turn.

        Raises:
            SynbbError: the device is not there.
        """
        with self._loading:
            if not self._loaded:
                self._network.device = torch.device(self._place)
                self._network.__enter__()
                if self._network.on_card:
                    self._work = replace(self._work, view=self._work.view.quickly())
                    self._output = written_quickly(self._output, empty_chunks=self._work.empty_chunks)
                self._loaded = True
        marks, failures = compute_blocks(self._work, self._network, self._output, batch, missing, self._turn)
        return Done(self._worker, tuple(marks), tuple(failures))


def compute_batch(name: str, batch: Sequence[Block], missing: frozenset[int]) -> Done:
    """The task: with the plugin called ``name`` of the worker that it runs on."""
    plugin: BlocksPlugin = get_worker().plugins[name]
    return plugin.compute(batch, missing)


def worker_device(wanted: str, worker: str) -> str:
    """The device of a worker.

    ``auto`` takes a GPU where torch sees one; where it sees several, workers of one machine (``0``, ``1``, ... or
    ``cluster-3-1``) take turns by the number that their name ends with.
    """
    if wanted != "auto":
        return wanted
    if not torch.cuda.is_available():
        return "cpu"
    number = re.search(r"\d+$", worker)
    return f"cuda:{int(number.group()) % torch.cuda.device_count() if number else 0}"
