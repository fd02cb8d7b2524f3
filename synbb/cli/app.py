"""The ``synbb`` command: one file a subcommand, and our own errors turned into clean exits."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from synbb import __version__
from synbb.cli import compare, convert, data, evaluate, identify, info, predict, prune_report, segment, train, view
from synbb.cli.console import errors
from synbb.errors import SynbbError

app = typer.Typer(
    name="synbb",
    help="Find every synapse in EM volumes: train, prune, predict, segment, evaluate. Networks for speech and faces "
    "are trained, pruned and compared by the same commands.",
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
    ("enroll", identify.enroll),
    ("identify", identify.identify),
):
    app.command(name)(command)


def _show(shown: Callable[..., None], message: Warning | str, *rest: Any, **more: Any) -> None:
    """A warning of ours is one line for people; any other is shown as Python does."""
    if str(message).startswith("synbb: "):
        errors.print(str(message), markup=False)
    else:
        shown(message, *rest, **more)


def main() -> None:
    """Entry point: a user's mistake is one clear line and status 2, everything unforeseen keeps its traceback."""
    warnings.showwarning = partial(_show, warnings.showwarning)
    try:
        app()
    except SynbbError as error:
        errors.print(f"synbb: {error}", markup=False)
        sys.exit(error.exit_status)
