"""Tables of predicted files: nothing that is there is lost without being asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from synbb.errors import SynbbError
from synbb.prediction.files import check_table, write_table
from synbb.tasks.base import Table


def test_a_list_of_what_was_left_out_is_not_replaced_unasked(tmp_path: Path) -> None:
    output, beside = tmp_path / "names.csv", tmp_path / "names.left-out.csv"
    check_table(output, overwrite=False)
    beside.write_text("of somebody\n")
    with pytest.raises(SynbbError, match=r"names\.left-out\.csv exists; choose another name, or pass --overwrite"):
        check_table(output, overwrite=False)
    check_table(output, overwrite=True)
    write_table(Table(["image"], [["a.png"]], ("b.png is bad",)), output, lambda _: None)
    assert beside.read_text().split("\n")[:2] == ["reason", "b.png is bad"]
    write_table(Table(["image"], [["a.png"]]), output, lambda _: None)
    assert not beside.exists(), "that of the call before"


@pytest.mark.parametrize("name", ["names.csv", "names.left-out.csv"])
def test_folders_in_the_place_of_a_table_are_refused_before_the_work(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(SynbbError, match=f"{name} is a folder, where a table would be written; choose another name"):
        check_table(tmp_path / "names.csv", overwrite=True)


def test_names_that_are_no_utf_8_are_written_as_they_are(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    said: list[str] = []
    write_table(Table(["audio"], [[name]], (f"{name} is bad",)), tmp_path / "texts.csv", said.append)
    assert (tmp_path / "texts.csv").read_bytes().splitlines()[1] == b"caf\xe9.wav"
    assert (tmp_path / "texts.left-out.csv").read_bytes().splitlines()[1] == b"caf\xe9.wav is bad"
    assert said == ["left out (1): caf\\udce9.wav is bad"]
