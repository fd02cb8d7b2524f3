"""What becomes of errors of the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from synbb.errors import RunEnded, SynbbError, disk_errors, make_folder


def test_folders_are_made_with_those_above_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (Path("/proc/nowhere"), tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("long" * 100)):
        with pytest.raises(SynbbError, match=r"this folder cannot be made .*; choose another place") as caught:
            make_folder(folder)
        assert str(folder) in str(caught.value)
        assert caught.value.exit_status == 2


def test_a_full_disk_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(RunEnded, match=r"the disk .* is full"):
        make_folder(tmp_path / "a")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"cannot be written here \(.*Is a directory.*\)"), disk_errors(tmp_path):
        tmp_path.open("w")


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(OSError, match="reading"), disk_errors("x"):
        raise OSError(errno.EIO, "reading")
