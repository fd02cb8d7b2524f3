"""The ``synbb`` command: registers one function per file and turns our own errors into clean exits."""

from __future__ import annotations

import importlib
import sys

import typer

from synbb import __version__
from synbb.errors import SynbbError

app = typer.Typer(
    name="synbb",
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
