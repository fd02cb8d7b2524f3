"""Which blocks of an output are finished: the ledger beside it, open in the one process that marks, or read.

Its lines are those of ``ledger_lines.py``; see docs/ledger.md.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synbb.errors import SynbbError
from synbb.inference.leases import PRESENCE, check_nobody_shares
from synbb.inference.ledger_lines import (
    Lines,
    Mark,
    State,
    header,
    ledger_path,
    read_lines,
    worker_files,
    workers_folder,
)
from synbb.inference.ownership import check_ownership
from synbb.locks import try_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Ledger:
    """The open ledger of one output; one process at a time holds it. Use as a context manager.

    Raises:
        SynbbError: on opening, when the output belongs to none that is known or is not the one that the ledger was
            begun for, when its plan has changed (the message names what), when the ledger is damaged, or when another
            process is writing, workers with leases among them, or the file system has no locks.
        RunEnded: the disk is full.
    """

    def __init__(
        self, output: str | Path, fields: Mapping[str, Any], say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.output = Path(output)
        self.path = ledger_path(output)
        output_exists = begun(self.output)
        self._lines = Lines(self.path)
        try:
            self._lock(output_exists, say)
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

    def _lock(self, output_exists: bool, say: Callable[[str], None]) -> None:
        locked = try_lock(self._lines.file)
        if locked is False:
            raise SynbbError(
                f"{self.output}: another process is writing it at this moment ({self.path.name} is locked); wait for "
                "it to end, or choose another output"
            )
        if locked is None:
            self._undo(output_exists)
            raise SynbbError(
                f"{self.path}: its file system has no locks (flock), by which two processes are kept from writing one "
                "output at once; predict with --worker, which needs none, choose another place, or have it mounted "
                "with locks (Lustre: -o flock)"
            )
        try:
            check_nobody_shares(self.output, say)  # who was there before the lock was taken does not see it
        except BaseException:
            self._undo(output_exists)
            raise

    def _undo(self, output_exists: bool) -> None:
        """Remove a ledger that was made just now: an empty one would be in the way of workers."""
        if not output_exists and not os.fstat(self._lines.file.fileno()).st_size:
            self.path.unlink(missing_ok=True)

    def _begin(self, fields: dict[str, Any]) -> State:
        """A new ledger; what an old one says about an output that is gone is dropped."""
        remove_workers(self.output)
        self._lines.truncate(0)
        self._lines.append(header(fields))
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name, too, outlives a power cut
        finally:
            os.close(folder)
        return State(header(fields))

    def _resume(self, fields: dict[str, Any]) -> State:
        state = read_lines(self.path)
        if state.header is None:
            raise SynbbError(
                f"{self.output}: exists, and its ledger {self.path.name} is empty; remove both, or choose another name"
            )
        check_ownership(self.output, self.path, state.header["plan"])
        if state.header["plan"] != fields and not state.marks and not worker_files(self.output):
            return self._begin(fields)  # it ended before its first block: nothing would be lost, or mixed in
        check_plan(self.output, state.header["plan"], fields)
        if os.fstat(self._lines.file.fileno()).st_size != state.good_bytes:
            self._lines.truncate(state.good_bytes)
        self._absorb(state)
        return state

    def _absorb(self, state: State) -> None:
        """Take the marks of workers' files over; what is forgotten after this stays forgotten."""
        for path in worker_files(self.output):
            begin = state.merged.get(path.name, 0)
            found = read_lines(path, begin)
            if not found.good_bytes:
                continue
            for mark in found.marks.values():
                if state.marks.get(mark.block) != mark:
                    self._lines.append(mark.to_line())
                    state.marks[mark.block] = mark
            state.merged[path.name] = begin + found.good_bytes
            self._lines.append({"merged": path.name, "bytes": state.merged[path.name]})


def read_marks(output: str | Path) -> tuple[dict[str, Any], dict[int, Mark]]:
    """The plan's fields and the marks of the ledger of ``output``; the ledger is not locked or changed.

    Raises:
        SynbbError: there is no ledger, or it is damaged.
    """
    path = ledger_path(output)
    if not path.is_file():
        raise SynbbError(f"{output}: has no ledger {path.name}; only outputs of predict have one")
    state = read_lines(path)
    if state.header is None:
        raise SynbbError(f"{path}: is empty; remove it together with its output")
    for file in worker_files(output):
        state.marks.update(read_lines(file, state.merged.get(file.name, 0)).marks)
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
    return read_lines(ledger_path(output)).created


def remove_workers(output: str | Path) -> None:
    """Remove marks and leases of processes that shared ``output``; their marks are in the ledger, or worth nothing.

    What shows that a worker is there stays: it has just begun, and ends as soon as it sees that the ledger is locked.
    """
    folder = workers_folder(output)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith(PRESENCE):
            path.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


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
