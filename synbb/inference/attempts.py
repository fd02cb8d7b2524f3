"""Blocks that are computed where one that raises must not hold up the others: on workers of every kind."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synbb.errors import DISK_FULL, RunEnded, SynbbError
from synbb.inference.blocks import Block
from synbb.inference.ledger_lines import Mark
from synbb.volumes.writing import OutputRemoved

if TYPE_CHECKING:
    from synbb.inference.block_work import BlockInput, BlockWork
    from synbb.inference.network import Network
    from synbb.volumes.writing import WritableVolume


HOPELESS = 8
"""Blocks that are given up before any is finished until the run ends: then it is not the blocks."""

NAMED = 20  # blocks in a message


@dataclass(frozen=True)
class Failure:
    """A block that raised.

    Attributes:
        block: its number.
        text: the traceback.
        fatal: whether every other block would fail as well (a full disk, an output that was removed).
    """

    block: int
    text: str
    fatal: bool = False

    @classmethod
    def of(cls, block: int, error: BaseException) -> Failure:
        """The failure of ``block`` with ``error``."""
        cause = error.__cause__
        full = isinstance(error, SynbbError) and isinstance(cause, OSError) and cause.errno in DISK_FULL
        return cls(block, "".join(traceback.format_exception(error)).rstrip(), full or isinstance(error, OutputRemoved))

    @property
    def message(self) -> str:
        """Its last line without the name of the exception."""
        return self.summary.partition(": ")[2] or self.summary

    @property
    def summary(self) -> str:
        """Its last line."""
        return self.text.splitlines()[-1]


def check_hope(output: str, failure: Failure, given_up: int, before: int, finished: int, blocks: int) -> None:
    """End a run in which everything fails.

    Args:
        output: its path.
        failure: the last one.
        given_up: blocks that were.
        before: blocks that were finished when the run began.
        finished: blocks that are finished now.
        blocks: of the plan.

    Raises:
        RunEnded: :data:`HOPELESS` blocks were given up and none was finished.
    """
    if given_up >= HOPELESS and finished <= before:
        raise ended(output, f"{given_up} blocks failed and none was finished ({failure.summary})", finished, blocks)


def ended(output: str, why: str, finished: int, blocks: int) -> RunEnded:
    """What to raise when a run cannot go on."""
    return RunEnded(
        f"{output}: {why}; {finished} of {blocks} blocks are finished and kept, start the same command again to go on"
    )


def what_failed(output: str, failed: Mapping[int, str], finished: int, blocks: int) -> RunEnded:
    """What to raise when all blocks are finished but those that were given up, with the reason."""
    numbers = sorted(failed)
    names = ", ".join(map(str, numbers[:NAMED])) + (f" and {len(numbers) - NAMED} more" if numbers[NAMED:] else "")
    return RunEnded(
        f"{output}: {len(failed)} of {blocks} blocks failed: {names} (block {numbers[0]}: {failed[numbers[0]]}); "
        f"{finished} are finished and kept, start the same command again to try the others"
    )


def compute_blocks(
    work: BlockWork,
    network: Network,
    output: WritableVolume,
    batch: Sequence[Block],
    missing: frozenset[int],
    turn: threading.Lock | None = None,
) -> tuple[list[Mark], list[Failure]]:
    """Compute the ``missing`` blocks of a batch of the plan and write them; a block that raises holds up no other.

    The places of blocks that are not computed are held by one that is, so the result has the bits of the whole batch.

    Args:
        work: the blocks.
        network: entered.
        output: where to.
        batch: of the plan.
        missing: numbers of the blocks to compute.
        turn: held while the network runs.

    Returns:
        Marks of the blocks that are written, failures of the others.
    """
    turn = turn or threading.Lock()
    marks: list[Mark] = []
    failures: list[Failure] = []
    inputs: dict[int, BlockInput] = {}
    silent: RunEnded | None = None
    for block in batch:
        if block.index not in missing:
            continue
        if silent is not None:  # not another minute for the same store
            failures.append(Failure.of(block.index, silent))
            continue
        try:
            inputs[block.index] = work.read(block, for_card=network.on_card)
        except Exception as error:
            failures.append(Failure.of(block.index, error))
            silent = error if isinstance(error, RunEnded) else None

    def attempt(wanted: Sequence[Block]) -> None:
        chosen = {block.index for block in wanted}
        given = [inputs[block.index] if block.index in chosen else None for block in batch]
        try:
            with turn:
                found = work.logits(network, batch, given)
                values = [
                    None if read is None else work.voxels(logits, block, read.no_data, output.dtype)
                    for block, read, logits in zip(batch, given, found, strict=True)
                ]
        except Exception as error:
            if len(wanted) == 1:
                failures.append(Failure.of(wanted[0].index, error))
            else:  # which of them is to blame shows when each is alone
                for block in wanted:
                    attempt([block])
            return
        for block, read, finished in zip(batch, given, values, strict=True):
            if read is not None and finished is not None:
                try:
                    marks.append(work.write(output, block, finished(), read.no_data))
                except Exception as error:
                    failures.append(Failure.of(block.index, error))

    readable = [block for block in batch if block.index in inputs]
    if readable:
        attempt(readable)
    return marks, failures
