"""A process that predicts is killed, or runs into a full disk or a broken file: real processes, real signals."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predicting import BLOCKS, SHAPE, run, start, voxels, wait_for_marks

from synbb.inference.ledger import read_marks
from synbb.inference.ledger_lines import ledger_path, workers_folder
from synbb.inference.output import verify_output
from synbb.volumes.writing import create_volume


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    dice = random.Random(11)
    for count in (1, 14, 28, 42, 58):
        before = set(read_marks(output)[1]) if ledger_path(output).exists() else set()
        victim = start(raw, output, pause=0.03)
        wait_for_marks(victim, output, count)
        time.sleep(dice.uniform(0.0, 0.05))
        victim.process.kill()
        assert victim.end().status == -signal.SIGKILL
        assert not before & set(victim.computed), "a block was computed again after its mark"
    marked = set(read_marks(output)[1])
    assert 58 <= len(marked) < BLOCKS
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


@pytest.mark.parametrize("left", [0.5, 0.05, 0.0])
def test_a_truncated_shard_of_the_input_is_named_and_never_taken_for_an_absent_one(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path, left: float
) -> None:
    sharded, output = tmp_path / "sharded.zarr", tmp_path / "out.zarr"
    made = create_volume(
        sharded, shape=SHAPE, dtype="uint8", voxel_size=(50.0, 9.2, 9.2), chunks=(4, 8, 8), shards=(4, 16, 16)
    )
    made.write(made.box, voxels(raw))
    shard = sharded / "0" / "c" / "1" / "1" / "2"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(len(whole) * left)])
    failed = run(sharded, output)
    assert failed.status == 2, failed.text
    assert "Traceback" not in failed.text
    assert "cannot be computed" in failed.text
    assert "truncated or unreadable" in failed.text
    assert str(sharded) in failed.text
    shard.write_bytes(whole)
    assert run(sharded, output).status == 0, "with the shard restored it goes on"
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_an_absent_chunk_is_told_from_an_unreadable_one(raw: Path, tmp_path: Path) -> None:
    broken = tmp_path / "raw.zarr"
    shutil.copytree(raw, broken)
    chunk = broken / "0" / "c" / "1" / "1" / "2"
    chunk.write_bytes(b"this is no zstd")
    unreadable = run(broken, tmp_path / "one.zarr", missing="skip")
    assert unreadable.status == 2
    assert "chunk c/1/1/2 (voxels " in unreadable.text
    assert ") is truncated or unreadable" in unreadable.text
    chunk.unlink()
    refused = run(broken, tmp_path / "two.zarr", missing="error")
    assert refused.status == 2
    assert "1 chunks are absent" in refused.text
    skipped = run(broken, tmp_path / "three.zarr", missing="skip")
    assert skipped.status == 0, skipped.text
    assert (voxels(tmp_path / "three.zarr")[4:7, 16:30, 32:37] == 0).all()


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


def test_a_full_disk_ends_the_workers_that_share_an_output(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    failed = run(raw, output, file_limit=6000, expiry=1.5)
    assert failed.status == 3, failed.text
    assert "Traceback" not in failed.text
    assert "full" in failed.text
    marks = read_marks(output)[1]
    assert 0 < len(marks) < BLOCKS
    finished = run(raw, output, expiry=1.5)
    assert finished.status == 0, finished.text
    assert not set(marks) & set(finished.computed)
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_disk_too_full_for_a_chunk_ends_the_run(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    failed = run(raw, output, file_limit=1400)  # metadata fit; ledger header and first chunks hardly do
    assert failed.status == 3, failed.text
    assert "Traceback" not in failed.text


CHANGES = {
    "input_path was": {},
    f"model_sha256 was '{'0' * 64}', is now '{'1' * 64}'": {"model_sha256": "1" * 64},
    "halo was [1, 3, 3], is now [2, 3, 3]": {"halo": (2, 3, 3)},
    "dtype was 'float32', is now 'uint8'": {"dtype": "uint8"},
}


@pytest.mark.parametrize("difference", CHANGES)
def test_plan_model_or_input_changed_between_runs(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path, difference: str
) -> None:
    """What a killed run left is continued with what it was begun with, and with nothing else."""
    output = tmp_path / "out.zarr"
    other = tmp_path / "other.zarr"
    create_volume(other, shape=SHAPE, dtype="uint8", voxel_size=(50.0, 9.2, 9.2))
    first = start(raw, output, pause=0.02)
    wait_for_marks(first, output, 10)
    first.process.kill()
    first.end()
    before = ledger_path(output).read_bytes()
    refused = run(raw if CHANGES[difference] else other, output, **CHANGES[difference])
    assert refused.status == 2
    assert "was begun with other settings" in refused.text
    assert difference in refused.text
    assert "Traceback" not in refused.text
    assert ledger_path(output).read_bytes() == before
    assert run(raw, output).status == 0
    np.testing.assert_array_equal(voxels(output), undisturbed)


@pytest.mark.parametrize("change", [{}, {"halo": (2, 3, 3)}])
def test_of_two_runs_on_one_output_the_second_is_refused(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path, change: dict[str, Any]
) -> None:
    output = tmp_path / "out.zarr"
    first = start(raw, output, pause=0.1)
    wait_for_marks(first, output, 1)
    second = run(raw, output, **change)
    assert first.process.is_alive(), "or nothing was tested"
    assert second.status == 2, second.text
    assert "another process is writing it at this moment" in second.text
    assert second.computed == []
    assert first.end().status == 0, first.text
    np.testing.assert_array_equal(voxels(output), undisturbed)


@pytest.mark.parametrize("gone", ["output", "ledger", "both"])
def test_what_is_removed_midway_ends_the_run(raw: Path, undisturbed: np.ndarray, tmp_path: Path, gone: str) -> None:
    """Files would be written into the empty place all the same, and be marked."""
    output = tmp_path / "out.zarr"
    victim = start(raw, output, pause=0.1)
    wait_for_marks(victim, output, 10)
    if gone != "ledger":
        shutil.rmtree(output, ignore_errors=True)  # it is being written
    if gone != "output":
        ledger_path(output).unlink()
    assert victim.end().status == 3, victim.text
    assert "was removed while" in victim.text
    assert "Traceback" not in victim.text
    assert len(victim.computed) < BLOCKS, "it ends soon, not after all blocks"
    refused = run(raw, output)
    if refused.status:
        assert refused.status == 2, refused.text
        assert "remove it" in refused.text
        assert refused.computed == []
    else:
        assert gone != "ledger", "the output was there"
    shutil.rmtree(output)
    assert run(raw, output).status == 0
    np.testing.assert_array_equal(voxels(output), undisturbed)
    assert verify_output(output) == []


@pytest.mark.parametrize("gone", [["output"], ["ledger"], ["output", "ledger"], ["workers"]])
def test_what_is_removed_ends_the_workers_that_share_it(raw: Path, tmp_path: Path, gone: list[str]) -> None:
    output = tmp_path / "out.zarr"
    places = {"output": output, "ledger": ledger_path(output), "workers": workers_folder(output)}
    victim = start(raw, output, pause=0.1, expiry=1.5)
    wait_for_marks(victim, output, 4)
    for name in gone:
        if places[name].is_dir():
            shutil.rmtree(places[name], ignore_errors=True)  # it is being written
        else:
            places[name].unlink()
    assert victim.end().status == 3, victim.text
    assert "was removed while" in victim.text
    assert "Traceback" not in victim.text
    assert len(victim.computed) < BLOCKS, "it ends soon, not after all blocks"
    if "ledger" in gone:
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(workers_folder(output), ignore_errors=True)
    elif "output" in gone:
        shutil.rmtree(output, ignore_errors=True)
        assert run(raw, output).status == 0, "which begins anew"
    assert run(raw, output, expiry=1.5).status == 0
    assert set(read_marks(output)[1]) == set(range(BLOCKS))
    assert verify_output(output) == []
