"""Processes that share an output by leases are killed and stopped: real processes, real signals."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
from predicting import BLOCKS, Predicting, marked, run, start, voxels, wait_for_marks

from synbb.inference.blocks import BlockPlan
from synbb.inference.drivers import numbers
from synbb.inference.leased import groups
from synbb.inference.ledger import read_marks
from synbb.inference.ledger_lines import workers_folder
from synbb.inference.output import verify_output
from synbb.volumes.box import Box
from synbb.volumes.opening import open_volume

EXPIRY = 1.5
BATCH = 2  # as predict_volume has it


def test_workers_are_killed_and_others_finish(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    dice = random.Random(5)
    workers = [start(raw, output, pause=0.05, expiry=EXPIRY) for _ in range(2)]
    marks_before: dict[int, set[int]] = {id(worker): set() for worker in workers}
    for count in (2, 20, 40):
        wait_for_marks(workers[-1], output, count)
        time.sleep(dice.uniform(0.0, 0.1))
        victim = workers[0]
        victim.process.kill()
        assert victim.end().status == -signal.SIGKILL
        workers = [*workers[1:], start(raw, output, pause=0.05, expiry=EXPIRY)]
        marks_before[id(workers[-1])] = set(read_marks(output)[1])
    for worker in workers:
        assert worker.end().status == 0, worker.text
        assert not marks_before[id(worker)] & set(worker.computed), "a block was computed again after its mark"
    np.testing.assert_array_equal(voxels(output), undisturbed)
    assert set(read_marks(output)[1]) == set(range(BLOCKS))
    assert verify_output(output) == []
    assert open_volume(str(output)).attributes["complete"] is True
    assert not list(workers_folder(output).glob("lease-*"))
    again = run(raw, output)
    assert f"summary {BLOCKS} 0 {BLOCKS}" in again.text, "a plain prediction sees the workers' marks"
    assert not workers_folder(output).exists(), "and keeps them in the ledger"
    assert set(read_marks(output)[1]) == set(range(BLOCKS))
    assert not list(output.rglob("*.partial"))


def test_workers_that_live_do_no_block_twice(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    """Three at once, beginning with nothing: one output comes of it, and each block is computed once."""
    output = tmp_path / "out.zarr"
    workers = [start(raw, output, pause=0.01, expiry=60.0) for _ in range(3)]
    for worker in workers:
        assert worker.end().status == 0, worker.text
    computed = Counter(number for worker in workers for number in worker.computed)
    assert computed == dict.fromkeys(range(BLOCKS), 1)
    assert marked(output) == BLOCKS
    np.testing.assert_array_equal(voxels(output), undisturbed)
    names = sorted(path.name.partition("-")[0] for path in workers_folder(output).iterdir())
    assert names == ["marks", "marks", "marks", "settings.json"], "bounded: a file a worker, and no lease"


def holds_missing_blocks(output: Path) -> bool:
    """Whether a lease stands for a group of which a block is not marked."""
    fields, marks = read_marks(output)
    geometry = [tuple(fields[name]) for name in ("write_block", "working_shape", "halo", "stride")]
    plan = BlockPlan(Box.parse(fields["region"]), *geometry)
    leased = [int(path.name.split("-")[1].split(".")[0]) for path in workers_folder(output).glob("lease-*")]
    shared = groups([numbers(batch) for batch in plan.batches(BATCH)])
    return any(number not in marks for group in leased for batch in shared[group] for number in batch)


def stop(process: int) -> None:
    """Send SIGSTOP and wait until every thread stands still: until then it may mark what a test reads as missing."""
    os.kill(process, signal.SIGSTOP)
    threads = Path(f"/proc/{process}/task")
    while not all(" T " in (thread / "stat").read_text().rpartition(")")[2][:4] for thread in threads.iterdir()):
        time.sleep(0.001)


def sleeping(raw: Path, output: Path) -> tuple[Predicting, int]:
    """A worker that stands still while it has blocks to do, and the number of its process."""
    sleeper = start(raw, output, pause=0.2, expiry=EXPIRY)
    wait_for_marks(sleeper, output, 3)
    assert sleeper.process.pid is not None
    stop(sleeper.process.pid)
    while not holds_missing_blocks(output):  # for a moment between two groups it has none, or one that is finished
        os.kill(sleeper.process.pid, signal.SIGCONT)
        time.sleep(0.05)
        stop(sleeper.process.pid)
    return sleeper, sleeper.process.pid


def test_a_worker_that_stood_still_does_no_harm(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    sleeper, process = sleeping(raw, output)
    try:
        other = run(raw, output, expiry=EXPIRY)
        assert other.status == 0, other.text
        assert "taken over" in other.text
    finally:
        os.kill(process, signal.SIGCONT)
    assert sleeper.end().status == 0, sleeper.text
    np.testing.assert_array_equal(voxels(output), undisturbed)
    assert verify_output(output) == []


def test_a_worker_that_wakes_beside_a_plain_prediction_ends(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    sleeper, process = sleeping(raw, output)
    before = marked(output)
    try:
        plain = start(raw, output, pause=0.3)
        wait_for_marks(plain, output, 2 * before + 4)  # it has taken over what was there
    finally:
        os.kill(process, signal.SIGCONT)
    assert sleeper.end().status == 2, sleeper.text
    assert "a process without --worker is writing this output" in sleeper.text
    assert plain.process.is_alive(), "or nothing was tested"
    assert plain.end().status == 0, plain.text
    np.testing.assert_array_equal(voxels(output), undisturbed)
    assert not workers_folder(output).exists()


def test_another_plan_or_batch_is_refused(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    first = start(raw, output, pause=0.1, expiry=EXPIRY)
    wait_for_marks(first, output, 2)
    for change, difference in (
        ({"halo": (2, 3, 3)}, "halo was [1, 3, 3], is now [2, 3, 3]"),
        ({"batch": 3}, "start with --batch 2, or without --worker"),
    ):
        refused = run(raw, output, expiry=EXPIRY, **change)
        assert refused.status == 2, refused.text
        assert difference in refused.text
        assert ("remove it" in refused.text) == ("halo" in change), "another batch is no reason to begin anew"
        assert "Traceback" not in refused.text
    plain = run(raw, output)
    assert plain.status == 2, plain.text
    assert "is writing it at this moment" in plain.text
    first.process.kill()
    first.end()


def test_blocks_whose_marks_are_removed_are_computed_again(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    victim = start(raw, output, pause=0.05, expiry=EXPIRY)
    wait_for_marks(victim, output, 20)
    victim.process.kill()
    victim.end()
    file = next(workers_folder(output).glob("marks-*"))
    other = start(raw, output, pause=0.1, expiry=EXPIRY)
    wait_for_marks(other, output, marked(output) + 4)
    file.unlink()
    assert other.end().status == 0, other.text
    assert set(read_marks(output)[1]) == set(range(BLOCKS)), "or it would be said to be complete"
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_another_expiry_is_told_and_not_taken(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    assert "leases expire" not in run(raw, output, expiry=EXPIRY).text
    other = run(raw, output, expiry=4.0)
    assert other.status == 0, other.text
    assert "leases expire after 1.5 s" in other.text
    assert "not after 4 s (--lease-expiry)" in other.text


def test_a_plain_prediction_goes_on_where_killed_workers_ended(
    raw: Path, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    victim = start(raw, output, pause=0.05, expiry=EXPIRY)
    wait_for_marks(victim, output, 20)
    victim.process.kill()
    victim.end()
    before = set(read_marks(output)[1])
    plain = run(raw, output)
    assert plain.status == 0, plain.text
    assert set(plain.computed) == set(range(BLOCKS)) - before
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_block_that_always_raises_is_given_up(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    workers = [start(raw, output, expiry=EXPIRY, broken=7, together=2) for _ in range(2)]
    for worker in workers:
        assert worker.end().status == 3, worker.text
        assert f"1 of {BLOCKS} blocks failed: 7" in worker.text
    both = "".join(worker.text for worker in workers)
    assert both.count("Traceback") == 1, "reported once, by the worker that tried last"
    assert set(read_marks(output)[1]) == set(range(BLOCKS)) - {7}
    healed = run(raw, output, expiry=EXPIRY)
    assert healed.status == 0, healed.text
    assert healed.computed == [7]
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_workers_end_where_every_block_raises(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    failed = run(raw, output, expiry=EXPIRY, broken="every")
    assert failed.status == 3, failed.text
    assert "8 blocks failed and none was finished (RuntimeError: block" in failed.text
    assert len(set(failed.computed)) < BLOCKS / 2, "it is not the blocks, and the others need not be tried"
    healed = run(raw, output, expiry=EXPIRY)
    assert healed.status == 0, healed.text
    np.testing.assert_array_equal(voxels(output), undisturbed)
