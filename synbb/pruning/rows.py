"""The table of a comparison: one row a finished run, in a CSV file that any tool can read."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synbb.errors import SynbbError, disk_errors, make_folder
from synbb.locks import alone_at

HASH = "config_hash"
KEY = ("fold", "method", "density", "seed")
FIRST = (*KEY, HASH, "synbb", "commit", "realised_density", "macs", "main")
"""Columns that come first, where a table has them."""

OF_THE_CALL = ("synbb", "commit", "device", "steps_per_second", "seconds", "scoring_seconds")
"""Columns that may differ between two runs of the same settings."""

TEXT = ("fold", "method", HASH, "synbb", "commit", "main", "device")
"""Columns that hold text."""

NUMBERS = ("density", "seed", "realised_density", "macs", "steps_per_second", "seconds", "scoring_seconds")
"""Columns that hold finite numbers or nothing, as main scores do; others may be somebody's own."""

Row = dict[str, str]


@dataclass(frozen=True, order=True)
class Cell:
    """What tells one run of a comparison from another.

    Attributes:
        fold: which part of the data is held out.
        method: name of the pruning method.
        density: asked for; 1 for methods that are not compared at several.
        seed: of weights and data order.
    """

    fold: str
    method: str
    density: float
    seed: int

    def __str__(self) -> str:
        return f"{self.fold} {self.method} density {self.density:g} seed {self.seed}"

    @property
    def key(self) -> dict[str, str]:
        """The cell's columns of a row."""
        return {name: plain(getattr(self, name)) for name in KEY}

    @classmethod
    def of(cls, row: Mapping[str, str]) -> Cell:
        """The cell of a row.

        Raises:
            ValueError: density or seed is no number.
        """
        return cls(row["fold"], row["method"], float(row["density"]), int(row["seed"]))


def plain(value: Any) -> str:
    """A value as it stands in a table: 6 digits of what is measured; nothing for None and what is not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class RunTable:
    """Rows of finished runs, in a file or, without ``path``, in memory.

    Several processes may append, also from several studies; every change replaces the file as a whole, so that a
    reader or a kill never sees half a row.

    Args:
        path: the CSV; made with the first row.

    Raises:
        SynbbError: the file is no table of runs.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._rows: list[Row] = []
        self.rows()

    def rows(self) -> list[Row]:
        """All rows, oldest first, as the file has them now; a missing value is an empty string.

        Raises:
            SynbbError: the file is no table of runs.
        """
        if self.path is None or not self.path.exists():
            return list(self._rows)
        found = _read(self.path)
        numbers = ({*NUMBERS} | {row.get("main", "") for _, row in found}) - {*TEXT}
        for line, row in found:
            _check_row(row, numbers, f"{self.path}: line {line}")
        _check_doubles(self.path, found)
        self._rows = [row for _, row in found]
        return list(self._rows)

    def find(self, cell: Cell, config_hash: str) -> Row | None:
        """The row of a cell with these settings, None when there is none."""
        for row in self._rows:
            if row[HASH] == config_hash and Cell.of(row).key == cell.key:  # a row has 6 digits of a density
                return row
        return None

    def others(self, cell: Cell, config_hash: str) -> list[Row]:
        """Rows of the same cell with other settings."""
        return [row for row in self._rows if row[HASH] != config_hash and Cell.of(row).key == cell.key]

    def append(self, cell: Cell, config_hash: str, values: Mapping[str, Any]) -> Row:
        """Add a row; the file is read anew before, as others may have added theirs.

        Returns:
            The row; that of another process where one has added the same run meanwhile.

        Raises:
            SynbbError: the file is no table of runs any more.
            RunEnded: the disk is full.
        """
        with nullcontext() if self.path is None else _alone_with(self.path):
            rows = self.rows()
            known = self.find(cell, config_hash)
            if known is not None:
                return known
            rows.append({**cell.key, HASH: config_hash, **{name: plain(value) for name, value in values.items()}})
            columns = dict.fromkeys(name for each in rows for name in each)
            ordered = [*(name for name in FIRST if name in columns), *(name for name in columns if name not in FIRST)]
            if self.path is not None:
                write_csv(self.path, ordered, rows)
            self._rows = [{name: each.get(name, "") for name in ordered} for each in rows]
            return self._rows[-1]


def _read(path: Path) -> list[tuple[int, Row]]:
    """The rows of a file, each with its line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:  # spreadsheets put a mark at the beginning
            reader = csv.DictReader(handle)
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SynbbError(f"{path} cannot be read as a table of runs ({error}): give a CSV in UTF-8") from None


def _check_row(row: Row, numbers: set[str], where: str) -> None:
    try:
        Cell.of(row)
        complete = None not in row and None not in row.values() and HASH in row
    except (KeyError, ValueError, TypeError):
        complete = False
    if not complete:
        raise SynbbError(f"{where} is no row of a run ({', '.join((*KEY, HASH))} and scores): mend or remove the line")
    for name, text in row.items():
        if name in numbers and text and not is_number(text):
            raise SynbbError(f"{where}, column {name}: {text!r} is no finite number: mend it, or leave the cell empty")
    main = row.get("main")
    if main and (main in TEXT or main not in row):
        raise SynbbError(f"{where}, column main: {main!r} is no column of scores: mend it")


def is_number(text: str) -> bool:
    """Whether a cell holds a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_doubles(path: Path, rows: list[tuple[int, Row]]) -> None:
    """Refuse two rows of one run that differ in what they found; whichever was taken, the other would say no."""
    first: dict[tuple[str, ...], tuple[int, Row]] = {}
    for line, row in rows:
        cell = Cell.of(row)
        before, other = first.setdefault((*cell.key.values(), row[HASH]), (line, row))
        for name in (name for name in row if name not in (*KEY, *OF_THE_CALL)):
            if is_number(row[name]) and is_number(other[name]) and float(row[name]) != float(other[name]):
                raise SynbbError(
                    f"{path}: lines {before} and {line} are both of {cell} with the same settings, and differ in "
                    f"{name} ({other[name]}, {row[name]}): remove one of them"
                )


@contextmanager
def _alone_with(table: Path) -> Iterator[None]:
    """Wait until no other process changes a table, and keep others from it."""
    make_folder(table.parent)
    with alone_at(table, busy=None):
        yield


def write_csv(path: Path, columns: list[str], rows: list[Row]) -> None:
    """Write a CSV file as a whole, beside its place and then renamed.

    Raises:
        RunEnded: the disk is full.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            beside.write_text(text.getvalue(), encoding="utf-8")
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
