"""What must be there is told at once: before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from synbb.errors import SynbbError
from synbb.places import config_at, run_at


def test_a_config_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    assert config_at(str(tmp_path / "a.yaml")) == tmp_path / "a.yaml"
    for other in (tmp_path, tmp_path / "b.yaml"):
        with pytest.raises(SynbbError, match=r"no such file; see configs/ for examples"):
            config_at(other)


def test_a_run_is_a_folder_with_a_config(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"is no run folder: it has no config.yaml"):
        run_at(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert run_at(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "gone"],
        ["compare", "gone"],
        ["evaluate", "gone", "--output", "scores"],
        ["prune-report", "gone"],
        ["predict", "gone", "volume.zarr", "output.zarr"],
        ["enroll", "gone", "folder", "gallery.safetensors"],
        ["identify", "gone", "gallery.safetensors", "images", "--output", "names.csv"],
    ],
)
def test_commands_say_so_before_they_import_what_takes_seconds(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from synbb.cli.app import app\n"
        "from synbb.errors import SynbbError\n"
        f"try: app({arguments!r}, standalone_mode=False)\n"
        "except SynbbError as error: print(error)\n"
        "print(sorted({'torch', 'monai', 'dask', 'zarr'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    told, heavy = found.stdout.splitlines()
    assert told.startswith(("config gone: no such file", "gone is no run folder"))
    assert heavy == "[]"
    assert not list(tmp_path.iterdir())
