"""Two runs at one place, one that was killed, and what is somebody's own."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from synbb.errors import SynbbError
from synbb.inference.label_places import check_places
from synbb.inference.objects import segment
from synbb.volumes import Volume, create_volume, open_volume

BLOCK = (2, 4, 4)


@pytest.fixture
def probabilities(tmp_path: Path) -> Volume:
    values = np.zeros((4, 8, 8), np.uint8)
    values[::3, ::4, ::4] = 255
    made = create_volume(tmp_path / "p.zarr", shape=values.shape, dtype=values.dtype, voxel_size=(40.0, 10.0, 10.0))
    made.write(made.box, values)
    return made.volume


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def segment_and_wait(probabilities: str, output: str) -> None:
    """In a process of its own: some blocks of the labels are written, the others when there is a file ``go``."""
    folder = Path(output).parent

    def wait(done: int, total: int) -> None:
        if done == total - 2:
            (folder / "half").touch()
            until = time.monotonic() + 120
            while not (folder / "go").exists() and time.monotonic() < until:
                time.sleep(0.01)

    segment(open_volume(probabilities), output, threshold=0.5, block=BLOCK, progress=wait)


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_process_is_refused_until_the_first_has_ended(
    probabilities: Volume, tmp_path: Path, killed: bool
) -> None:
    output = tmp_path / "made" / "o.zarr"
    output.parent.mkdir()
    first = multiprocessing.get_context("spawn").Process(
        target=segment_and_wait, args=(probabilities.path, str(output)), daemon=True
    )
    first.start()
    until = time.monotonic() + 120
    while not (output.parent / "half").exists():
        assert first.is_alive(), "it ended early"
        assert time.monotonic() < until
        time.sleep(0.01)
    for overwrite in (False, True):
        with pytest.raises(SynbbError, match=r"o\.zarr: another process is writing it at this moment"):
            segment(probabilities, output, threshold=0.5, block=BLOCK, overwrite=overwrite)
    if killed:
        first.kill()
        first.join(60)
        assert ".o.zarr.partial" in names(output.parent)
        segment(probabilities, output, threshold=0.5, block=BLOCK)
    else:
        (output.parent / "go").touch()
        first.join(60)
        assert first.exitcode == 0
    found = open_volume(output)
    np.testing.assert_array_equal(found.read(found.box) > 0, probabilities.read(probabilities.box) > 127)
    assert [name for name in names(output.parent) if name not in ("half", "go")] == ["o.csv", "o.zarr"]


def test_without_locks_each_run_has_scratch_of_its_own(
    probabilities: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    output = tmp_path / "o.zarr"

    def meanwhile(done: int, total: int) -> None:
        if done == total - 2:
            segment(probabilities, output, threshold=1.0)

    with pytest.raises(SynbbError, match=r"o\.zarr exists"):
        segment(probabilities, output, threshold=0.5, block=BLOCK, progress=meanwhile)
    assert open_volume(output).attributes["threshold"] == 1.0
    assert names(tmp_path) == ["o.csv", "o.zarr", "p.zarr"]


def test_what_came_meanwhile_is_not_replaced(probabilities: Volume, tmp_path: Path) -> None:
    def write_a_table(done: int, total: int) -> None:
        (tmp_path / "o.csv").write_text("own")

    with pytest.raises(SynbbError, match=r"o\.csv exists"):
        segment(probabilities, tmp_path / "o.zarr", threshold=0.5, progress=write_a_table)
    assert (tmp_path / "o.csv").read_text() == "own"
    assert names(tmp_path) == ["o.csv", "p.zarr"]


def test_a_folder_that_is_no_scratch_is_left_alone(probabilities: Volume, tmp_path: Path) -> None:
    own = tmp_path / ".o.zarr.partial"
    own.mkdir()
    (own / "notes").write_text("own")
    with pytest.raises(SynbbError, match=r"\.o\.zarr\.partial: exists and is not a zarr .*remove it yourself"):
        segment(probabilities, tmp_path / "o.zarr", threshold=0.5)
    assert (own / "notes").read_text() == "own"
    assert names(tmp_path) == [".o.zarr.partial", "p.zarr"]


@pytest.mark.parametrize("table", ["o.zarr", "o.zarr/o.csv", "link/tables/o.csv"])
def test_a_table_in_the_labels_is_refused(probabilities: Volume, tmp_path: Path, table: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "o.zarr")
    for overwrite in (False, True):
        with pytest.raises(SynbbError, match="give the table a place of its own"):
            segment(probabilities, tmp_path / "o.zarr", threshold=0.5, table_path=tmp_path / table, overwrite=overwrite)
    assert names(tmp_path) == ["link", "p.zarr"]


def test_labels_in_the_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match="is a folder, where the table"):
        check_places(tmp_path / "o" / "o.zarr", tmp_path / "o")
