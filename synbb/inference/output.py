"""The volume that a prediction writes: created once, reopened to go on, checked against its ledger."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from synbb.errors import SynbbError, disk_errors
from synbb.inference.ledger import Ledger, read_marks
from synbb.inference.ledger_lines import KEPT, Mark, ledger_path
from synbb.inference.ownership import what_else
from synbb.inference.rules import NO_DATA
from synbb.inference.sizes import output_grid
from synbb.volumes.kinds import COMPLETE
from synbb.volumes.opening import open_volume
from synbb.volumes.writing import WritableVolume, create_volume, followed
from synbb.volumes.zarr_opening import is_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synbb.inference.blocks import BlockPlan
    from synbb.volumes.volume import Volume


@dataclass(frozen=True)
class NoDataReport:
    """Where an output has no data, by section.

    Attributes:
        voxels: without data, for each section of the output.
        size: voxels of a section.
    """

    voxels: tuple[int, ...]
    size: int

    @property
    def whole(self) -> list[int]:
        """Sections without any data."""
        return [z for z, count in enumerate(self.voxels) if count == self.size]

    @property
    def partly(self) -> list[int]:
        """Sections of which a part has none."""
        return [z for z, count in enumerate(self.voxels) if 0 < count < self.size]


def open_output(
    path: str,
    volume: Volume,
    plan: BlockPlan,
    dtype: str,
    attributes: Mapping[str, Any],
    *,
    created: bool,
    empty_chunks: bool = True,
) -> WritableVolume:
    """The output to be written: what an earlier call ``created``, or a new one in the grid of ``volume``.

    ``empty_chunks`` says whether chunks that are 0 everywhere are stored.

    Raises:
        SynbbError: the output of an earlier call is damaged.
        RunEnded: the disk is full.
    """
    if created:
        return reopen(path, empty_chunks=empty_chunks)
    chunks, shards = output_grid(plan.region, plan.write_block)
    with disk_errors(path, KEPT):
        # What is there was found to be ours, of a plan without marks or of a creation cut short: perhaps before it was
        # a zarr at all, which is all that may be overwritten.
        where = followed(Path(path))
        if where.is_dir() and not is_zarr(where) and not what_else(where):
            for left in where.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()
        return create_volume(
            path,
            shape=plan.region.shape,
            dtype=np.dtype(dtype),
            voxel_size=volume.voxel_size,
            offset=volume.centre_of(plan.region.start),
            chunks=chunks,
            shards=shards,
            attributes={**attributes, COMPLETE: False},
            empty_chunks=empty_chunks,
            overwrite=True,
        )


def reopen(path: str, *, tidy: bool = True, empty_chunks: bool = True) -> WritableVolume:
    """An output that was created earlier, for writing; ``tidy`` where nobody else writes it at this moment.

    Raises:
        SynbbError: its metadata are gone or damaged.
    """
    if tidy:
        remove_partial(path)
    try:
        # zarr does not store this setting, it has to be given at every opening
        array = zarr.open_array(path, path="0", mode="r+", config={"write_empty_chunks": empty_chunks})
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise SynbbError(
            f"{path}: its metadata are damaged ({type(error).__name__}: {error}); remove it and predict again"
        ) from error
    return WritableVolume(path, array)


def remove_partial(path: str) -> None:
    """Remove what writers that were killed left half-written: both libraries write beside and rename."""
    for left in (Path(path) / "0").rglob("*"):
        if left.name.endswith((".partial", ".__lock")):  # of zarr, of tensorstore
            left.unlink(missing_ok=True)


def complete(output: WritableVolume, marks: Mapping[int, Mark]) -> NoDataReport:
    """State in the output's metadata that every block is written, and where there was no data.

    Sections without any data are ``no_data_sections`` (indices of the output), the others with their share stand in
    ``OUT.zarr.no_data.csv``.

    Raises:
        RunEnded: the disk is full, or the output was removed.
    """
    output.check_there()
    report = _no_data(output, marks)
    if output.attributes.get(COMPLETE) is not True:
        if any(report.voxels):
            _write_no_data(output, report)
        else:
            no_data_path(output.path).unlink(missing_ok=True)  # of an output that was here before
        output.set_attributes({COMPLETE: True, NO_DATA: report.whole})
    return report


def _no_data(output: WritableVolume, marks: Mapping[int, Mark]) -> NoDataReport:
    depth, rows, columns = output.shape
    voxels = np.zeros(depth, np.int64)
    for mark in marks.values():
        if mark.no_data:
            voxels[mark.box.start[0] : mark.box.stop[0]] += mark.no_data
    return NoDataReport(tuple(voxels.tolist()), rows * columns)


def _write_no_data(output: WritableVolume, report: NoDataReport) -> None:
    stored = output.volume
    path = no_data_path(output.path)
    with disk_errors(path, KEPT), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["z", "z_nm", "voxels_without_data", "share"])
        for z, count in enumerate(report.voxels):
            if count:
                writer.writerow([z, f"{stored.centre_of((z, 0, 0))[0]:.6g}", count, f"{count / report.size:.6f}"])


def remove_output(path: str | Path) -> None:
    """Remove a prediction, with a link that led to it, and its ledger; the report of sections without data stays."""
    where = Path(path)
    shutil.rmtree(followed(where))
    if where.is_symlink():
        where.unlink()
    ledger_path(path).unlink(missing_ok=True)


def no_data_path(output: str | Path) -> Path:
    """Where the report of sections without data lies."""
    where = Path(output)
    return where.with_name(where.name + ".no_data.csv")


def forget_damaged(output: WritableVolume, ledger: Ledger) -> list[int]:
    """Take back the marks of blocks whose stored values are not what was written; returns their numbers."""
    damaged = damaged_blocks(output.path, ledger.marks)
    if damaged:
        output.set_attributes({COMPLETE: False})
    for number in damaged:
        ledger.forget(number)
    return damaged


def verify_output(path: str | Path) -> list[int]:
    """Read every finished block of a prediction and compare it with its ledger; returns the numbers of damaged ones.

    Raises:
        SynbbError: there is no such output, or it has no ledger.
    """
    _, marks = read_marks(path)
    return damaged_blocks(str(path), marks)


def damaged_blocks(path: str, marks: Mapping[int, Mark]) -> list[int]:
    """Numbers of the blocks among ``marks`` whose stored values are not what was written, or cannot be read."""
    stored = open_volume(path)
    return [number for number, mark in sorted(marks.items()) if not _intact(stored, mark)]


def _intact(stored: Volume, mark: Mark) -> bool:
    try:
        return mark.matches(stored.read(mark.box))
    except SynbbError:  # a truncated or unreadable chunk: what verification is there to find
        return False
