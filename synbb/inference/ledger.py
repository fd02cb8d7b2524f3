"""Which blocks of an output are finished: an append-only file beside it.

``OUT.zarr.ledger.jsonl`` holds one JSON object a line: first the plan (its fingerprint and the fields that it was made
of), then ``created`` once the output's metadata stand, then one mark for each finished block with size and checksum of
what was written. A line is on the disk before the next block is marked. A process that dies in the middle of a line
leaves a torn last line, which is cut off and means a block that was not marked. See docs/ledger.md.

Processes that share an output without a scheduler (``leased.py``) mark in a file each, ``OUT.zarr.workers/marks-*``,
which readers merge, so that no file has two writers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from synbb.errors import RunEnded, SynbbError, disk_errors, make_folder
from synbb.inference.blocks import fingerprint
from synbb.inference.ownership import check_ownership
from synbb.volumes.box import Box

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT = "free some space and start again, finished blocks are kept"
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
class _State:
    """What the lines of a ledger say."""

    header: dict[str, Any] | None = None
    created: bool = False
    marks: dict[int, Mark] = field(default_factory=dict)
    merged: dict[str, int] = field(default_factory=dict)  # bytes of workers' files whose marks are in this one
    failed: Counter[int] = field(default_factory=Counter)  # how often a block raised, in a worker's file
    good_bytes: int = 0  # up to the end of the last whole line


class _Lines:
    """A file to which whole lines are appended; each is on the disk when :meth:`append` returns.

    Lines that other threads append while the disk works reach it together, by its next turn.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._written, self._synced = 0, 0  # lines
        with disk_errors(path, KEPT):
            make_folder(path.parent)
            self.file: BinaryIO = path.open("a+b", buffering=0)

    def append(self, line: Mapping[str, Any]) -> None:
        text = _line(line)
        with self._writing, disk_errors(self.path, KEPT):
            state = os.fstat(self.file.fileno())
            if state.st_nlink == 0:  # lines would go into a file that nobody finds again
                raise RunEnded(
                    f"{self.path}: was removed while its output was being written, which cannot be continued without "
                    "it; remove the output, too, then start again"
                )
            before = state.st_size
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

    def truncate(self, size: int) -> None:
        with disk_errors(self.path, KEPT):
            self.file.truncate(size)


class Ledger:
    """The open ledger of one output; one process at a time holds it. Use as a context manager.

    Raises:
        SynbbError: on opening, when the output belongs to none that is known or is not the one that the ledger was
            begun for, when its plan has changed (the message names what), when the ledger is damaged, or when another
            process is writing.
        RunEnded: the disk is full.
    """

    def __init__(self, output: str | Path, fields: Mapping[str, Any]) -> None:
        self.output = Path(output)
        self.path = ledger_path(output)
        output_exists = begun(self.output)
        self._lines = _Lines(self.path)
        try:
            self._lock()
            self._state = self._resume(dict(fields)) if output_exists else self._begin(dict(fields))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def created(self) -> bool:
        """Whether the output's metadata were completely written; if not, the output is to be made anew."""
        return self._state.created

    @property
    def marks(self) -> Mapping[int, Mark]:
        """The finished blocks by number."""
        return dict(self._state.marks)

    def record_creation(self) -> None:
        """Note that the output's metadata stand."""
        self._lines.append({"created": True})
        self._state.created = True

    def mark(self, mark: Mark) -> None:
        """Note a finished block; on return it is on the disk. Safe from several threads."""
        self._lines.append(mark.to_line())
        self._state.marks[mark.block] = mark

    def forget(self, block: int) -> None:
        """Take back the mark of a block that was found damaged."""
        self._lines.append({"forget": block})
        self._state.marks.pop(block, None)

    def close(self) -> None:
        """Give the ledger back; another process may open it then."""
        self._lines.file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lines.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SynbbError(
                f"{self.output}: another process is writing it at this moment ({self.path.name} is locked); wait for "
                "it to end, or choose another output"
            ) from error

    def _begin(self, fields: dict[str, Any]) -> _State:
        """A new ledger; what an old one says about an output that is gone is dropped."""
        remove_workers(self.output)
        self._lines.truncate(0)
        self._lines.append(_header(fields))
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name, too, outlives a power cut
        finally:
            os.close(folder)
        return _State(_header(fields))

    def _resume(self, fields: dict[str, Any]) -> _State:
        state = _parse(self.path, self.path.read_bytes())
        if state.header is None:
            raise SynbbError(
                f"{self.output}: exists, and its ledger {self.path.name} is empty; remove both, or choose another name"
            )
        check_ownership(self.output, self.path, state.header["plan"])
        if state.header["plan"] != fields and not state.marks and not _worker_files(self.output):
            return self._begin(fields)  # it ended before its first block: nothing would be lost, or mixed in
        check_plan(self.output, state.header["plan"], fields)
        if os.fstat(self._lines.file.fileno()).st_size != state.good_bytes:
            self._lines.truncate(state.good_bytes)
        self._absorb(state)
        return state

    def _absorb(self, state: _State) -> None:
        """Take the marks of workers' files over; what is forgotten after this stays forgotten."""
        for path in _worker_files(self.output):
            begin = state.merged.get(path.name, 0)
            found = _parse_from(path, begin)
            if not found.good_bytes:
                continue
            for mark in found.marks.values():
                if state.marks.get(mark.block) != mark:
                    self._lines.append(mark.to_line())
                    state.marks[mark.block] = mark
            state.merged[path.name] = begin + found.good_bytes
            self._lines.append({"merged": path.name, "bytes": state.merged[path.name]})


