"""The ledger as one of several processes that share an output sees it: the marks of all, and a file of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synbb.inference.ledger_lines import (
    Lines,
    Mark,
    State,
    header,
    ledger_path,
    parse,
    read_lines,
    removed,
    worker_files,
    workers_folder,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class WorkerLedger:
    """The marks of all who share an output, and the file of one worker among them. Use as a context manager.

    Args:
        output: it exists, with a ledger of the same plan.
        worker: name of this worker, unique.
        fields: of the plan.
    """

    def __init__(self, output: str | Path, worker: str, fields: Mapping[str, Any]) -> None:
        self.output = Path(output)
        self._path = ledger_path(output)
        self._lines = Lines(
            workers_folder(output) / f"marks-{worker}.jsonl",
            "and the marks of this worker with it; start again, blocks that are marked in other files are kept",
        )
        self._lines.append(header(dict(fields)))
        self._states: dict[str, tuple[int, State]] = {}
        self._main = State()
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
        """Note a finished block; on return it is on the disk. Safe from several threads.

        Raises:
            RunEnded: the disk is full, or somebody has removed the ledger or this worker's file.
        """
        if not self._path.exists():
            raise removed(self._path)
        self._lines.append(mark.to_line())

    def fail(self, block: int) -> None:
        """Note that a block raised."""
        self._lines.append({"failed": block})

    def refresh(self) -> None:
        """Read what all have noted since.

        Raises:
            RunEnded: somebody has removed the ledger.
        """
        if not self._read():
            self._read()  # who removes files of workers had their marks in the ledger before

    def check_there(self) -> None:
        """Make sure that what this worker notes is found.

        Raises:
            RunEnded: somebody has removed its file.
        """
        self._lines.check_there()

    def _read(self) -> bool:
        """False where a worker's file has gone: the ledger may have been read before it had the marks."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            raise removed(self._path) from None
        if len(content) != self._main_size:
            self._main, self._main_size = parse(self._path, content), len(content)
            self._states.clear()
        gone = set(self._states)
        for path in worker_files(self.output):
            begin, state = self._states.get(path.name) or (self._main.merged.get(path.name, 0), State())
            try:
                found = read_lines(path, begin)
            except FileNotFoundError:
                gone.add(path.name)
                continue
            gone.discard(path.name)
            state.marks.update(found.marks)
            state.failed += found.failed
            self._states[path.name] = (begin + found.good_bytes, state)
        for name in gone:
            self._states.pop(name, None)
        return not gone

    def _failed(self) -> Counter[int]:
        return sum((state.failed for _, state in self._states.values()), Counter())
