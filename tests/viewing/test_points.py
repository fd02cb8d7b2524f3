"""Tables of synapses that are shown as points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from synbb.errors import SynbbError
from synbb.viewing.points import read_points

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "id,z_nm,y_nm,x_nm,voxels"


def test_a_row_is_a_point(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{HEAD}\n7,100,20.5,-3,12\n")
    (point,) = read_points(tmp_path / "t.csv")
    assert (point.place, point.text) == ((100.0, 20.5, -3.0), "synapse 7, voxels 12")


def test_a_table_that_a_spreadsheet_has_saved(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{HEAD}\n7,100,20.5,-3,12\n", encoding="utf-8-sig")
    assert read_points(tmp_path / "t.csv")[0].text == "synapse 7, voxels 12"


@pytest.mark.parametrize("place", ["nan,1,2", "1,inf,2", "1,2,-inf", "a,1,2", "1,2"])
def test_a_place_that_is_no_finite_number_is_named_by_its_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "t.csv").write_text(f"{HEAD}\n1,1,2,3,4\n2,{place}\n")
    with pytest.raises(SynbbError, match=r"t\.csv, line 3: \[.*\] is no place in nm"):
        read_points(tmp_path / "t.csv")


@pytest.mark.parametrize("content", [b"\xff\xfez\x00_\x00", f"{HEAD}\n".encode() + b"\xe9,1,2,3,4\n"])
def test_a_file_in_another_encoding_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(SynbbError, match=r"t\.csv: cannot be read as a table .*give a CSV in UTF-8"):
        read_points(tmp_path / "t.csv")
