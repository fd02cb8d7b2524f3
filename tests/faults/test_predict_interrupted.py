"""A process that predicts is killed, or runs into a full disk or a broken file: real processes, real signals."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from synbb.inference.ledger import ledger_path, read_marks
from synbb.inference.output import verify_output
from synbb.volumes.opening import open_volume
from synbb.volumes.writing import create_volume

PROCESS = Path(__file__).with_name("predict_process.py")
SHAPE = (7, 30, 37)
BLOCKS = 4 * 4 * 5


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("input") / "raw.zarr"
    made = create_volume(where, shape=SHAPE, dtype="uint8", voxel_size=(50.0, 9.2, 9.2), chunks=(4, 16, 16))
    made.write(made.box, np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8))
    return where


@pytest.fixture(scope="module")
def undisturbed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    where = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    finished = run(raw, where)
    assert finished.returncode == 0, finished.stderr
    return voxels(where)


def start(raw: Path, output: Path, pause: float = 0.0, file_limit: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROCESS), str(raw), str(output), str(pause), str(file_limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(raw: Path, output: Path, pause: float = 0.0, file_limit: int = 0) -> subprocess.CompletedProcess[str]:
    process = start(raw, output, pause, file_limit)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def voxels(output: Path) -> np.ndarray:
    stored = open_volume(str(output))
    return stored.read(stored.box)


def computed(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("computed")]


def wait_for_marks(process: subprocess.Popen[str], output: Path, count: int) -> None:
    """Until so many blocks are marked."""
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if ledger_path(output).exists() and ledger_path(output).read_bytes().count(b'"block"') >= count:
            return
        time.sleep(0.005)
    pytest.fail(f"{count} blocks were never marked: {process.communicate()}")


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    dice = random.Random(11)
    for count in (1, 24, 55):
        before = set(read_marks(output)[1]) if ledger_path(output).exists() else set()
        process = start(raw, output, pause=0.03)
        wait_for_marks(process, output, count)
        time.sleep(dice.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == -signal.SIGKILL
        assert not before & set(computed(out)), "a block was computed again after its mark"
    marked = set(read_marks(output)[1])
    assert 55 <= len(marked) < BLOCKS
    last = run(raw, output)
    assert last.returncode == 0, last.stderr
    assert f"summary {BLOCKS} {BLOCKS - len(marked)} {len(marked)}" in last.stdout
    assert sorted(computed(last.stdout)) == sorted(set(range(BLOCKS)) - marked)
    lines = ledger_path(output).read_text().splitlines()
    assert set(Counter(line for line in lines if '"block"' in line).values()) == {1}
    np.testing.assert_array_equal(voxels(output), undisturbed)
    assert verify_output(output) == []
    assert not list(output.rglob("*.partial")), "nothing of the killed writers is left"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_end_is_resumable_too(raw: Path, undisturbed: np.ndarray, tmp_path: Path, number: int) -> None:
    output = tmp_path / "out.zarr"
    process = start(raw, output, pause=0.03)
    wait_for_marks(process, output, 3)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert verify_output(output) == [], "what is marked is whole"
    finished = run(raw, output)
    assert finished.returncode == 0, finished.stderr
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_truncated_chunk_of_the_input_is_named_with_its_block(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    chunk = raw / "0" / "c" / "1" / "1" / "2"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    try:
        failed = run(raw, output)
    finally:
        chunk.write_bytes(whole)
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "cannot be computed" in failed.stderr
    assert "c/1/1/2" in failed.stderr
    assert 0 < len(read_marks(output)[1]) < BLOCKS
    assert run(raw, output).returncode == 0, "with the chunk restored it goes on"
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_full_disk_ends_the_run_and_names_the_path(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the ledger is the first file to reach it."""
    output = tmp_path / "out.zarr"
    failed = run(raw, output, file_limit=6000)
    assert failed.returncode == 3, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "out.zarr" in failed.stderr
    assert "full" in failed.stderr
    marks = read_marks(output)[1]
    assert 0 < len(marks) < BLOCKS
    assert verify_output(output) == []
    finished = run(raw, output)
    assert finished.returncode == 0, finished.stderr
    assert f"summary {BLOCKS} {BLOCKS - len(marks)} {len(marks)}" in finished.stdout
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_disk_too_full_for_a_chunk_ends_the_run(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    failed = run(raw, output, file_limit=1400)  # metadata fit; ledger header and first chunks hardly do
    assert failed.returncode == 3, failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_output_of_another_plan_is_left_alone(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    other = tmp_path / "other.zarr"
    create_volume(other, shape=SHAPE, dtype="uint8", voxel_size=(50.0, 9.2, 9.2))
    assert run(raw, output).returncode == 0
    before = voxels(output)
    refused = run(other, output)
    assert refused.returncode == 2
    assert "belongs to another run" in refused.stderr
    assert "input_path was" in refused.stderr
    assert "Traceback" not in refused.stderr
    np.testing.assert_array_equal(voxels(output), before)
