"""Leases on groups of blocks: files by which processes on any machines share a prediction without a scheduler.

``OUT.zarr.workers/lease-GROUP.GENERATION`` exists while a worker has the group; it holds the worker's name and a
counter, which the worker moves on. A worker that watches a lease whose counter stands still for the expiry, by its own
clock, takes the group over by creating the next generation. Creating is exclusive (``O_EXCL``), so of several one
wins; nothing is locked, and no clocks of two machines are compared. ``alive-WORKER`` holds the same from a worker's
begin to its end, so that it is seen while it has no group. See docs/cluster.md.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from synbb.errors import SynbbError, disk_errors
from synbb.inference.ledger_lines import KEPT, workers_folder

EXPIRY = 60.0
"""Seconds for which a counter stands still until its lease is void, where nobody says otherwise."""

BEATS = 6
"""How often a counter moves in the time after which its lease expires."""

WATCHED = 64
"""Leases that an idle worker reads at each look, so that many idle workers do not wear the file system out."""

SETTINGS = "settings.json"
"""What all workers of an output must agree upon beside the plan: batch and expiry."""

PRESENCE = "alive-"
"""How the names of files begin by which workers show that they are there."""

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
        folder: where the files lie.
        worker: name of this worker, unique and without spaces.
        expiry: seconds for which a counter stands still until its lease is void; the same for all workers.
        say: told once when the counters cannot be moved on.
    """

    def __init__(self, folder: Path, worker: str, expiry: float, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self.worker = worker
        self.expiry = expiry
        self.held: Lease | None = None
        self._say = say
        self._told = False
        self._moved = time.monotonic()  # when the counters last did
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

    @property
    def _presence(self) -> Path:
        return self.folder / f"{PRESENCE}{self.worker}"

    def __enter__(self) -> Self:
        self.announce()
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._heart.join()
        try:
            self.release()
        finally:
            self._presence.unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()  # nothing is in it where this worker was refused

    def announce(self) -> None:
        """Show that this worker is there, though it holds no lease. The folder is made where it is not there.

        Raises:
            SynbbError: that is not possible there.
            RunEnded: the disk is full.
        """
        with disk_errors(self.folder, KEPT):
            while True:
                self.folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # a process that ends has just removed the folder
                    self._create(self._presence)
                    return

    def announced(self) -> bool:
        """Whether others can see it; those who took this worker for dead have removed the file."""
        return self._presence.exists()

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
        path, began = self.folder / wanted.name, time.monotonic()
        with disk_errors(path, KEPT):
            try:
                self._create(path)
            except (FileExistsError, FileNotFoundError):  # the latter: all is done, and the folder removed
                return False
        with self._using:
            self.held, self._moved = wanted, began
        for older in range(wanted.generation):
            self.remove(Lease(group, older))
        return True

    def still_held(self) -> bool:
        """Whether nobody has taken the group over while this process, or the way to its lease, stood still."""
        assert self.held is not None
        if time.monotonic() - self._moved > self.expiry:  # void for all who watch
            return False
        newer = Lease(self.held.group, self.held.generation + 1)
        # By the name inside: after a release, generations begin again, and this one may be another worker's.
        return self._holder(self.held) == self.worker and not (self.folder / newer.name).exists()

    def release(self) -> None:
        """Give the group back, finished or not."""
        with self._using:
            held, self.held = self.held, None
        if held is not None and self._holder(held) == self.worker:
            (self.folder / held.name).unlink(missing_ok=True)

    def remove(self, lease: Lease) -> None:
        """Remove a lease of a worker that is dead or has nothing more to do, and what shows that it was there."""
        holder = self._holder(lease)
        (self.folder / lease.name).unlink(missing_ok=True)
        if holder:
            (self.folder / f"{PRESENCE}{holder}").unlink(missing_ok=True)

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
            content = _content_of(self.folder / lease.name)
            if content is None:
                continue
            before, stood = self._seen.get(lease, (None, 0.0))
            seen[lease] = (content, stood + passed if content == before else 0.0)
        self._seen = seen
        return [lease for lease, (_, stood) in seen.items() if stood >= self.expiry]

    def alive(self) -> str | None:
        """The name of a worker that is seen to move, None after the expiry; what dead ones left is removed.

        It returns at once where nothing tells of workers.
        """
        until = time.monotonic() + self.expiry + self.beat
        first = self.signs()
        while time.monotonic() < until:
            if not first:
                return None
            time.sleep(min(0.2, self.beat))
            now = self.signs()
            moved = [now[name] for name in now if now[name] != first.get(name)]
            if moved:
                return _worker_in(moved[0]) or "another process"
            first = {name: content for name, content in first.items() if name in now}
        for name in first:
            (self.folder / name).unlink(missing_ok=True)
        return None

    def signs(self) -> dict[str, bytes]:
        """What tells of workers, by the name of the file: the leases that they hold, and that they are there."""
        names = [lease.name for lease in self.listed().values()]
        names += [path.name for path in self.folder.glob(f"{PRESENCE}*")]
        contents = {name: _content_of(self.folder / name) for name in names}
        return {name: content for name, content in contents.items() if content is not None}

    def _content(self) -> bytes:
        self._count += 1
        return f"{self.worker} {self._count:012d}\n".encode()

    def _create(self, path: Path) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(file, self._content())
        except OSError:  # the disk is full
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def _holder(self, lease: Lease) -> str | None:
        content = _content_of(self.folder / lease.name)
        return None if content is None else _worker_in(content)

    def _beat(self) -> None:
        while not self._stop.wait(self.beat):
            began = time.monotonic()
            try:
                with self._using:
                    if self.held is not None:
                        self._move(self.folder / self.held.name)
                    self._move(self._presence)
                    self._moved = began
            except OSError as error:  # a network file system has its moments: the next beat may succeed
                if not self._told:
                    self._told = True
                    self._say(
                        f"{self.folder}: the lease of this worker cannot be renewed ({error}); it tries again every "
                        f"{self.beat:g} s, and leaves its blocks to others where none succeeds in {self.expiry:g} s"
                    )

    def _move(self, path: Path) -> None:
        try:
            # Without O_CREAT: a lease that was taken over stays gone. A reader that sees half of the write sees a
            # change, which is all that it asks for.
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            content = self._content()
            if _worker_in(os.pread(file, len(content), 0)) == self.worker:
                os.pwrite(file, content, 0)
                os.fsync(file)
        finally:
            os.close(file)


def _content_of(path: Path) -> bytes | None:
    """None where it is gone."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # the latter: removed on another machine while it is read
            return None
        raise


def _worker_in(content: bytes) -> str:
    return content.partition(b" ")[0].decode()


def agreed_expiry(folder: Path, otherwise: float) -> float:
    """The expiry of the leases in ``folder`` as the first worker had it."""
    try:
        return float(json.loads((folder / SETTINGS).read_text())["expiry"])
    except FileNotFoundError:
        return otherwise


def check_nobody_shares(output: str | Path, say: Callable[[str], None] = lambda _: None) -> None:
    """For a process that is to hold the ledger, or does: are workers with leases at ``output``?

    Raises:
        SynbbError: a worker is seen to move, within the expiry.
    """
    folder = workers_folder(output)
    leases = Leases(folder, "", agreed_expiry(folder, EXPIRY))
    if not leases.signs():
        return
    say(f"leases of workers are left; seeing for up to {leases.expiry:g} s whether any of them is alive")
    worker = leases.alive()
    if worker is not None:
        raise SynbbError(
            f"{output}: worker {worker} is writing it at this moment; wait for the workers to end, or join them with "
            "--worker"
        )
