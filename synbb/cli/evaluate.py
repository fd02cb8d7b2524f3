"""``synbb evaluate``: scores, and a page that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from synbb.cli.values import refuse_others
from synbb.errors import SynbbError
from synbb.places import run_at

OF_RUNS = frozenset({"run", "output", "split", "weights", "device", "allow_unfinished", "decoding", "beam"})
"""What is of use where a run is scored."""
OF_VOLUMES = frozenset(
    {"truth", "output", "objects", "probabilities", "against", "raw", "region", "threshold", "distance", "voxel_size"}
)
"""What is of use where volumes are scored."""


def command(
    context: typer.Context,
    output: Annotated[str, typer.Option(metavar="DIR", help="Folder for scores.json and report.html.")],
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Score this run on a split of its own config, without --truth.")
    ] = None,
    truth: Annotated[str | None, typer.Option(metavar="T", help="Labels to score against.")] = None,
    objects: Annotated[str | None, typer.Option(metavar="O", help="Label volume, as `synbb segment` wrote it.")] = None,
    probabilities: Annotated[str | None, typer.Option(metavar="P", help="Probabilities of `synbb predict`.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="P2", help="Second probabilities, scored on the same voxels and compared.")
    ] = None,
    raw: Annotated[str | None, typer.Option(metavar="R", help="Grey values, for pictures of sections.")] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="z0:z1,y0:y1,x0:x1[nm]",
            help="Score only this part of the truth: voxels, or with nm at the end nm, half-open.",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="P", help="Foreground is p >= P; the stored threshold by default.")
    ] = None,
    distance: Annotated[
        float, typer.Option(metavar="NM", help="Largest distance of the centroids of matched objects, nm.")
    ] = 300.0,
    voxel_size: Annotated[
        str | None,
        typer.Option("--voxel-size", metavar="Z,Y,X", help="nm, for files that state none."),
    ] = None,
    split: Annotated[str, typer.Option(help="With RUN: test, or validation.")] = "test",
    weights: Annotated[str, typer.Option(help="With RUN: last, or best on the validation split.")] = "last",
    device: Annotated[str, typer.Option(help="With RUN: auto, cpu, cuda, cuda:1 ...")] = "auto",
    allow_unfinished: Annotated[
        bool, typer.Option("--allow-unfinished", help="With RUN: score it although its masks are not final.")
    ] = False,
    decoding: Annotated[
        str | None, typer.Option(metavar="greedy|beam", help="With RUN on speech: by default as its settings say.")
    ] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With RUN on speech: hypotheses kept by beam decoding.")
    ] = None,
) -> None:
    """Score probabilities and objects against the truth (voxels, objects, pictures), or a RUN on a split of its own."""
    if (run is None) == (truth is None):
        raise SynbbError("give either a RUN, or --truth T with --probabilities P or --objects O")
    if run is not None:
        run_at(run)
        why = f"of use with --truth alone, and {run} is a run, scored on a split of its own"
        refuse_others(context, OF_RUNS, why)
    else:
        refuse_others(context, OF_VOLUMES, "of use with a RUN alone, and here volumes are scored")
    from synbb.cli.console import console, progress
    from synbb.evaluation.evaluate import evaluate_volumes
    from synbb.volumes.box import parse_region
    from synbb.volumes.storage import parse_voxel_size

    if run is not None:
        from synbb.prediction.scores import evaluate_run

        def say(line: str) -> None:
            console.print(line, markup=False)

        result = evaluate_run(
            run,
            Path(output),
            split=split,
            which=weights,
            device=device,
            allow_unfinished=allow_unfinished,
            decoding=decoding,
            beam=beam,
            say=say,
        )
        console.print(_figures(result))
        for note in result["notes"]:
            console.print(note, markup=False, style="dim")
        console.print(f"report {Path(output) / 'report.html'}", markup=False)
        return
    assert truth is not None
    with progress("evaluate", "blocks") as report:
        scores = evaluate_volumes(
            truth=truth,
            output=output,
            objects=objects,
            probabilities=probabilities,
            against=against,
            raw=raw,
            region=None if region is None else parse_region(region),
            threshold=threshold,
            distance_nm=distance,
            voxel_size=None if voxel_size is None else parse_voxel_size(voxel_size),
            progress=report,
        )
    for table in _tables(scores):
        console.print(table)
    for note in scores["notes"]:
        console.print(note, markup=False, style="dim")
    console.print(f"report {Path(output) / 'report.html'}", markup=False)


def _figures(result: dict[str, Any]) -> Any:
    """Every figure of a run, with its interval."""
    from rich.table import Table

    from synbb.evaluation.page import number
    from synbb.evaluation.run_report import in_words

    table = Table(f"{result['task']}, {result['split']} split", "value", "95 % interval", "over")
    for name, figure in result["scores"].items():
        value = figure["value"]
        spread = [f"{number(figure['low'])} to {number(figure['high'])}"] if figure.get("low") is not None else [""]
        over = ", ".join(f"{count} {unit}" for unit, count in figure.get("units", {}).items())
        table.add_row(in_words(name), f"{value:,}" if isinstance(value, int) else number(value), *spread, over)
    return table


def _tables(scores: dict[str, Any]) -> list[Any]:
    """Voxel and object scores as rich tables."""
    from rich.table import Table

    from synbb.evaluation.page import number

    tables = []
    if "voxels" in scores:
        table = Table("voxels", "PR-AUC", "threshold", "precision", "recall", "F1", title=None)
        for name in ("voxels", "against"):
            voxels = scores.get(name)
            if voxels is None:
                continue
            who = "" if name == "voxels" else "against: "
            area = number(voxels["average_precision"])
            for key, text in (("at_threshold", "stated threshold"), ("best", "best, chosen on these voxels")):
                at = voxels[key]
                if at:
                    figures = [number(at[k]) for k in ("threshold", "precision", "recall", "f1")]
                    table.add_row(f"{who}{text}", area, *figures)
            if voxels["explanation"]:
                table.add_row(f"{who}{voxels['explanation']}", area)
        tables.append(table)
    if "objects" in scores:
        table = Table("objects, matched by", "true found", "predicted true", "precision", "recall", "F1")
        for key in ("by_distance", "by_overlap", "by_iou"):
            by = scores["objects"][key]
            counts = [f"{by['found']}/{by['truth']}", f"{by['correct']}/{by['predicted']}"]
            table.add_row(by["rule"], *counts, *(number(by[k]) for k in ("precision", "recall", "f1")))
        tables.append(table)
    return tables
