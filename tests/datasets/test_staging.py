"""Folders that appear when they are whole, by one process at a time, and what may stand in their place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from synbb.datasets.staging import staged_folder
from synbb.errors import RunEnded, SynbbError

HOLD = """
import sys
from pathlib import Path
from synbb.datasets.staging import staged_folder

with staged_folder(Path(sys.argv[1])) as stage:
    (stage / "of the first").touch()
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "left by a killed process").touch()
    with staged_folder(tmp_path / "a") as stage:
        (stage / "file").touch()
        assert not (tmp_path / "a").exists()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["file"]
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("ends", ["by itself", "killed"])
def test_one_process_at_a_time_makes_a_folder(tmp_path: Path, ends: str) -> None:
    target = tmp_path / "data" / "a"
    command = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(SynbbError, match=r"a: another process is making it .*; wait"), staged_folder(target):
            raise AssertionError("two at once")
        assert (target.parent / ".a.partial" / "of the first").exists()
        if ends == "killed":
            first.kill()
            first.wait()
            with staged_folder(target) as stage:
                (stage / "of the second").touch()
        else:
            first.communicate("go on\n")
            with pytest.raises(SynbbError, match="a: exists already"), staged_folder(target):
                raise AssertionError("in the place of the first")
    assert [file.name for file in target.iterdir()] == ["of the second" if ends == "killed" else "of the first"]
    assert [each.name for each in target.parent.iterdir()] == ["a"]


def test_without_locks_each_process_has_a_stage_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with staged_folder(tmp_path / "a") as one:
        (one / "file").touch()
        with pytest.raises(SynbbError, match="a: exists already"), staged_folder(tmp_path / "a") as other:  # noqa: PT012
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "by a third").touch()
            assert other != one
        assert (one / "file").exists()
        (tmp_path / "a" / "by a third").unlink()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["file"]
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    for name in ("there", "not yet there"):
        (tmp_path / "here").mkdir(exist_ok=True)
        (tmp_path / "large disk").mkdir(exist_ok=True)
        link = tmp_path / "here" / name
        link.symlink_to(tmp_path / "large disk" / name)
        if name == "there":
            link.resolve().mkdir()
        with staged_folder(link) as stage:
            assert stage.parent == tmp_path / "large disk"
            (stage / "file").touch()
        assert link.is_symlink()
        assert [file.name for file in link.iterdir()] == ["file"]
    assert sorted(each.name for each in (tmp_path / "large disk").iterdir()) == ["not yet there", "there"]


def test_folders_that_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target in (Path(), tmp_path):
        with pytest.raises(SynbbError, match="is the folder you are in"), staged_folder(target):
            raise AssertionError
    with pytest.raises(SynbbError, match="/dev: is the top of a file system"), staged_folder(Path("/dev")):
        raise AssertionError
    assert not list(tmp_path.iterdir())


def test_errors_of_the_body_are_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="a source"), staged_folder(tmp_path / "a"):
        raise PermissionError(13, "a source")
    with pytest.raises(OSError, match="of the body"), staged_folder(tmp_path / "a"):
        raise OSError(5, "of the body")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SynbbError, match="file: this folder cannot be made"), staged_folder(tmp_path / "file" / "a"):
        raise AssertionError
    long = "a" * 252
    with pytest.raises(SynbbError, match=f"{long}: cannot be written here") as caught, staged_folder(tmp_path / long):
        raise AssertionError
    assert not isinstance(caught.value, RunEnded)
