"""The volume that a prediction writes: created once, reopened to go on, checked against its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from synbb.errors import SynbbError, disk_errors
from synbb.inference.ledger import KEPT, Ledger, Mark, read_marks
from synbb.inference.sizes import output_grid
from synbb.volumes.opening import open_volume
from synbb.volumes.writing import WritableVolume, create_volume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synbb.inference.blocks import BlockPlan
    from synbb.volumes.volume import Volume

COMPLETE = "complete"
"""Key of the output's metadata: false until every block is written."""


def open_output(
    path: str, volume: Volume, plan: BlockPlan, dtype: str, attributes: Mapping[str, Any], *, created: bool
) -> WritableVolume:
    """The output to be written: what an earlier call ``created``, or a new one in the grid of ``volume``.

    Raises:
        SynbbError: the output of an earlier call is damaged.
        RunEnded: the disk is full.
    """
    if created:
        return reopen(path)
    chunks, shards = output_grid(plan.region, plan.write_block)
    with disk_errors(path, KEPT):
        return create_volume(
            path,
            shape=plan.region.shape,
            dtype=np.dtype(dtype),
            voxel_size=volume.voxel_size,
            offset=volume.centre_of(plan.region.start),
            chunks=chunks,
            shards=shards,
            attributes={**attributes, COMPLETE: False},
            overwrite=True,  # the ledger is ours and knows of no output: what is there is a creation cut short
        )


def reopen(path: str, *, tidy: bool = True) -> WritableVolume:
    """An output that was created earlier, for writing; ``tidy`` where nobody else writes it at this moment.

    Raises:
        SynbbError: its metadata are gone or damaged.
    """
    if tidy:
        remove_partial(path)
    try:
        # zarr does not store this setting, it has to be given at every opening
        array = zarr.open_array(str(Path(path) / "0"), mode="r+", config={"write_empty_chunks": True})
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise SynbbError(
            f"{path}: its metadata are damaged ({type(error).__name__}: {error}); remove it and predict again"
        ) from error
    return WritableVolume(path, array)


def remove_partial(path: str) -> None:
    """Remove what writers that were killed left half-written."""
    for left in (Path(path) / "0").rglob("*.partial"):  # zarr writes beside and renames
        left.unlink(missing_ok=True)


def mark_complete(output: WritableVolume) -> None:
    """State in the output's metadata that every block is written."""
    if output.attributes.get(COMPLETE) is not True:
        output.set_attributes({COMPLETE: True})


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
