"""Leases: who wins, what a counter that stands still means, and outputs that cannot be joined."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from synbb.errors import RunEnded, SynbbError
from synbb.inference.leased import GROUPS, LARGEST_GROUP, groups
from synbb.inference.leases import Lease, Leases, check_nobody_shares
from synbb.inference.ledger import Ledger, read_marks, remove_workers
from synbb.inference.ledger_lines import Mark, ledger_path, workers_folder
from synbb.inference.worker_ledger import WorkerLedger
from synbb.volumes.box import Box

PLAN = {"region": "0:4,0:4,0:4", "halo": [1, 2, 2]}
HERE = Box.of_shape((1, 1, 1))


def mark(number: int, checksum: str = "00") -> Mark:
    return Mark(number, HERE, 1, checksum)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    where = tmp_path / "out.zarr"
    with Ledger(where, PLAN) as ledger:
        where.mkdir()
        (where / "zarr.json").write_text("{}")
        ledger.record_creation()
        ledger.mark(mark(0))
    workers_folder(where).mkdir()
    return where


def test_of_many_who_want_a_group_one_gets_it(tmp_path: Path) -> None:
    workers = [Leases(tmp_path, f"w{n}", 60.0) for n in range(16)]
    begin, won = threading.Barrier(len(workers)), []

    def want(leases: Leases, void: Lease | None) -> None:
        begin.wait()
        if leases.take(3, void):
            won.append(leases)

    for void in (None, Lease(3, 0)):  # free; then void, as each of them has found out
        threads = [threading.Thread(target=want, args=(w, void)) for w in workers if w.held is None]
        begin = threading.Barrier(len(threads))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(won) == 2
    assert not won[0].still_held(), "the first learns that it has lost it"
    assert won[1].still_held()
    assert [path.name for path in tmp_path.iterdir()] == ["lease-3.1"]
    won[0].release()
    assert won[1].still_held(), "giving back what was lost takes nothing from the new holder"


def test_a_counter_that_moves_keeps_its_lease(tmp_path: Path) -> None:
    watcher = Leases(tmp_path, "watcher", 0.6)
    with Leases(tmp_path, "holder", 0.6) as holder:
        assert holder.take(0)
        for _ in range(15):
            time.sleep(0.1)
            assert watcher.look(watcher.listed()) == []
    assert watcher.listed() == {}, "given back at the end"


def test_a_counter_that_stands_still_for_the_expiry_is_void(tmp_path: Path) -> None:
    watcher, dead = Leases(tmp_path, "watcher", 0.6), Leases(tmp_path, "dead", 0.6)  # whose heart never beats
    assert dead.take(0)
    began = time.monotonic()
    while not watcher.look(watcher.listed()):
        time.sleep(0.02)
    assert time.monotonic() - began >= 0.6


def test_a_watcher_that_stood_still_itself_blames_nobody(tmp_path: Path) -> None:
    watcher, other = Leases(tmp_path, "watcher", 0.6), Leases(tmp_path, "other", 0.6)
    assert other.take(0)
    watcher.look(watcher.listed())
    time.sleep(1.0)
    assert watcher.look(watcher.listed()) == [], "one look is no evidence of a second"


def test_a_lease_that_cannot_be_renewed_for_a_moment_is_renewed_afterwards(tmp_path: Path) -> None:
    told: list[str] = []
    with Leases(tmp_path, "holder", 0.6, told.append) as holder:
        assert holder.take(0)
        lease, aside = tmp_path / "lease-0.0", tmp_path / "aside"
        lease.rename(aside)
        lease.symlink_to(lease)  # opening it fails with ELOOP, as a file system's bad moment does with ESTALE or EIO
        wait_until(lambda: bool(told))
        time.sleep(0.3)
        lease.unlink()
        aside.rename(lease)
        before = lease.read_bytes()
        wait_until(lambda: lease.read_bytes() != before)
        wait_until(holder.still_held)
    assert len(told) == 1, "though several beats failed"
    assert "cannot be renewed" in told[0]


def test_a_lease_that_was_not_renewed_for_the_expiry_is_lost(tmp_path: Path) -> None:
    with Leases(tmp_path, "holder", 0.6) as holder:
        assert holder.take(0)
        presence = tmp_path / "alive-holder"
        presence.unlink()
        presence.symlink_to(presence)
        time.sleep(0.9)
        assert (tmp_path / "lease-0.0").exists()
        assert not holder.still_held(), "whoever watches may have found it void"
        presence.unlink()


def test_another_workers_lease_of_the_same_name_is_not_ones_own(tmp_path: Path) -> None:
    """Generations begin again after a release: a worker that stood still finds a file of the name that it had."""
    with Leases(tmp_path, "sleeper", 0.6) as sleeper:
        assert sleeper.take(0)
        lease = tmp_path / "lease-0.0"
        lease.unlink()  # taken over and released meanwhile
        other = Leases(tmp_path, "other", 0.6)
        assert other.take(0)
        content = lease.read_bytes()
        time.sleep(0.3)
        assert lease.read_bytes() == content, "the sleeper's heart leaves it alone"
        assert not sleeper.still_held()
        assert other.still_held()
        sleeper.release()
        assert other.still_held(), "and is not given back by the sleeper"


def test_a_worker_for_whom_there_is_no_room_leaves_no_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(RunEnded, match="full"), Leases(tmp_path / "workers", "w", 60.0):
        raise AssertionError("announced")
    assert list(tmp_path.glob("workers/*")) == []


def test_a_worker_without_a_lease_is_seen(output: Path) -> None:
    folder = workers_folder(output)
    with Leases(folder, "idle", 0.6) as idle:
        (folder / "settings.json").write_text('{"batch": 1, "expiry": 0.6}')
        with pytest.raises(SynbbError, match="worker idle is writing it"):
            check_nobody_shares(output)
        with pytest.raises(SynbbError, match="worker idle is writing it"):
            Ledger(output, PLAN)
        assert idle.announced()
    check_nobody_shares(output)
    Leases(folder, "killed", 0.6).announce()
    began = time.monotonic()
    check_nobody_shares(output)
    assert time.monotonic() - began >= 0.6
    assert not list(folder.glob("alive-*"))


def test_a_ledger_that_workers_refuse_leaves_nothing_in_their_way(tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    with Leases(workers_folder(output), "idle", 0.6):
        (workers_folder(output) / "settings.json").write_text('{"batch": 1, "expiry": 0.6}')
        with pytest.raises(SynbbError, match="worker idle"):
            Ledger(output, PLAN)
    assert not ledger_path(output).exists()


def test_who_takes_a_void_lease_takes_its_holder_for_dead(tmp_path: Path) -> None:
    dead, other = Leases(tmp_path, "dead", 0.6), Leases(tmp_path, "other", 0.6)
    dead.announce()
    assert dead.take(0)
    assert other.take(0, Lease(0, 0))
    assert not dead.announced()


def test_marks_of_all_are_read_and_taken_over(output: Path) -> None:
    with WorkerLedger(output, "a", PLAN) as a, WorkerLedger(output, "b", PLAN) as b:
        a.mark(mark(1))
        b.mark(mark(2))
        b.fail(3)
        assert set(a.marks) == {0}
        a.refresh()
        assert set(a.marks) == {0, 1, 2}
        assert a.failed == {3: 1}
        assert set(read_marks(output)[1]) == {0, 1, 2}
        with Ledger(output, PLAN) as ledger:
            assert set(ledger.marks) == {0, 1, 2}
            ledger.forget(1)
        a.mark(mark(4))
        a.refresh()
        assert set(a.marks) == {0, 2, 4}, "what was forgotten stays so, what was marked since counts"
    with Ledger(output, PLAN) as ledger:
        assert set(ledger.marks) == {0, 2, 4}
    assert set(read_marks(output)[1]) == {0, 2, 4}
    with WorkerLedger(output, "c", PLAN) as c:
        assert not c.failed, "a block that raised in earlier workers has new chances"


def test_a_mark_that_is_half_written_is_none(output: Path) -> None:
    with WorkerLedger(output, "a", PLAN) as a, WorkerLedger(output, "b", PLAN) as b:
        a.mark(mark(1))
        file = workers_folder(output) / "marks-a.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole[:-5])
        b.refresh()
        assert set(b.marks) == {0}
        file.write_bytes(whole)
        b.refresh()
        assert set(b.marks) == {0, 1}


def test_a_ledger_that_is_gone_ends_a_worker(output: Path) -> None:
    with WorkerLedger(output, "a", PLAN) as a:
        ledger_path(output).unlink()
        for attempt in (a.refresh, lambda: a.mark(mark(1))):
            with pytest.raises(RunEnded, match=r"ledger\.jsonl: was removed while.*remove the output, too"):
                attempt()


def test_a_folder_of_workers_that_is_gone_leaves_what_the_ledger_has(output: Path) -> None:
    with WorkerLedger(output, "a", PLAN) as a, WorkerLedger(output, "b", PLAN) as b:
        b.mark(mark(1))
        a.refresh()
        with Ledger(output, PLAN):
            remove_workers(output)
        a.refresh()
        assert set(a.marks) == {0, 1}, "what another process took over before it removed the file"
        for attempt in (a.check_there, lambda: a.mark(mark(2))):
            with pytest.raises(RunEnded, match=r"marks-a\.jsonl: was removed while.*start again") as ended:
                attempt()
            assert "remove the output" not in str(ended.value)


def test_a_marks_file_that_goes_away_while_it_is_read_is_none(output: Path) -> None:
    with WorkerLedger(output, "a", PLAN) as a, WorkerLedger(output, "b", PLAN) as b:
        b.mark(mark(1))
        file = workers_folder(output) / "marks-b.jsonl"
        file.unlink()
        file.symlink_to("nothing")  # it is listed, and cannot be opened
        a.refresh()
        assert set(a.marks) == {0}


def test_an_output_that_was_begun_anew_has_no_old_marks(output: Path) -> None:
    with WorkerLedger(output, "a", PLAN) as a:
        a.mark(mark(1))
    (output / "zarr.json").unlink()
    output.rmdir()
    ledger_path(output).unlink()
    with Ledger(output, PLAN) as ledger:
        assert not ledger.marks
    assert not workers_folder(output).exists()


def test_groups_hold_every_batch_once() -> None:
    for count in (1, 5, GROUPS, 3 * GROUPS + 7, 40 * GROUPS):
        batches = [(n,) for n in range(count)]
        made = groups(batches)
        assert [batch for group in made for batch in group] == batches
        assert max(map(len, made)) <= LARGEST_GROUP


def test_a_flat_refusal_for_two_drivers_at_once(output: Path, tmp_path: Path) -> None:
    from synbb.inference.leased import _refuse_locked

    with Ledger(output, PLAN), pytest.raises(SynbbError, match="without --worker is writing"):
        _refuse_locked(ledger_path(output))
    _refuse_locked(ledger_path(output))
