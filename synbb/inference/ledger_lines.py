"""What stands in a ledger's file, and in those of workers: lines, how they are appended, and what they say.

``OUT.zarr.ledger.jsonl`` holds one JSON object a line: first the plan (its fingerprint and the fields that it was made
of), then ``created`` once the output's metadata stand, then one mark for each finished block with size and checksum of
what was written. A line is on the disk before the next block is marked. A process that dies in the middle of a line
leaves a torn last line, which is cut off and means a block that was not marked. See docs/ledger.md.

Processes that share an output without a scheduler (``leased.py``) mark in a file each, ``OUT.zarr.workers/marks-*``,
which readers merge, so that no file has two writers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from synbb.errors import RunEnded, SynbbError, disk_errors, make_folder
from synbb.inference.blocks import fingerprint
from synbb.volumes.box import Box

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT = "free some space and start again, finished blocks are kept"
NO_LEDGER = "which cannot be continued without it; remove the output, too, then start again"
FORMAT = 1


@dataclass(frozen=True)
class Mark:
    """One finished block: where in the output it lies (voxels), and what was written there.

    Attributes:
        block: number of the block in its plan.
        box: voxels of the output.
        size: bytes of the array that was written.
        checksum: BLAKE2b-128 of these bytes, z slowest.
        no_data: voxels without data in each section of the box; empty where all have some.
    """

    block: int
    box: Box
    size: int
    checksum: str
    no_data: tuple[int, ...] = ()

    @classmethod
    def of(cls, block: int, box: Box, written: npt.NDArray[Any], no_data: tuple[int, ...] = ()) -> Mark:
        """The mark for ``written``, the values of ``box``."""
        return cls(block, box, written.nbytes, checksum(written), no_data)

    def matches(self, found: npt.NDArray[Any]) -> bool:
        """Whether ``found`` is what was written."""
        return found.nbytes == self.size and checksum(found) == self.checksum

    def to_line(self) -> dict[str, Any]:
        """As stored."""
        line = {"block": self.block, "box": str(self.box), "bytes": self.size, "blake2b": self.checksum}
        return {**line, "no_data": list(self.no_data)} if self.no_data else line

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Mark:
        """The inverse of :meth:`to_line`."""
        empty = tuple(int(n) for n in line.get("no_data", ()))
        return cls(int(line["block"]), Box.parse(line["box"]), int(line["bytes"]), str(line["blake2b"]), empty)


def checksum(array: npt.NDArray[Any]) -> str:
    """BLAKE2b-128 of the values, z slowest, little-endian."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.blake2b(plain.data, digest_size=16).hexdigest()


def ledger_path(output: str | Path) -> Path:
    """Where the ledger of ``output`` lies."""
    where = Path(output)
    return where.with_name(where.name + ".ledger.jsonl")


def workers_folder(output: str | Path) -> Path:
    """Where processes that share ``output`` keep their marks and leases."""
    where = Path(output)
    return where.with_name(where.name + ".workers")


@dataclass
class State:
    """What the lines of a ledger say.

    Attributes:
        header: fingerprint and fields of the plan; None of an empty file.
        created: whether the output's metadata stand.
        marks: finished blocks by number.
        merged: bytes of workers' files whose marks are in this one.
        failed: how often a block raised, in a worker's file.
        good_bytes: up to the end of the last whole line.
    """

    header: dict[str, Any] | None = None
    created: bool = False
    marks: dict[int, Mark] = field(default_factory=dict)
    merged: dict[str, int] = field(default_factory=dict)
    failed: Counter[int] = field(default_factory=Counter)
    good_bytes: int = 0


