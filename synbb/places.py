"""What a command needs to be there, told before it loads anything heavy."""

from __future__ import annotations

from pathlib import Path

from synbb.errors import SynbbError

RUN_CONFIG = "config.yaml"
"""Settings of a run, in its folder."""


def config_at(path: str | Path) -> Path:
    """The config file at ``path``.

    Raises:
        SynbbError: there is none.
    """
    file = Path(path)
    if (file / RUN_CONFIG).is_file():
        raise SynbbError(f"{path} is a run folder, not a config; give the config, and --output {path} with --resume")
    if not file.is_file():
        raise SynbbError(f"config {path}: no such file; see configs/ for examples")
    return file


def run_at(path: str | Path) -> Path:
    """The run folder at ``path``.

    Raises:
        SynbbError: there is none.
    """
    folder = Path(path)
    if not (folder / RUN_CONFIG).is_file():
        raise SynbbError(f"{path} is no run folder: it has no {RUN_CONFIG} (synbb train makes one)")
    return folder
