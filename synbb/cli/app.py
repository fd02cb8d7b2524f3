"""The ``synbb`` command: one file a subcommand, and our own errors turned into clean exits."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from synbb import __version__
from synbb.cli import compare, convert, data, evaluate, info, predict, prune_report, segment, train, view
from synbb.cli.console import errors
from synbb.errors import SynbbError

app = typer.Typer(
    name="synbb",
    help="Find every synapse in EM volumes: train, prune, predict, segment, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"synbb {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.add_typer(data.app, name="data")
for name, command in (
    ("convert", convert.command),
    ("info", info.command),
    ("train", train.command),
    ("predict", predict.command),
    ("segment", segment.command),
    ("evaluate", evaluate.command),
    ("compare", compare.command),
    ("view", view.command),
    ("prune-report", prune_report.command),
):
    app.command(name)(command)


def main() -> None:
    """Entry point: a user's mistake is one clear line and status 2, everything unforeseen keeps its traceback."""
    try:
        app()
    except SynbbError as error:
        errors.print(f"synbb: {error}", markup=False)
        sys.exit(error.exit_status)
