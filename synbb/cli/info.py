"""``synbb info``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synbb.cli.values import READABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from synbb.volumes import Volume
    from synbb.volumes.inspection import BlankSections, Inspection

PERCENTILES = (1, 5, 50, 95, 99)


def command(
    volume: Annotated[str, typer.Argument(help=READABLE)],
    voxel_size: Annotated[
        str | None, typer.Option(help="z,y,x in nm, where the file does not state it.", metavar="Z,Y,X")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Array inside the file.")] = None,
) -> None:
    """Show what a volume holds: geometry, storage, grey values, metadata."""
    from synbb.volumes import open_volume
    from synbb.volumes.inspection import inspect_volume
    from synbb.volumes.storage import VoxelSizeMissingError, parse_voxel_size

    size = None if voxel_size is None else parse_voxel_size(voxel_size)
    stated = True
    try:
        opened = open_volume(volume, dataset=dataset, voxel_size=size)
    except VoxelSizeMissingError:
        stated = False
        opened = open_volume(volume, dataset=dataset, voxel_size=(1, 1, 1))
    print_geometry(opened, inspect_volume(opened), stated=stated)


def print_geometry(volume: Volume, inspection: Inspection | None = None, *, stated: bool = True) -> None:
    """Print a table of what is known of a volume.

    Args:
        volume: an open volume.
        inspection: grey values, to be shown too.
        stated: whether the voxel size is known.
    """
    from rich.table import Table

    from synbb.cli.console import console

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    _add_geometry(table, volume, stated=stated)
    if inspection is not None:
        _add_greys(table, volume, inspection)
    for key, value in volume.attributes.items():
        _row(table, key, value if isinstance(value, str) else json.dumps(value))
    console.print(table)


def _row(table: Table, name: str, value: str, style: str = "") -> None:
    from rich.text import Text

    table.add_row(Text(name), Text(value, style=style))  # Text: brackets in a path or citation are no markup


def _add_geometry(table: Table, volume: Volume, *, stated: bool) -> None:
    _row(table, "path", volume.path)
    _row(table, "format", volume.format)
    stored = ", ".join(volume.stored_axes)
    _row(table, "axes", "z, y, x" + ("" if stored == "z, y, x" else f" (stored as {stored})"))
    _row(table, "units", "nm" + ("" if _nm(volume.unit) else f" (stored in {volume.unit})"))
    _row(table, "shape", f"{_times(volume.shape)} voxels (z, y, x), {_amount(volume.box.size)}")
    _row(table, "type", f"{volume.dtype}, {_bytes(volume.box.size * volume.dtype.itemsize)} uncompressed")
    if stated:
        size = [n * v / 1000 for n, v in zip(volume.shape, volume.voxel_size, strict=True)]
        _row(table, "voxel size", f"{_times(volume.voxel_size)} nm (z, y, x)")
        _row(table, "physical size", f"{_times(size)} µm (z, y, x)")
        _row(table, "offset", f"{_place(volume.offset)} (centre of the first voxel)")
    else:
        _row(
            table, "voxel size", "not stated; give --voxel-size z,y,x in nm to every command that asks", style="yellow"
        )
    _row(table, "chunks", _times(volume.chunks) + (f" in shards of {_times(volume.shards)}" if volume.shards else ""))
    _row(table, "levels", str(len(volume.levels)))
    for number, level in enumerate(volume.levels):
        if len(volume.levels) > 1:
            held = f"{_times(level.shape)} voxels of {_times(level.voxel_size)} nm (z, y, x)"
            _row(table, f"level {number}", f"{held}, first centre at {_place(level.offset)}")


def _nm(unit: str) -> bool:
    from synbb.volumes.ome import NM_PER_UNIT

    return NM_PER_UNIT.get(unit.lower()) == 1


def _place(nm: Sequence[float]) -> str:
    return ", ".join(f"{axis} {o:g}" for axis, o in zip("zyx", nm, strict=True)) + " nm"


def _add_greys(table: Table, volume: Volume, inspection: Inspection) -> None:
    greys = inspection.greys
    base = "every voxel" if greys.exact else f"a sample of {_amount(greys.seen)}"
    _row(table, "values", f"{greys.lowest:g} to {greys.highest:g} ({base})")
    if greys.not_finite:
        _row(table, "no numbers", f"{greys.not_finite:,} voxels are NaN or infinite; predict and train refuse those")
    if greys.tissue == 0:
        _row(table, "tissue", "none: every 16 x 16 tile looked at is constant", style="yellow")
    else:
        _row(table, "tissue", f"{greys.tissue / greys.seen:.1%} of it (tiles of 16 x 16 pixels that are not constant)")
        shown = ", ".join(f"{p} %: {greys.percentile(p):g}" for p in PERCENTILES)
        _row(table, "percentiles", f"{shown} (of tissue)")
    if volume.dtype.kind in "ui" and volume.dtype.itemsize >= 4:
        _row(table, "distinct values", f"{len(greys.values):,} where they change")
    _row(table, "blank sections", _blank_text(inspection.blank))


def _blank_text(blank: BlankSections) -> str:
    how = "whole" if blank.whole else "in nine places each"
    looked = f"{blank.looked_at} of {blank.total} sections looked at, {how}"
    if not blank.found:
        return f"none ({looked})"
    listed = ", ".join(map(str, blank.found[:20])) + (", ..." if len(blank.found) > 20 else "")
    return f"{len(blank.found)}: {listed} ({looked})"


def _times(values: Sequence[Any]) -> str:
    return " x ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values)


def _amount(voxels: int) -> str:
    for unit, size in (("Tvox", 1e12), ("Gvox", 1e9), ("Mvox", 1e6), ("kvox", 1e3)):
        if voxels >= size:
            return f"{voxels / size:.3g} {unit}"
    return f"{voxels} voxels"


def _bytes(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
