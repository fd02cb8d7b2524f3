"""Calls a pipeline as a person does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def call(pipeline: str, folder: Path, *arguments: object) -> str:
    """What ``pipelines/PIPELINE.py`` printed in ``folder``; it must have succeeded."""
    ended = _ended(pipeline, folder, *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def refused(pipeline: str, folder: Path, *arguments: object) -> str:
    """Why ``pipelines/PIPELINE.py`` did not begin, one line."""
    ended = _ended(pipeline, folder, *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    return " ".join(ended.stderr.split())


def _ended(pipeline: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / f"{pipeline}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended
