"""``synbb compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synbb.places import config_at


def command(
    config: Annotated[Path, typer.Argument(help="Settings of the study, YAML; see configs/compare/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, dotted keys.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the study; by default runs/compare/<name of the config>.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default one a GPU, else one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each run; by default cores / jobs.")] = None,
    only: Annotated[str | None, typer.Option(help="Methods to run, separated by commas; all are analysed.")] = None,
    folds: Annotated[str | None, typer.Option(help="Folds to run, separated by commas; all are analysed.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is done and missing; run nothing.")] = False,
    analyse: Annotated[bool, typer.Option("--analyse", help="Analyse the rows that are there; run nothing.")] = False,
) -> None:
    """Compare pruning methods at equal density: train, score, and put every run into one table.

    Each finished run is a row; rows that exist are skipped, so that the same call continues a study that was stopped.
    """
    config_at(config)
    from synbb.cli.console import console
    from synbb.experiments import compare

    compare(
        config,
        overrides or [],
        output=output,
        jobs=jobs,
        threads=threads,
        only=_names(only),
        folds=_names(folds),
        dry_run=dry_run,
        analyse_only=analyse,
        say=lambda line: console.print(line, markup=False),
    )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()
