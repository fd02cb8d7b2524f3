"""The table of a comparison: who writes it, and what is no table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
