"""Where a label volume and its table of objects are written: places that are free, by one process at a time."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from synbb.errors import SynbbError, make_folder
from synbb.locks import alone_at
from synbb.volumes.writing import check_target, publish, remove_volume
from synbb.volumes.zarr_opening import is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def table_beside(target: Path) -> Path:
    """Where the table of objects lies beside a label volume."""
    return target.with_suffix(".csv") if target.suffix == ".zarr" else target.with_name(f"{target.name}.csv")


def check_places(
    target: Path,
    table: Path,
    *,
    overwrite: bool = False,
    remedy: str = "choose another output, remove it, or say --overwrite",
    dry_run: bool = False,
) -> None:
    """Make sure that a label volume and its table can be written.

    Args:
        target: the label volume, no link.
        table: likewise.
        overwrite: labels and a table that are there may be replaced.
        remedy: what to do where they may not.
        dry_run: make no folder.

    Raises:
        SynbbError: something is there, one would lie in the other, or there can be no folder.
        RunEnded: the disk is full.
    """
    if target.resolve() in (table.resolve(), *table.resolve().parents):
        raise SynbbError(f"{table} is, or lies in, the label volume {target}; give the table a place of its own")
    for path in (target, table):
        if path.exists() and not overwrite:
            raise SynbbError(f"{path} exists; {remedy}")
    if target.exists() and not is_zarr(target):
        raise SynbbError(f"{target} exists and is not a zarr, so it is not overwritten; remove it yourself")
    if not dry_run:
        for folder in (target.parent, table.parent):
            make_folder(folder)
    if table.is_dir():
        raise SynbbError(f"{table} is a folder, where the table of objects would be written; choose another output")


@contextmanager
def written_beside(target: Path, table: Path, *, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Places to write a label volume and its table in: both are renamed on success, removed on any failure.

    What a run that was killed left there is replaced.

    Args:
        target: the label volume, no link.
        table: likewise.
        overwrite: replace labels and a table that are there.

    Raises:
        SynbbError: another process writes these labels; or something is there, also by the time that they are written.
        RunEnded: the disk is full.
    """
    make_folder(target.parent)
    busy = f"{target}: another process is writing it at this moment; wait for it to end, or choose another output"
    with alone_at(target, busy) as locked:
        check_places(target, table, overwrite=overwrite)
        own = "" if locked else f".{os.urandom(4).hex()}"
        partial, partial_table = (path.with_name(f".{path.name}{own}.partial") for path in (target, table))
        check_target(partial, overwrite=True)
        try:
            yield partial, partial_table
            check_places(target, table, overwrite=overwrite)
            publish(partial, target)
            publish(partial_table, table)
        finally:
            remove_volume(partial, ignore_errors=True)
            partial_table.unlink(missing_ok=True)
