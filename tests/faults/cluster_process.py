"""A dask worker for the tests that kill it: it prints ``computed N`` into a log when block N is read."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

import torch
from distributed import Worker
from predict_process import announce_reads

from synbb.inference.block_work import BlockWork

if TYPE_CHECKING:
    from typing import Any


def main(
    scheduler: str, log: str, broken: int | None = None, deadly: int | None = None, slow: int | None = None
) -> None:
    """Work until the scheduler is gone.

    Reading block ``broken`` raises, reading block ``deadly`` ends the process, reading block ``slow`` takes a minute.
    """
    sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115
    torch.set_num_threads(1)
    announce_reads(broken)
    read_well = BlockWork.read

    def read(work: BlockWork, block: Any, **how: Any) -> Any:
        found = read_well(work, block, **how)
        if block.index == slow:
            time.sleep(60)
        if block.index == deadly:
            os._exit(9)
        return found

    BlockWork.read = read  # type: ignore[method-assign]
    asyncio.run(_work(scheduler))


async def _work(scheduler: str) -> None:
    async with Worker(scheduler, nthreads=1, dashboard=False, death_timeout="20s") as worker:
        await worker.finished()
