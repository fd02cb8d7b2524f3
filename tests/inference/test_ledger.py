"""The ledger survives what happens to files, and refuses what is not its own."""

from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import RunEnded, SynbbError
from synbb.inference.leased import _refuse_locked
from synbb.inference.ledger import Ledger, read_marks
from synbb.inference.ledger_lines import Mark, ledger_path
from synbb.volumes.box import Box

PLAN = {"region": "0:4,0:4,0:4", "halo": [1, 2, 2], "model_sha256": "abc"}
BLOCK = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)


def mark(number: int) -> Mark:
    return Mark.of(number, Box.of_shape((2, 2, 2), (2 * number, 0, 0)), BLOCK + number)


def with_three_marks(where: Path) -> Path:
    """Make an output at ``where`` with a ledger of three marks."""
    with Ledger(where, PLAN) as ledger:
        where.mkdir()
        (where / "zarr.json").write_text("{}")
        ledger.record_creation()
        for number in range(3):
            ledger.mark(mark(number))
    return where


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return with_three_marks(tmp_path / "out.zarr")


def test_a_ledger_remembers(output: Path) -> None:
    with Ledger(output, PLAN) as ledger:
        assert ledger.created
        assert dict(ledger.marks) == {n: mark(n) for n in range(3)}
        ledger.forget(1)
    fields, marks = read_marks(output)
    assert fields == PLAN
    assert sorted(marks) == [0, 2]


def test_marks_know_what_was_written() -> None:
    assert mark(1).matches(BLOCK + 1)
    assert not mark(1).matches(BLOCK)
    assert not mark(1).matches((BLOCK + 1).astype(np.uint16))
    big = Mark.of(0, Box.of_shape((2, 2, 2)), BLOCK.astype(">f4"))
    assert big.matches(BLOCK.astype("<f4")), "the byte order of the machine does not matter"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_cut_off_the_end_a_restart_goes_on(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        where = with_three_marks(Path(folder) / "out.zarr")
        content = ledger_path(where).read_bytes()
        header = content.index(b"\n") + 1
        kept = data.draw(st.integers(header, len(content)))
        ledger_path(where).write_bytes(content[:kept] + data.draw(st.sampled_from([b"", b"\0\0\0\0", b'{"blo'])))
        whole = content[:kept].count(b"\n")  # header, created, marks
        with Ledger(where, PLAN) as ledger:
            assert sorted(ledger.marks) == list(range(max(0, whole - 2)))
            assert ledger.created == (whole >= 2)
            ledger.mark(mark(7))
        assert 7 in read_marks(where)[1]


def test_a_damaged_line_in_the_middle_is_named(output: Path) -> None:
    lines = ledger_path(output).read_bytes().split(b"\n")
    lines[2] = lines[2][:10]
    ledger_path(output).write_bytes(b"\n".join(lines))
    with pytest.raises(SynbbError, match="line 3 is damaged"):
        Ledger(output, PLAN)


def test_a_changed_plan_is_refused_and_the_difference_named(output: Path) -> None:
    before = ledger_path(output).read_bytes()
    with pytest.raises(
        SynbbError, match=r"halo was \[1, 2, 2\], is now \[1, 2, 4\]; precision was None, is now 'bf16'"
    ):
        Ledger(output, {**PLAN, "halo": [1, 2, 4], "precision": "bf16"})
    assert ledger_path(output).read_bytes() == before


def test_an_output_without_ledger_is_refused(tmp_path: Path) -> None:
    stranger = tmp_path / "out.zarr"
    stranger.mkdir()
    (stranger / "precious").write_text("data")
    with pytest.raises(SynbbError, match="has no ledger"):
        Ledger(stranger, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"], "nothing is left behind"
    ledger_path(stranger).touch()
    with pytest.raises(SynbbError, match="is empty"):
        Ledger(stranger, PLAN)
    with pytest.raises(SynbbError, match="has no ledger"):
        read_marks(tmp_path / "nothing.zarr")


def test_the_ledger_of_an_output_that_was_removed_begins_anew(output: Path) -> None:
    (output / "zarr.json").unlink()
    output.rmdir()
    with Ledger(output, {**PLAN, "halo": [0, 0, 0]}) as ledger:
        assert not ledger.created
        assert not ledger.marks


def hold(output: str, held: Any, release: Any) -> None:
    with Ledger(output, PLAN):
        held.set()
        release.wait(120)


def test_two_processes_do_not_write_one_output(output: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(output), held, release))
    other.start()
    try:
        assert held.wait(120)  # it imports first
        with pytest.raises(SynbbError, match="another process is writing"):
            Ledger(output, PLAN)
    finally:
        release.set()
        other.join(20)
    with Ledger(output, PLAN) as ledger:
        assert len(ledger.marks) == 3


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_locks_one_is_told_what_to_do(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def none(_file: Any, _kind: int) -> None:
        raise OSError(number, "as of a file system without locks")

    before = ledger_path(output).read_bytes()
    monkeypatch.setattr("fcntl.flock", none)
    for where in (output, tmp_path / "new.zarr"):
        with pytest.raises(SynbbError, match=r"file system has no locks.*predict with --worker"):
            Ledger(where, PLAN)
    assert ledger_path(output).read_bytes() == before
    assert not ledger_path(tmp_path / "new.zarr").exists(), "workers find an empty one damaged"
    _refuse_locked(ledger_path(output))


def test_who_gives_up_while_workers_are_looked_for_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synbb.inference.ledger.check_nobody_shares", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Ledger(tmp_path / "new.zarr", PLAN)
    assert list(tmp_path.glob("new*")) == []


def test_a_full_disk_ends_the_run(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Ledger(output, PLAN) as ledger:
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(RunEnded, match=r"out\.zarr\.ledger\.jsonl.*full"):
            ledger.mark(mark(3))
        assert 3 not in ledger.marks
