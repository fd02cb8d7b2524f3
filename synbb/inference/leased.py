"""A prediction shared by any number of independent processes, without a scheduler between them. See docs/cluster.md.

Each takes groups of batches by a lease (``leases.py``), computes what is missing in them, and marks it in a file of its
own (``ledger.py``), which all read.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from synbb.errors import RunEnded, SynbbError, disk_errors
from synbb.inference.attempts import Failure, check_hope, compute_blocks, what_failed
from synbb.inference.drivers import Outcome, Prediction, numbers
from synbb.inference.leases import EXPIRY, SETTINGS, Lease, Leases, agreed_expiry
from synbb.inference.ledger import begun, check_plan, exists, is_created, read_marks
from synbb.inference.ledger_lines import KEPT, first_lines, ledger_path, workers_folder
from synbb.inference.output import NoDataReport, complete, remove_partial, reopen
from synbb.inference.ownership import check_ownership
from synbb.inference.pipeline import threads_beside
from synbb.inference.worker_ledger import WorkerLedger
from synbb.locks import try_lock
from synbb.volumes.writing import followed

if TYPE_CHECKING:
    from synbb.inference.blocks import Block
    from synbb.volumes.writing import WritableVolume

GROUPS = 1024
"""About as many leases as a plan is cut into; small plans have one a batch."""

LARGEST_GROUP = 16  # batches


class LeasedDriver:
    """This process as one of any number that share an output.

    Args:
        retries: further attempts, by whichever worker, for a block that raises.
        expiry: seconds for which a worker's counter stands still until another takes its blocks over.
    """

    def __init__(self, *, retries: int = 2, expiry: float = EXPIRY) -> None:
        self._retries = retries
        self._expiry = expiry

    def run(self, prediction: Prediction) -> Outcome:
        """Compute blocks until all are marked, by whomever.

        Raises:
            SynbbError: an output of another plan or batch, or one that a process without ``--worker`` writes now.
            RunEnded: the disk is full; blocks failed (named).
        """
        if prediction.verify:
            raise SynbbError("--verify takes marks back, which workers that share an output cannot; run it without")
        worker = f"{re.sub(r'[^A-Za-z0-9]+', '-', socket.gethostname())}-{os.getpid()}-{os.urandom(3).hex()}"
        folder = _place_to_share(Path(prediction.output))
        with Leases(folder, worker, agreed_expiry(folder, self._expiry), prediction.say) as leases:
            output = join(prediction, leases, self._expiry)
            with WorkerLedger(prediction.output, worker, prediction.work.plan.fields()) as ledger:
                began = time.perf_counter()
                share = _Share(prediction, output, ledger, leases, self._retries)
                with prediction.network:
                    share.until_done()
                if share.failed:
                    raise what_failed(prediction.output, share.failed, len(ledger.marks), len(share.plan))
                without = _finish(output, ledger, leases)
                return Outcome(share.done, share.before, 0, share.voxels, time.perf_counter() - began, without)


class _Share:
    """What one worker does."""

    def __init__(
        self, prediction: Prediction, output: WritableVolume, ledger: WorkerLedger, leases: Leases, retries: int
    ) -> None:
        self.prediction = prediction
        self.work = prediction.work
        self.plan = prediction.work.plan
        self.output = output
        self.ledger = ledger
        self.leases = leases
        self.retries = retries
        self.groups = groups([numbers(batch) for batch in self.plan.batches(prediction.network.batch)])
        self.failed: dict[int, str] = {}  # given up, with the reason where this worker knows it
        self.before = len(ledger.marks)
        self.done = 0
        self.voxels = 0
        self.turn = Lock()

    def until_done(self) -> None:
        """Take groups and compute them, as long as any block of any group is missing."""
        # Each worker begins elsewhere, so that they seldom want the same group.
        first = zlib.crc32(self.leases.worker.encode()) % len(self.groups)
        order = [*range(first, len(self.groups)), *range(first)]
        while True:
            marked = self._refresh()
            wanted = [group for group in order if self._missing(group, marked)]  # of all: a file of marks may go away
            if not wanted:
                return
            self.ledger.check_there()
            if not self.leases.announced():  # it stood still, and was taken for dead: perhaps by a plain run
                self.leases.announce()
                _refuse_locked(ledger_path(self.prediction.output))
            group = self._take(wanted)
            if group is None:
                time.sleep(self.leases.beat)
                continue
            try:
                # What was marked between looking and taking: whoever gave the group back had marked before.
                self._compute(group, self._refresh())
            finally:
                self.leases.release()

    def _refresh(self) -> set[int]:
        self.ledger.refresh()
        for number, times in self.ledger.failed.items():
            if times > self.retries:
                self.failed.setdefault(number, "it raised in other workers")
        marked = set(self.ledger.marks)
        for number in marked & set(self.failed):
            del self.failed[number]
        self.prediction.report(len(marked), f"{self.voxels / 1e6:.2f} Mvox by this worker")
        return marked

    def _missing(self, group: int, marked: set[int]) -> bool:
        return any(n not in marked and n not in self.failed for batch in self.groups[group] for n in batch)

    def _take(self, order: Sequence[int]) -> int | None:
        taken = self.leases.listed()
        for group in order:
            if group not in taken and self.leases.take(group):
                return group
        wanted = {group: taken[group] for group in order if group in taken}
        for void in self.leases.look(wanted):
            if self._take_over(void):
                return void.group
        return None

    def _take_over(self, void: Lease) -> bool:
        if not self.leases.take(void.group, void):
            return False
        self.prediction.say(f"the worker that had group {void.group} has not been heard of, its blocks are taken over")
        return True

    def _compute(self, group: int, marked: set[int]) -> None:
        def compute(batch: Sequence[int]) -> tuple[list[Block], list[Failure]]:
            missing = frozenset(n for n in batch if n not in marked and n not in self.failed)
            if not missing or not self.leases.still_held():
                return [], []
            blocks = [self.plan.block(number) for number in batch]
            marks, failures = compute_blocks(
                self.work, self.prediction.network, self.output, blocks, missing, self.turn
            )
            for mark in marks:
                self.ledger.mark(mark)
            written = {mark.block for mark in marks}
            return [block for block in blocks if block.index in written], failures

        # Some batches are read and written while the network has another.
        threads = threads_beside(self.prediction.network.device).readers
        with ThreadPoolExecutor(threads, thread_name_prefix="synbb-batch") as pool:
            for blocks, failures in pool.map(compute, self.groups[group]):
                self.done += len(blocks)
                self.voxels += sum(block.write.size for block in blocks)
                for failure in failures:
                    self._charge(failure)

    def _charge(self, failure: Failure) -> None:
        if failure.fatal:
            raise RunEnded(failure.message)
        self.ledger.fail(failure.block)
        self.ledger.refresh()
        times = self.ledger.failed[failure.block]
        if times > self.retries:
            self.failed[failure.block] = failure.summary
            where = self.plan.block(failure.block).write
            self.prediction.say(
                f"block {failure.block} (voxels {where}) failed {times} times; the rest goes on. {failure.text}"
            )
        check_hope(
            self.prediction.output, failure, len(self.failed), self.before, len(self.ledger.marks), len(self.plan)
        )


def groups(batches: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """The batches of a plan in groups that are leased together: the same in every worker."""
    size = min(LARGEST_GROUP, max(1, len(batches) // GROUPS))
    return [list(batches[begin : begin + size]) for begin in range(0, len(batches), size)]


def _place_to_share(output: Path) -> Path:
    """Where workers of ``output`` meet; a stranger's output has none."""
    begun(output)
    folder = workers_folder(output)
    if next(folder.glob("marks-*"), None) is not None and not ledger_path(output).exists():  # in this order: no race
        raise SynbbError(f"{folder}: is left of an output that was removed; remove it as well")
    return folder


