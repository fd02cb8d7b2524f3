"""``synbb segment``: from probabilities to synapses."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    probabilities: Annotated[
        str, typer.Argument(metavar="PROBS", help="Probabilities, as `synbb predict` wrote them.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUT.zarr", help="Label volume; the table goes beside, as OUT.csv.")],
    threshold: Annotated[
        float | None, typer.Option(metavar="P", help="Foreground is p >= P; the stored threshold by default.")
    ] = None,
    min_size: Annotated[
        float | None,
        typer.Option(
            "--min-size", metavar="NM3", help="Leave out objects of less than NM3 cubic nm; by default the stored size."
        ),
    ] = None,
    connectivity: Annotated[int, typer.Option(help="6 (faces), 18 (and edges) or 26 (and corners).")] = 26,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Threshold probabilities, label connected components, and list the synapses in nm."""
    from synbb.cli.console import console, progress
    from synbb.inference.objects import segment
    from synbb.volumes.opening import open_volume

    with progress("segment", "blocks") as report:
        summary = segment(
            open_volume(probabilities),
            output,
            threshold=threshold,
            min_size_nm3=min_size,
            connectivity=connectivity,
            overwrite=overwrite,
            progress=report,
        )
    console.print(
        f"{summary.objects:,} objects of {summary.voxels:,} voxels at p >= {summary.threshold:.4g} "
        f"({summary.threshold_source}), {summary.connectivity}-connected; "
        f"{summary.too_small:,} left out as smaller than {summary.min_size_nm3:g} nm3"
    )
    console.print(f"labels {summary.output}", markup=False)
    console.print(f"table  {summary.table}", markup=False)
