"""The command starts at once, tells how it is used, and Ctrl-C ends it without a traceback however early it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from commands import Cli

HEAVY = ("dask", "monai", "numpy", "scipy", "skimage", "torch", "zarr")

# An import sends Ctrl-C to its own process, as if somebody had pressed it just then.
PRESSED_WHILE_IMPORTING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where this test runs in the background

class Pressed:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Pressed())
sys.argv = ["synbb", "train", {config!r}]
from synbb.cli.entry import main
main()
"""

PRESSED_LATER = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from synbb.cli import app
from synbb.cli.entry import main

def pressed():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("cleaned up")

app.main = pressed
main()
"""


def _python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def test_help_needs_none_of_the_libraries_that_take_seconds_to_import() -> None:
    found = _python("import sys, synbb.cli.app; print(*sys.modules)")
    assert "synbb.cli.app" in found.stdout.split()
    assert not set(HEAVY) & set(found.stdout.split())


def test_prediction_does_not_import_the_trainer() -> None:
    """Lightning imports torch._dynamo: as long again as everything else."""
    found = _python("import sys, synbb.prediction.volumes; print(*sys.modules)")
    assert "monai" in found.stdout.split()
    assert not {"lightning", "lightning.fabric", "torch._dynamo"} & set(found.stdout.split())


def test_interrupted_while_it_imports_it_ends_without_a_word(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("[]")
    for module in ("rich.console", "torch", "yaml"):
        found = _python(PRESSED_WHILE_IMPORTING.format(module=module, config=str(config)))
        assert found.returncode == 128 + signal.SIGINT, (module, found)
        assert not found.stdout + found.stderr


def test_interrupted_later_it_cleans_up() -> None:
    found = _python(PRESSED_LATER)
    assert (found.returncode, found.stdout) == (0, "cleaned up\n"), found


def test_an_ignored_interrupt_stays_ignored() -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + PRESSED_LATER.split("\n", 3)[3]
    found = _python("import os\n" + program)
    assert (found.returncode, found.stdout) == (0, ""), found


def test_usage_errors_and_help(cli: Cli) -> None:
    assert cli("train").status == 2
    assert cli("trian").status == 2
    assert cli("--version").out.startswith("synbb ")
    for command in ("train", "predict", "prune-report"):
        ended = cli(command, "--help")
        assert ended.status == 0
        assert "Usage" in ended.out


def test_as_a_module_in_a_process_of_its_own(data: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "synbb", "train", str(data / "none.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert ended.returncode == 2
    assert ended.stderr.startswith("synbb: config ")
    assert ended.stderr.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name != "data"]