class Lines:
    """A file to which whole lines are appended; each is on the disk when :meth:`append` returns.

    Lines that other threads append while the disk works reach it together, by its next turn.

    Args:
        path: of the file, which is made with its folder where it is not there.
        remedy: what to do when it was removed, for the message.

    Raises:
        SynbbError: it cannot be made.
        RunEnded: the disk is full.
    """

    def __init__(self, path: Path, remedy: str = NO_LEDGER) -> None:
        self.path = path
        self._remedy = remedy
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._written, self._synced = 0, 0  # lines
        with disk_errors(path, KEPT):
            make_folder(path.parent)
            self.file: BinaryIO = path.open("a+b", buffering=0)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line; safe from several threads.

        Raises:
            RunEnded: the disk is full, or somebody has removed the file.
        """
        text = _bytes(line)
        with self._writing, disk_errors(self.path, KEPT):
            self.check_there()
            before = os.fstat(self.file.fileno()).st_size
            written = self.file.write(text)
            if written != len(text):  # a disk that is nearly full takes a part
                self.file.truncate(before)
                raise OSError(errno.ENOSPC, "only a part of a line could be written")
            self._written += 1
            mine = self._written
        with self._syncing, disk_errors(self.path, KEPT):
            if self._synced < mine:
                reaches = self._written
                os.fsync(self.file.fileno())
                self._synced = reaches

    def check_there(self) -> None:
        """Make sure that nobody removed the file: lines would go where nobody finds them again.

        Raises:
            RunEnded: somebody has.
        """
        if os.fstat(self.file.fileno()).st_nlink == 0:
            raise removed(self.path, self._remedy)

    def truncate(self, size: int) -> None:
        """Leave the first ``size`` bytes."""
        with disk_errors(self.path, KEPT):
            self.file.truncate(size)


def removed(path: Path, remedy: str = NO_LEDGER) -> RunEnded:
    """The end of a run whose ledger, or whose file of marks, is gone."""
    return RunEnded(f"{path}: was removed while its output was being written, {remedy}")


def first_lines(fields: Mapping[str, Any]) -> bytes:
    """A ledger whose output's metadata stand, without marks."""
    return _bytes(header(dict(fields))) + _bytes({"created": True})


def header(fields: dict[str, Any]) -> dict[str, Any]:
    """The first line, of a plan."""
    return {"ledger": FORMAT, "fingerprint": fingerprint(fields), "plan": fields}


def _bytes(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def worker_files(output: str | Path) -> list[Path]:
    """Marks of processes that share ``output``."""
    return sorted(workers_folder(output).glob("marks-*.jsonl"))


def read_lines(path: Path, begin: int = 0) -> State:
    """What a file says from byte ``begin`` on, the begin of a line; ``good_bytes`` counts from there."""
    with path.open("rb") as file:
        file.seek(begin)
        content = file.read()
    return parse(path, content, State({}) if begin else None)


def parse(path: Path, content: bytes, state: State | None = None) -> State:
    """Read all whole lines; a torn one is allowed at the end only.

    Args:
        path: for the message.
        content: of the file.
        state: what earlier lines said.

    Raises:
        SynbbError: a damaged line before the end.
    """
    state = state or State()
    lines = content.split(b"\n")
    whole, rest = lines[:-1], lines[-1]
    for number, line in enumerate(whole):
        try:
            _apply(state, json.loads(line))
        except (ValueError, KeyError, TypeError, SynbbError) as error:
            if number == len(whole) - 1 and not rest:  # garbage that happens to end like a line
                return state
            raise SynbbError(
                f"{path}: line {number + 1} is damaged ({line[:60]!r}); remove the ledger together with its output and "
                "predict again"
            ) from error
        state.good_bytes += len(line) + 1
    return state


def _apply(state: State, line: dict[str, Any]) -> None:
    if state.header is None:
        if line["ledger"] != FORMAT:
            raise ValueError(f"ledger of format {line['ledger']}")
        state.header = {"fingerprint": str(line["fingerprint"]), "plan": dict(line["plan"])}
    elif "block" in line:
        mark = Mark.from_line(line)
        state.marks[mark.block] = mark
    elif "merged" in line:
        state.merged[str(line["merged"])] = int(line["bytes"])
    elif "failed" in line:
        state.failed[int(line["failed"])] += 1
    elif "forget" in line:
        state.marks.pop(int(line["forget"]), None)
    else:
        state.created = bool(line["created"])
