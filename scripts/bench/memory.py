"""Peak memory of ``synbb predict``, ``segment`` and ``evaluate`` on a volume and on one of eight times the voxels.

    python scripts/bench/memory.py [--voxels 72000000] [--only predict] [--folder FOLDER]

Grey values, probabilities and truth are made in a temporary folder as OME-Zarr, and a run with a narrow network that
sees the grey values 2 x 2 coarser in the plane (so that half a gigavoxel takes minutes). Each command runs as a process
of its own, and the proportional memory (PSS) of it and of all its children is summed 20 times a second. The ratio says
what grows with the volume. Blocks have their usual size in working voxels.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from volumes import VOXEL, cube, probabilities

from synbb.training.config import run_config
from synbb.training.start import start_run
from synbb.volumes import Box, create_volume

WORKING = (VOXEL[0], 2 * VOXEL[1], 2 * VOXEL[2])
FILTERS = [8, 16, 32]
COMMANDS = ("predict", "segment", "evaluate")


def train(folder: Path) -> Path:
    """A run of two steps on a volume of its own."""
    shape = (16, 512, 512)
    make(folder, shape)
    part = {"raw": str(folder / "grey.zarr"), "labels": str(folder / "truth.zarr")}
    values = {
        "data": {"volumes": [{"name": "all", **part, "split": "train", "regions": [str(Box.of_shape(shape))]}]},
        "model": {"voxel_size": list(WORKING), "filters": FILTERS},
        "training": {"steps": 2, "batch_size": 2, "calibration_patches": 50},
        "pruning": {"method": "none"},
    }
    values["data"]["patch"] = [8, 32, 32]
    start_run(run_config(values, "benchmark"), folder / "run", resume=False, say=lambda _: None)
    return folder / "run"


def make(folder: Path, shape: tuple[int, int, int]) -> None:
    """``probabilities.zarr``, the same as ``grey.zarr``, and ``truth.zarr``, a few voxels beside."""
    about = {"kind": "probabilities", "threshold": 0.5, "min_size_nm3": 1e5}
    written = create_volume(
        folder / "probabilities.zarr", shape=shape, dtype=np.uint8, voxel_size=VOXEL, attributes=about
    )
    grey, truth = (
        create_volume(folder / f"{name}.zarr", shape=shape, dtype=np.uint8, voxel_size=VOXEL)
        for name in ("grey", "truth")
    )
    for box in written.box.blocks(written.unit):
        values = probabilities(box, jitter=4)
        written.write(box, values)
        grey.write(box, values)
        truth.write(box, (probabilities(box) >= 128).astype(np.uint8))


def peak(*arguments: str | Path) -> tuple[float, float]:
    """Largest MiB of a command and its children together, and the seconds that it took."""
    program = "import sys; from synbb.cli.app import main; sys.exit(main())"
    start, largest = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            largest = max(largest, memory_of_tree(root))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"synbb {arguments[0]} ended with {process.returncode}")
    return largest / 2**20, time.perf_counter() - start


def memory_of_tree(root: psutil.Process) -> int:
    total = 0
    try:
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0  # it ended in between
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=72_000_000, help="of the smaller volume")
    parser.add_argument("--only", choices=COMMANDS, action="append", help="instead of all three")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    options = parser.parse_args()
    small = cube(options.voxels)
    large = tuple(2 * n for n in small)
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    found: dict[str, list[float]] = {}
    wanted = options.only or COMMANDS
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        run = train(Path(place) / "training")
        for number, shape in enumerate((small, large)):
            folder = Path(place) / str(number)
            make(folder, shape)
            p, t, o, g = (folder / f"{each}.zarr" for each in ("probabilities", "truth", "objects", "grey"))
            given = ["--truth", t, "--objects", o, "--probabilities", p, "--output", folder / "scores"]
            for command in (["predict", run, g, folder / "predicted.zarr"], ["segment", p, o], ["evaluate", *given]):
                if command[0] not in wanted:
                    continue
                mebibytes, seconds = peak(*command)
                found.setdefault(str(command[0]), []).append(mebibytes)
                print(
                    f"{command[0]}: {np.prod(shape) / 1e6:.0f} Mvox, peak {mebibytes:.0f} MiB, {seconds:.1f} s",
                    flush=True,
                )
            shutil.rmtree(folder)
    for command, (one, eight) in found.items():
        print(f"{command}: peak memory at 8 V / at V: {eight / one:.2f}")


if __name__ == "__main__":
    main()