class WorkerLedger:
    """The marks of all who share an output, and the file of one worker among them. Use as a context manager.

    Args:
        output: it exists, with a ledger of the same plan.
        worker: name of this worker, unique.
        fields: of the plan.
    """

    def __init__(self, output: str | Path, worker: str, fields: Mapping[str, Any]) -> None:
        self.output = Path(output)
        self._lines = _Lines(workers_folder(output) / f"marks-{worker}.jsonl")
        self._lines.append(_header(dict(fields)))
        self._states: dict[str, tuple[int, _State]] = {}
        self._main = _State()
        self._main_size = -1
        self.refresh()
        self._failed_before = Counter(self._failed())

    def __enter__(self) -> WorkerLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.file.close()

    @property
    def marks(self) -> dict[int, Mark]:
        """The finished blocks by number, as of the last :meth:`refresh`."""
        marks = dict(self._main.marks)
        for _, state in self._states.values():
            marks.update(state.marks)
        return marks

    @property
    def failed(self) -> Counter[int]:
        """How often each block raised since this worker began."""
        return self._failed() - self._failed_before

    def mark(self, mark: Mark) -> None:
        """Note a finished block; on return it is on the disk. Safe from several threads."""
        self._lines.append(mark.to_line())

    def fail(self, block: int) -> None:
        """Note that a block raised."""
        self._lines.append({"failed": block})

    def refresh(self) -> None:
        """Read what all have noted since."""
        content = ledger_path(self.output).read_bytes()
        if len(content) != self._main_size:
            self._main, self._main_size = _parse(ledger_path(self.output), content), len(content)
            self._states.clear()
        for path in _worker_files(self.output):
            begin, state = self._states.get(path.name) or (self._main.merged.get(path.name, 0), _State())
            found = _parse_from(path, begin)
            state.marks.update(found.marks)
            state.failed += found.failed
            self._states[path.name] = (begin + found.good_bytes, state)

    def _failed(self) -> Counter[int]:
        return sum((state.failed for _, state in self._states.values()), Counter())


def read_marks(output: str | Path) -> tuple[dict[str, Any], dict[int, Mark]]:
    """The plan's fields and the marks of the ledger of ``output``; the ledger is not locked or changed.

    Raises:
        SynbbError: there is no ledger, or it is damaged.
    """
    path = ledger_path(output)
    if not path.is_file():
        raise SynbbError(f"{output}: has no ledger {path.name}; only outputs of predict have one")
    state = _parse(path, path.read_bytes())
    if state.header is None:
        raise SynbbError(f"{path}: is empty; remove it together with its output")
    for file in _worker_files(output):
        state.marks.update(_parse_from(file, state.merged.get(file.name, 0)).marks)
    return state.header["plan"], state.marks


def finished_marks(output: str | Path, fields: Mapping[str, Any]) -> dict[int, Mark]:
    """What a call with the plan ``fields`` would find finished at ``output``; nothing is locked or changed.

    Raises:
        SynbbError: such a call would be refused, as :class:`Ledger` does.
    """
    if not begun(Path(output)):
        return {}
    begun_with, marks = read_marks(output)
    check_ownership(Path(output), ledger_path(output), begun_with)
    if marks:
        check_plan(output, begun_with, fields)
    return marks


def is_created(output: str | Path) -> bool:
    """Whether the ledger of ``output`` says that its metadata were completely written."""
    path = ledger_path(output)
    return _parse(path, path.read_bytes()).created


def remove_workers(output: str | Path) -> None:
    """Remove marks and leases of processes that shared ``output``; their marks are in the ledger, or worth nothing."""
    folder = workers_folder(output)
    if folder.is_dir():
        shutil.rmtree(folder)


def check_plan(output: str | Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to continue an output with other settings than it was begun with.

    Raises:
        SynbbError: naming each setting that differs, with both values.
    """
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        differences = "; ".join(f"{name} was {old.get(name)!r}, is now {new.get(name)!r}" for name in names)
        raise SynbbError(
            f"{output}: was begun with other settings; {differences}. "
            "Predict with what it was begun with, or remove it, or choose another output"
        )


def first_lines(fields: Mapping[str, Any]) -> bytes:
    """A ledger whose output's metadata stand, without marks."""
    return _line(_header(dict(fields))) + _line({"created": True})


def _header(fields: dict[str, Any]) -> dict[str, Any]:
    return {"ledger": FORMAT, "fingerprint": fingerprint(fields), "plan": fields}


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _worker_files(output: str | Path) -> list[Path]:
    return sorted(workers_folder(output).glob("marks-*.jsonl"))


def _parse_from(path: Path, begin: int) -> _State:
    """What a worker's file says from byte ``begin`` on, the begin of a line; ``good_bytes`` counts from there."""
    with path.open("rb") as file:
        file.seek(begin)
        content = file.read()
    return _parse(path, content, _State({}) if begin else None)


def _parse(path: Path, content: bytes, state: _State | None = None) -> _State:
    """Read all whole lines; a torn one is allowed at the end only."""
    state = state or _State()
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


def _apply(state: _State, line: dict[str, Any]) -> None:
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


def begun(output: Path) -> bool:
    """Whether there is an output to go on with; what is no prediction is refused.

    Raises:
        SynbbError: there is something without a ledger.
    """
    there = exists(output)  # before the ledger is looked for: the ledger comes first
    ledger = ledger_path(output)
    if there and not ledger.exists():
        raise SynbbError(
            f"{output}: exists already and has no ledger ({ledger.name}), so it is not a prediction to be "
            "continued; remove it or choose another output"
        )
    return there


def exists(output: Path) -> bool:
    """Whether there is anything at ``output``; an empty folder is nothing."""
    if output.is_dir():
        return any(output.iterdir())
    return output.exists() or output.is_symlink()
