"""``synbb train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synbb.places import config_at


def command(
    config: Annotated[Path, typer.Argument(help="Settings of the run, YAML; see configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, dotted keys.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/<name of the config>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run from its last checkpoint.")] = False,
) -> None:
    """Train a network while pruning it, into a run folder.

    SIGTERM, SIGUSR1 and Ctrl-C finish the step, write a checkpoint and exit with status 75; continue with --resume.
    """
    config_at(config)
    from synbb.cli.console import console, progress
    from synbb.training import start

    with progress("training", "steps") as bar:
        start(
            config,
            overrides or [],
            output=output,
            resume=resume,
            say=lambda line: console.print(line, markup=False),
            progress=bar,
        )
