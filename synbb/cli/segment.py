"""``synbb segment``: from probabilities to synapses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from synbb.inference.objects import SegmentSummary


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
    max_size: Annotated[
        float | None,
        typer.Option(
            "--max-size", metavar="NM3", help="Leave out objects of more than NM3 cubic nm; by default as stored."
        ),
    ] = None,
    low: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Objects reach down to p >= P, if they hold a voxel of p >= the threshold; by default as stored.",
        ),
    ] = None,
    bridge: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Objects that overlap across at most N sections without data are one; by default as stored, 0 is off.",
        ),
    ] = None,
    blank: Annotated[
        str | None,
        typer.Option(metavar="z,z,...", help="Sections without data; by default those stored with the probabilities."),
    ] = None,
    split: Annotated[
        float | None,
        typer.Option(
            metavar="NM",
            help="Split touching synapses whose maxima of p are at least NM apart; by default as stored, 0 is off.",
        ),
    ] = None,
    connectivity: Annotated[int, typer.Option(help="6 (faces), 18 (and edges) or 26 (and corners).")] = 26,
    voxel_size: Annotated[
        str | None,
        typer.Option("--voxel-size", metavar="Z,Y,X", help="nm, for files that state none."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Threshold probabilities, label connected components, and list the synapses in nm."""
    from synbb.cli.console import console, progress
    from synbb.cli.values import integers
    from synbb.inference.objects import segment
    from synbb.volumes.opening import open_volume
    from synbb.volumes.storage import parse_voxel_size

    sizes = None if voxel_size is None else parse_voxel_size(voxel_size)
    with progress("segment", "blocks") as report:
        summary = segment(
            open_volume(probabilities, voxel_size=sizes),
            output,
            threshold=threshold,
            low=low,
            min_size_nm3=min_size,
            max_size_nm3=max_size,
            bridge=bridge,
            blank=None if blank is None else integers(blank, "--blank"),
            split_nm=split,
            connectivity=connectivity,
            overwrite=overwrite,
            progress=report,
        )
    rules = summary.rules
    down = f" (down to {rules.low:.4g})" if rules.low < rules.threshold else ""
    console.print(
        f"{summary.objects:,} objects of {summary.voxels:,} voxels at p >= {rules.threshold:.4g}{down} "
        f"({summary.threshold_source}), {rules.connectivity}-connected; "
        f"{summary.too_small:,} left out as smaller than {rules.min_size_nm3:,.0f} nm3"
    )
    if rules.max_size_nm3 is not None:
        console.print(f"{summary.too_large:,} left out as larger than {rules.max_size_nm3:,.0f} nm3")
    if rules.bridge:
        console.print(f"gaps of at most {rules.bridge} of the {len(rules.blank)} sections without data are bridged")
    if rules.split_nm:
        whole = f"; {summary.left_whole:,} are too large to be split and were left whole" if summary.left_whole else ""
        console.print(f"{summary.split:,} split at seeds at least {rules.split_nm:g} nm apart{whole}")
    console.print(_sources(summary), markup=False)
    console.print(f"labels {summary.output}", markup=False)
    console.print(f"table  {summary.table}", markup=False)


def _sources(summary: SegmentSummary) -> str:
    """Where the rules came from, in a line."""
    chosen = f" (chosen on the {summary.chosen_on})" if summary.chosen_on else ""
    words = {"given": "given", "stored": f"stored with the probabilities{chosen}", "usual": "not said, hence usual"}
    named = {kind: [name for name, source in summary.sources.items() if source == kind] for kind in words}
    return "rules " + "; ".join(f"{words[kind]}: {', '.join(names)}" for kind, names in named.items() if names)