def join(prediction: Prediction, leases: Leases, expiry: float) -> WritableVolume:
    """The output, as the first worker created it or as this one does now; ``leases`` get the expiry of all.

    This worker has announced itself before it looks at the ledger's lock, and a process that locks the ledger looks for
    workers afterwards, so of two that begin at once one sees the other, or both do. Two workers that begin at once
    cannot both win: ledger and settings are linked into place under names that must be free, and the output is renamed
    into place from a folder of this worker, which fails where there is one already.

    Raises:
        SynbbError: the output is no prediction or not the ledger's, of another plan or batch, half created, or being
            written by a process without leases.
        RunEnded: the disk is full.
    """
    output, fields = Path(prediction.output), prediction.work.plan.fields()
    ledger, folder, worker = ledger_path(output), leases.folder, leases.worker
    with disk_errors(ledger, KEPT):
        _link_new(folder, ledger, worker, first_lines(fields))
    _refuse_locked(ledger)
    told, marks = read_marks(output)
    if exists(output):
        check_ownership(output, ledger, told)
    check_plan(output, told, fields)
    if not is_created(output):
        raise SynbbError(
            f"{output}: its creation was cut short; run predict once without --worker, or remove {ledger.name} and the "
            "output"
        )
    settings = {"batch": prediction.network.batch, "expiry": expiry}
    with disk_errors(folder, KEPT):
        _link_new(folder, folder / SETTINGS, worker, json.dumps(settings).encode())
    first: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
    leases.expiry = float(first["expiry"])
    if first["batch"] != settings["batch"]:
        raise SynbbError(
            f"{output}: its workers share it in batches of {first['batch']} blocks, not {settings['batch']}; start "
            f"with --batch {first['batch']}, or without --worker, which takes all their marks over"
        )
    if leases.expiry != expiry:
        prediction.say(
            f"leases expire after {leases.expiry:g} s, as the first worker of {output} had it, not after {expiry:g} s "
            "(--lease-expiry)"
        )
    if not exists(output):
        if marks:
            raise SynbbError(
                f"{output}: is gone, and its ledger still has {len(marks)} blocks; remove {ledger.name} and "
                f"{folder.name} as well, or put the output back"
            )
        _create(prediction, folder / f"creating-{worker}", output)
    found = reopen(prediction.output, tidy=False, empty_chunks=prediction.work.empty_chunks)
    return prediction.in_the_quickest_way(found)


