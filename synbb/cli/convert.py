"""``synbb convert``."""

from __future__ import annotations

from typing import Annotated

import typer

from synbb.cli.values import READABLE


def command(
    src: Annotated[str, typer.Argument(help=READABLE)],
    dst: Annotated[str, typer.Argument(help="raw.zarr for OME-Zarr, precomputed://FOLDER for neuroglancer.")],
    voxel_size: Annotated[
        str | None, typer.Option(help="z,y,x in nm; needed where the source does not state it.", metavar="Z,Y,X")
    ] = None,
    pyramid: Annotated[bool, typer.Option("--pyramid", help="Add coarser levels for viewers.")] = False,
    dataset: Annotated[str | None, typer.Option(help="Array inside the source.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it is a zarr or precomputed.")] = False,
    ome_version: Annotated[
        str | None, typer.Option("--ome-version", help="Of an OME-Zarr: 0.5 (zarr v3, the default), or 0.4 (zarr v2).")
    ] = None,
) -> None:
    """Convert a volume to OME-Zarr or neuroglancer precomputed, chunk by chunk."""
    from synbb.cli.console import console, progress
    from synbb.cli.info import print_geometry
    from synbb.volumes.convert import convert
    from synbb.volumes.storage import parse_voxel_size

    size = None if voxel_size is None else parse_voxel_size(voxel_size)
    with progress("convert", "blocks") as report:
        volume = convert(
            src,
            dst,
            voxel_size=size,
            dataset=dataset,
            pyramid=pyramid,
            overwrite=overwrite,
            ome_version=ome_version,
            progress=report,
        )
    console.print(f"wrote {dst}", markup=False)
    print_geometry(volume)
