"""A process that predicts is killed, or runs into a full disk or a broken file: real processes, real signals."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from predicting import BLOCKS, SHAPE, run, start, voxels, wait_for_marks

from synbb.inference.ledger import ledger_path, read_marks
from synbb.inference.output import verify_output
from synbb.volumes.writing import create_volume


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    dice = random.Random(11)
    for count in (1, 24, 55):
        before = set(read_marks(output)[1]) if ledger_path(output).exists() else set()
        victim = start(raw, output, pause=0.03)
        wait_for_marks(victim, output, count)
        time.sleep(dice.uniform(0.0, 0.05))
        victim.process.kill()
        assert victim.end().status == -signal.SIGKILL
        assert not before & set(victim.computed), "a block was computed again after its mark"
    marked = set(read_marks(output)[1])
    assert 55 <= len(marked) < BLOCKS
    last = run(raw, output)
    assert last.status == 0, last.text
    assert f"summary {BLOCKS} {BLOCKS - len(marked)} {len(marked)}" in last.text
    assert sorted(last.computed) == sorted(set(range(BLOCKS)) - marked)
    lines = ledger_path(output).read_text().splitlines()
    assert set(Counter(line for line in lines if '"block"' in line).values()) == {1}
    np.testing.assert_array_equal(voxels(output), undisturbed)
    assert verify_output(output) == []
    assert not list(output.rglob("*.partial")), "nothing of the killed writers is left"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_end_is_resumable_too(raw: Path, undisturbed: np.ndarray, tmp_path: Path, number: int) -> None:
    output = tmp_path / "out.zarr"
    victim = start(raw, output, pause=0.3)  # on a busy machine the signal comes late
    wait_for_marks(victim, output, 3)
    assert victim.process.pid is not None
    os.kill(victim.process.pid, number)
    assert victim.end().status != 0
    assert verify_output(output) == [], "what is marked is whole"
    finished = run(raw, output)
    assert finished.status == 0, finished.text
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
    assert failed.status == 2, failed.text
    assert "Traceback" not in failed.text
    assert "cannot be computed" in failed.text
    assert "c/1/1/2" in failed.text
    assert 0 < len(read_marks(output)[1]) < BLOCKS
    assert run(raw, output).status == 0, "with the chunk restored it goes on"
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_full_disk_ends_the_run_and_names_the_path(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the ledger is the first file to reach it."""
    output = tmp_path / "out.zarr"
    failed = run(raw, output, file_limit=6000)
    assert failed.status == 3, failed.text
    assert "Traceback" not in failed.text
    assert "out.zarr" in failed.text
    assert "full" in failed.text
    marks = read_marks(output)[1]
    assert 0 < len(marks) < BLOCKS
    assert verify_output(output) == []
    finished = run(raw, output)
    assert finished.status == 0, finished.text
    assert f"summary {BLOCKS} {BLOCKS - len(marks)} {len(marks)}" in finished.text
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_disk_too_full_for_a_chunk_ends_the_run(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    failed = run(raw, output, file_limit=1400)  # metadata fit; ledger header and first chunks hardly do
    assert failed.status == 3, failed.text
    assert "Traceback" not in failed.text


def test_the_output_of_another_plan_is_left_alone(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    other = tmp_path / "other.zarr"
    create_volume(other, shape=SHAPE, dtype="uint8", voxel_size=(50.0, 9.2, 9.2))
    assert run(raw, output).status == 0
    before = voxels(output)
    refused = run(other, output)
    assert refused.status == 2
    assert "was begun with other settings" in refused.text
    assert "input_path was" in refused.text
    assert "Traceback" not in refused.text
    np.testing.assert_array_equal(voxels(output), before)