def _create(prediction: Prediction, scratch: Path, output: Path) -> None:
    place = followed(output)
    if place != output:  # perhaps on another disk, to which nothing can be renamed
        scratch = place.with_name(f".{place.name}.{scratch.name}")
    made = scratch / place.name
    prediction.open_output(str(made), created=False)
    with disk_errors(output, KEPT):
        try:
            made.rename(place)
        except OSError:
            if not exists(output):  # not because another worker was faster
                raise
    shutil.rmtree(scratch)


def _link_new(folder: Path, target: Path, worker: str, content: bytes) -> None:
    """Create ``target`` with all its content at once, unless it exists."""
    if target.exists():
        return
    draft = folder / f"draft-{worker}"
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(draft, target)
    draft.unlink()


def _refuse_locked(ledger: Path) -> None:
    """A process without leases holds the ledger's lock; where the file system has no locks nothing is known."""
    with ledger.open("rb") as file:
        if try_lock(file, fcntl.LOCK_SH) is False:
            raise SynbbError(
                f"{ledger}: a process without --worker is writing this output at this moment; wait for it to end"
            )


def _finish(output: WritableVolume, ledger: WorkerLedger, leases: Leases) -> NoDataReport:
    """Everything is marked: say so, and remove what killed workers left."""
    without = complete(output, ledger.marks)
    left = leases.listed()
    if not left:  # nobody writes
        remove_partial(output.path)
    for lease in left.values():  # of workers that were killed after their last mark
        leases.remove(lease)
    return without
