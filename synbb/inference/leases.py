"""Leases on groups of blocks: files by which processes on any machines share a prediction without a scheduler.

``OUT.zarr.workers/lease-GROUP.GENERATION`` exists while a worker has the group; it holds the worker's name and a
counter, which the worker moves on. A worker that watches a lease whose counter stands still for the expiry, by its own
clock, takes the group over by creating the next generation. Creating is exclusive (``O_EXCL``), so of several one
wins; nothing is locked, and no clocks of two machines are compared. See docs/cluster.md.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from synbb.errors import SynbbError, disk_errors
from synbb.inference.ledger_lines import workers_folder

BEATS = 6
"""How often a counter moves in the time after which its lease expires."""

WATCHED = 64
"""Leases that an idle worker reads at each look, so that many idle workers do not wear the file system out."""

SETTINGS = "settings.json"
"""What all workers of an output must agree upon beside the plan: batch and expiry."""

_NAME = re.compile(r"lease-(\d+)\.(\d+)")


@dataclass(frozen=True)
class Lease:
    """One lease file: the group that it stands for, and how often the group had been taken before."""

    group: int
    generation: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"lease-{self.group}.{self.generation}"


class Leases:
    """The leases of one output, seen by one worker, which holds at most one of them. Use as a context manager.

    Args:
        folder: where the files lie; it exists.
        worker: name of this worker, unique.
        expiry: seconds for which a counter stands still until its lease is void; the same for all workers.
    """

    def __init__(self, folder: Path, worker: str, expiry: float) -> None:
        self.folder = folder
        self.worker = worker
        self.expiry = expiry
        self.held: Lease | None = None
        self._count = 0
        self._stop = threading.Event()
        self._using = threading.Lock()
        self._heart = threading.Thread(target=self._beat, name="synbb-lease", daemon=True)
        self._seen: dict[Lease, tuple[bytes, float]] = {}  # content, and for how long it stood still
        self._looked = time.monotonic()

    @property
    def beat(self) -> float:
        """Seconds between two moves of a counter."""
        return self.expiry / BEATS

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._heart.join()
        self.release()

    def listed(self) -> dict[int, Lease]:
        """The newest lease of every group that is taken; none where the folder is gone, all being done."""
        found: dict[int, Lease] = {}
        for path in self.folder.glob("lease-*"):
            match = _NAME.fullmatch(path.name)
            if match:
                lease = Lease(int(match[1]), int(match[2]))
                if lease.group not in found or found[lease.group].generation < lease.generation:
                    found[lease.group] = lease
        return found

    def take(self, group: int, void: Lease | None = None) -> bool:
        """Take a free group, or one whose lease is ``void``; False when another was faster.

        Raises:
            RunEnded: the disk is full.
        """
        assert self.held is None, "one lease at a time"
        wanted = Lease(group, 0 if void is None else void.generation + 1)
        path = self.folder / wanted.name
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except (FileExistsError, FileNotFoundError):  # the latter: all is done, and the folder removed
            return False
        with disk_errors(path):
            try:
                os.write(file, self._content())
            finally:
                os.close(file)
        with self._using:
            self.held = wanted
        for older in range(wanted.generation):
            (self.folder / Lease(group, older).name).unlink(missing_ok=True)
        return True

    def still_held(self) -> bool:
        """Whether nobody has taken the group over while this process stood still."""
        assert self.held is not None
        newer = Lease(self.held.group, self.held.generation + 1)
        return (self.folder / self.held.name).exists() and not (self.folder / newer.name).exists()

    def release(self) -> None:
        """Give the group back, finished or not."""
        with self._using:
            held, self.held = self.held, None
        if held is not None:
            (self.folder / held.name).unlink(missing_ok=True)

    def look(self, taken: dict[int, Lease]) -> list[Lease]:
        """Look whether counters move; of ``taken``, the leases that have stood still for the expiry.

        Time counts only while this worker looks: one that itself stood still (a suspended machine) blames nobody.
        """
        now = time.monotonic()
        passed = min(now - self._looked, 2 * self.beat)
        self._looked = now
        leases = list(taken.values())
        random.shuffle(leases)
        leases.sort(key=lambda lease: -self._seen.get(lease, (b"", 0.0))[1])  # those that may be dead first
        seen: dict[Lease, tuple[bytes, float]] = {}
        for lease in leases[:WATCHED]:
            try:
                content = (self.folder / lease.name).read_bytes()
            except FileNotFoundError:
                continue
            before, stood = self._seen.get(lease, (None, 0.0))
            seen[lease] = (content, stood + passed if content == before else 0.0)
        self._seen = seen
        return [lease for lease, (_, stood) in seen.items() if stood >= self.expiry]

    def alive(self) -> str | None:
        """The name of a worker whose lease is seen to move, None after the expiry; void leases are removed.

        It returns at once where there is no lease.
        """
        until = time.monotonic() + self.expiry + self.beat
        first = self._contents()
        while time.monotonic() < until:
            if not first:
                return None
            time.sleep(min(0.2, self.beat))
            now = self._contents()
            moved = [now[lease] for lease in now if now[lease] != first.get(lease)]
            if moved:
                return moved[0].split(b" ")[0].decode() or "another process"
            first = {lease: content for lease, content in first.items() if lease in now}
        for lease in first:
            (self.folder / lease.name).unlink(missing_ok=True)
        return None

    def _contents(self) -> dict[Lease, bytes]:
        found = {}
        for lease in self.listed().values():
            try:
                found[lease] = (self.folder / lease.name).read_bytes()
            except FileNotFoundError:
                continue
        return found

    def _content(self) -> bytes:
        self._count += 1
        return f"{self.worker} {self._count:012d}\n".encode()

    def _beat(self) -> None:
        while not self._stop.wait(self.beat):
            with self._using:
                if self.held is None:
                    continue
                try:
                    # Without O_CREAT: a lease that was taken over stays gone. A reader that sees half of the write sees
                    # a change, which is all that it asks for.
                    file = os.open(self.folder / self.held.name, os.O_WRONLY)
                except FileNotFoundError:
                    continue
                try:
                    os.pwrite(file, self._content(), 0)
                    os.fsync(file)
                finally:
                    os.close(file)


def check_nobody_shares(output: str, say: Callable[[str], None]) -> None:
    """For a process that holds the ledger: are workers with leases at ``output``?

    Raises:
        SynbbError: a worker's lease is seen to move, within the expiry.
    """
    folder = workers_folder(output)
    settings = folder / SETTINGS
    if not settings.exists():
        return
    leases = Leases(folder, "", float(json.loads(settings.read_text())["expiry"]))
    if leases.listed():
        say(f"leases of workers are left; seeing for up to {leases.expiry:g} s whether any of them is alive")
    worker = leases.alive()
    if worker is not None:
        raise SynbbError(
            f"{output}: worker {worker} is writing it at this moment; wait for the workers to end, or join them with "
            "--worker"
        )
