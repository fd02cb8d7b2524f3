"""The table of a comparison: who writes it, and what is no table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from synbb.errors import SynbbError
from synbb.pruning.comparison import points_of
from synbb.pruning.rows import Cell, RunTable


def test_studies_that_share_a_table_lose_no_row(tmp_path: Path) -> None:
    def add(method: str) -> None:
        table = RunTable(tmp_path / "runs.csv")
        for seed in range(20):
            table.append(Cell("all", method, 0.5, seed), "abc", {"score": 0.1 * seed})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, ("bb", "random", "set")))
    found = RunTable(tmp_path / "runs.csv").rows()
    assert len({(row["method"], row["seed"]) for row in found}) == len(found) == 60
    assert [file.name for file in tmp_path.iterdir()] == ["runs.csv"], "no lock is left"


def test_a_run_that_another_study_has_finished_meanwhile_stands(tmp_path: Path) -> None:
    one, other = RunTable(tmp_path / "runs.csv"), RunTable(tmp_path / "runs.csv")
    cell = Cell("all", "bb", 0.5, 0)
    one.append(cell, "abc", {"score": 0.25})
    assert other.append(cell, "abc", {"score": 0.75})["score"] == "0.25"
    assert len(RunTable(tmp_path / "runs.csv").rows()) == 1


def test_rows_of_one_run_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """As after merging the tables of two machines that have done the same run."""
    file = tmp_path / "runs.csv"
    header = "fold,method,density,seed,config_hash,commit,main,acc,f1,seconds\n"
    once = "all,bb,0.5,0,abc,1a2b,acc,0.25,,3\n"
    again = "all,bb,0.5,0,abc,3c4d,acc,0.250,0.5,9\n"
    file.write_text(header + once + "all,bb,0.5,0,abd,1a2b,acc,0.75,0.5,3\n" + again)
    assert len(RunTable(file).rows()) == 3, "the same scores twice, and once with other settings"
    file.write_text(header + once + again + "all,bb,0.50,0,abc,1a2b,acc,0.75,0.5,3\n")
    told = r"runs.csv: lines 2 and 4 are both of all bb density 0.5 seed 0 .* differ in acc \(0.25, 0.75\): remove one"
    with pytest.raises(SynbbError, match=told):
        RunTable(file)


HEADER = b"fold,method,density,seed,config_hash,main,acc,device,seconds\n"
GOOD = b"all,bb,0.5,0,abc,acc,0.25,cpu,3\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            HEADER + GOOD + b"\nall,bb,0.5,1,abc,acc,n/a,cpu,3\n",
            "line 4, column acc: 'n/a' is no finite number: mend it",
        ),
        (HEADER + b"all,bb,0.5,0,abc,acc,inf,cpu,3\n", "line 2, column acc: 'inf' is no finite number"),
        (HEADER + b"all,bb,0.5,0,abc,acc,0.25,cpu,1:20\n", "line 2, column seconds: '1:20' is no finite number"),
        (HEADER + b"all,bb,nan,0,abc,acc,0.25,cpu,3\n", "line 2, column density: 'nan' is no finite number"),
        (HEADER + b"all,bb,0.5,0,abc,f1,0.25,cpu,3\n", "line 2, column main: 'f1' is no column of scores"),
        (HEADER.replace(b",", b";") + GOOD.replace(b",", b";"), "line 2 is no row of a run"),
        (b"fold,method\xff\xfe", "cannot be read as a table of runs .*: give a CSV in UTF-8"),
        (None, "cannot be read as a table of runs .*Is a directory"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "runs.csv"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(SynbbError, match=f"runs.csv.*{message}"):
        RunTable(file)


def test_a_table_that_a_spreadsheet_has_stored(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_bytes(b"\xef\xbb\xbf" + (HEADER + GOOD).replace(b"\n", b"\r\n"))
    assert RunTable(file).find(Cell("all", "bb", 0.5, 0), "abc")["device"] == "cpu"


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    table = RunTable(tmp_path / "runs.csv")
    row = table.append(Cell("all", "bb", 0.5, 0), "abc", {"main": "acc", "acc": 0.25, "slope": float("inf")})
    assert row["slope"] == RunTable(tmp_path / "runs.csv").rows()[0]["slope"] == ""


def test_somebody_s_own_columns_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    head, row = HEADER.rstrip(b"\n"), GOOD.rstrip(b"\n")
    path.write_bytes(head + b",notes\n" + row + b",rerun on node 7\n" + row + b",2\n")
    found = RunTable(path).rows()
    assert [each["notes"] for each in found] == ["rerun on node 7", "2"]
    assert "notes" not in points_of(found[0])
