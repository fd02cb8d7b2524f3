"""Which blocks of an output are finished: an append-only file beside it.

``OUT.zarr.ledger.jsonl`` holds one JSON object a line: first the plan (its fingerprint and the fields that it was made
of), then ``created`` once the output's metadata stand, then one mark for each finished block with size and checksum of
what was written. A line is on the disk before the next block is marked. A process that dies in the middle of a line
leaves a torn last line, which is cut off and means a block that was not marked. See docs/ledger.md.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from synbb.errors import SynbbError, disk_errors
from synbb.inference.blocks import fingerprint
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


@dataclass
class _State:
    """What the lines of a ledger say."""

    header: dict[str, Any] | None
    created: bool
    marks: dict[int, Mark]
    good_bytes: int  # up to the end of the last whole line


class Ledger:
    """The open ledger of one output; one process at a time holds it. Use as a context manager.

    Raises:
        SynbbError: on opening, when the output belongs to none that is known, when its plan has
            changed (the message names what), when the ledger is damaged, or when another process is writing.
        RunEnded: the disk is full.
    """

    def __init__(self, output: str | Path, fields: Mapping[str, Any]) -> None:
        self.output = Path(output)
        self.path = ledger_path(output)
        self._writing = threading.Lock()
        output_exists = _exists(self.output)
        if output_exists and not self.path.exists():
            raise SynbbError(
                f"{self.output}: exists already and has no ledger ({self.path.name}), so it is not a prediction to be "
                "continued; remove it or choose another output"
            )
        with disk_errors(self.path, KEPT):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("a+b", buffering=0)
        try:
            self._lock()
            self._state = self._resume(dict(fields)) if output_exists else self._begin(dict(fields))
        except BaseException:
            self._file.close()
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
        self._append({"created": True})
        self._state.created = True

    def mark(self, mark: Mark) -> None:
        """Note a finished block; on return it is on the disk. Safe from several threads."""
        self._append(mark.to_line())
        self._state.marks[mark.block] = mark

    def forget(self, block: int) -> None:
        """Take back the mark of a block that was found damaged."""
        self._append({"forget": block})
        self._state.marks.pop(block, None)

    def close(self) -> None:
        """Give the ledger back; another process may open it then."""
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SynbbError(
                f"{self.output}: another process is writing it at this moment ({self.path.name} is locked); wait for "
                "it to end, or choose another output"
            ) from error

    def _begin(self, fields: dict[str, Any]) -> _State:
        """A new ledger; what an old one says about an output that is gone is dropped."""
        with disk_errors(self.path, KEPT):
            self._file.truncate(0)
        header = {"ledger": FORMAT, "fingerprint": fingerprint(fields), "plan": fields}
        self._append(header)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name, too, outlives a power cut
        finally:
            os.close(folder)
        return _State(header, created=False, marks={}, good_bytes=self._file.tell())

    def _resume(self, fields: dict[str, Any]) -> _State:
        state = _parse(self.path, self.path.read_bytes())
        if state.header is None:
            raise SynbbError(
                f"{self.output}: exists, and its ledger {self.path.name} is empty; remove both, or choose another name"
            )
        if state.header["fingerprint"] != fingerprint(fields):
            raise SynbbError(
                f"{self.output}: was begun with other settings; {_differences(state.header['plan'], fields)}. "
                "Predict with what it was begun with, or remove it, or choose another output"
            )
        if os.fstat(self._file.fileno()).st_size != state.good_bytes:
            with disk_errors(self.path, KEPT):
                self._file.truncate(state.good_bytes)
        return state

    def _append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line).encode() + b"\n"
        with self._writing, disk_errors(self.path, KEPT):
            before = os.fstat(self._file.fileno()).st_size
            written = self._file.write(text)
            if written != len(text):  # a disk that is nearly full takes a part
                self._file.truncate(before)
                raise OSError(errno.ENOSPC, "only a part of a line could be written")
            os.fsync(self._file.fileno())


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
    return state.header["plan"], state.marks


def _parse(path: Path, content: bytes) -> _State:
    """Read all whole lines; a torn one is allowed at the end only."""
    state = _State(None, created=False, marks={}, good_bytes=0)
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
    elif "forget" in line:
        state.marks.pop(int(line["forget"]), None)
    else:
        state.created = bool(line["created"])


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{name} was {old.get(name)!r}, is now {new.get(name)!r}" for name in names)


def _exists(output: Path) -> bool:
    """Whether there is anything at ``output``; an empty folder is nothing."""
    if output.is_dir():
        return any(output.iterdir())
    return output.exists() or output.is_symlink()
