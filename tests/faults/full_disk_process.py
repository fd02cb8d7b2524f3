"""Runs inside a mount namespace of its own: a small tmpfs is filled by ``predict`` and by ``segment``, and grown.

Prints one JSON object: what each step ended with, and what it said. Everything happens in one namespace, since the
tmpfs is gone with the process.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import predict_process

from synbb.cli.app import main
from synbb.inference.ledger import read_marks
from synbb.inference.output import verify_output
from synbb.volumes.opening import open_volume
from synbb.volumes.writing import create_volume

SMALL, LARGE = "size=256k", "size=16m"  # each block is a file, and takes a page of 4 kB
OBJECTS = (16, 128, 128)


def mount(disk: Path, options: str, *, again: bool = False) -> None:
    """Mount or resize the tmpfs."""
    given = f"remount,{options}" if again else options
    subprocess.run(["mount", "-t", "tmpfs", "-o", given, "none", str(disk)], check=True, capture_output=True)


def predict(raw: str, output: Path) -> dict[str, Any]:
    """Predict as the other tests of this folder."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = predict_process.predict(raw, str(output), 0.0, 0, 0.0, None, {})
    marks = read_marks(output)[1] if output.exists() else {}
    return {"status": status, "said": said.getvalue(), "marked": len(marks), "damaged": verify_output(output)}


def command(*arguments: object) -> dict[str, Any]:
    """``synbb ...`` in this process."""
    sys.argv = ["synbb", *map(str, arguments)]
    said = io.StringIO()
    status: Any = None
    with redirect_stdout(said), redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
    return {"status": status, "said": said.getvalue()}


def fill_and_grow(raw: str, disk: Path, scratch: Path) -> dict[str, Any]:
    """Fill the disk, grow it, go on."""
    mount(disk, SMALL)
    output = disk / "out.zarr"
    found: dict[str, Any] = {"predict": predict(raw, output)}
    mount(disk, LARGE, again=True)
    found["predict again"] = predict(raw, output)
    stored = open_volume(str(output))
    found["voxels"] = hashlib.sha256(stored.read(stored.box).tobytes()).hexdigest()

    found["names"] = clear(disk)
    given = create_volume(scratch / "p.zarr", shape=OBJECTS, dtype="uint8", voxel_size=(50.0, 9.2, 9.2))
    dots = np.zeros(OBJECTS, np.uint8)
    dots[::2, ::2, ::2] = 255  # 32768 objects, whose table is larger than the small disk
    given.write(given.box, dots)
    ask = ("segment", scratch / "p.zarr", disk / "o.zarr", "--threshold", "0.5")
    for what, ballast in (("labels", 240_000), ("table", 0)):
        mount(disk, SMALL, again=True)
        (disk / "ballast").write_bytes(bytes(ballast))
        found[what] = {**command(*ask), "left": clear(disk)}
    mount(disk, LARGE, again=True)
    found["segment again"] = {**command(*ask), "left": clear(disk)}
    return found


def clear(disk: Path) -> list[str]:
    """Empty the disk; what was on it."""
    names = sorted(path.name for path in disk.iterdir())
    for name in names:
        subprocess.run(["rm", "-r", str(disk / name)], check=True)
    return names


if __name__ == "__main__":
    print(json.dumps(fill_and_grow(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
