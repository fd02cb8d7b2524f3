"""Real studies of a toy task: rows, files, what is skipped, what fails, what a kill leaves."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_study import lasting, rows, write_study

from synbb.errors import RunEnded, SynbbError
from synbb.experiments import compare
from synbb.experiments.study import StudyIncomplete, _alone
from synbb.pruning.masks import load_masks
from synbb.pruning.paired import smallest_detectable
from synbb.pruning.resampling import load_resampled

METHODS = {
    "dense": {"method": "none"},
    "again": {"method": "fixed", "after": "magnitude"},
    "magnitude": {"method": "magnitude"},
}
STUDY: dict[str, Any] = {"methods": METHODS, "densities": [0.5], "table": "table.csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of all studies here, with the task in it."""
    made = tmp_path_factory.mktemp("studies")
    write_study(made, **STUDY)
    before = Path.cwd()
    os.chdir(made)
    yield made
    os.chdir(before)


@pytest.fixture(scope="module")
def finished(folder: Path) -> list[str]:
    """What was said by a study that ran without disturbance, in ``whole``."""
    said: list[str] = []
    compare(folder / "study.yaml", output=Path("whole"), jobs=2, threads=1, say=said.append)
    return said


def test_a_row_for_every_run(folder: Path, finished: list[str]) -> None:
    found = rows(folder / "table.csv")
    assert len(found) == 6
    for row in found:
        assert float(row["realised_density"]) == pytest.approx(1 if row["method"] == "dense" else 0.5, abs=0.02)
        assert 0.3 < float(row["accuracy"]) <= 1
        assert float(row["seconds"]) > 0
        assert float(row["steps_per_second"]) > 0
        assert row["device"]  # "cpu", or what the GPU is called
        assert len(row["config_hash"]) == 12
        assert row["synbb"]
    assert len({row["accuracy"] for row in found}) > 2
    assert sum(line.startswith(tuple("123456")) and "/6 all" in line for line in finished) == 6


def test_scores_are_those_of_the_counts(folder: Path, finished: list[str]) -> None:
    for row in rows(folder / "table.csv"):
        name = f"{row['method']}-d{row['density']}-s{row['seed']}"
        counts, config_hash = load_resampled(folder / "whole" / "evidence" / "all" / f"{name}.npz")
        assert config_hash == row["config_hash"]
        assert counts["accuracy"].score() == pytest.approx(float(row["accuracy"]), rel=1e-5)
        assert counts["accuracy"].units == {"groups": 40}


def test_masks_are_passed_on(folder: Path, finished: list[str]) -> None:
    runs = folder / "whole" / "runs" / "all"
    for seed in (0, 1):
        one, other = (
            load_masks(runs / f"{name}-d0.5-s{seed}" / "masks.safetensors") for name in ("magnitude", "again")
        )
        assert one.keys() == other.keys()
        assert all(bool((one[name] == other[name]).all()) for name in one)
    first = [row["method"] for row in rows(folder / "table.csv")]
    assert first.index("magnitude") < first.index("again")


def test_masks_of_a_run_with_other_settings_are_not_taken(folder: Path, finished: list[str]) -> None:
    """A run of the same place and other settings stands where the masks are looked for."""
    options: dict[str, Any] = {"output": Path("detour"), "threads": 1, "say": lambda _: None}
    here = ["table=detour.csv", "seeds=[0]"]
    compare(folder / "study.yaml", here, only=("magnitude",), **options)
    compare(folder / "study.yaml", [*here, "run.training.learning_rate=0.3"], only=("magnitude",), **options)
    compare(folder / "study.yaml", here, only=("again",), **options)
    took, whole = (
        load_masks(folder / output / "runs" / "all" / "again-d0.5-s0" / "masks.safetensors")
        for output in ("detour", "whole")
    )
    assert all(bool((took[name] == whole[name]).all()) for name in whole)
    magnitude, _, again = rows(folder / "detour.csv")
    assert lasting([magnitude, again]) == lasting(
        [row for row in rows(folder / "table.csv") if row["seed"] == "0" and row["method"] != "dense"]
    )


def test_the_files_of_an_analysis(folder: Path, finished: list[str]) -> None:
    whole = folder / "whole"
    names = {file.name for file in whole.iterdir() if file.is_file() and not file.name.startswith(".")}
    pictures = {f"score-against-density.{ending}" for ending in ("png", "svg")}
    assert names - {"balance.png", "balance.svg"} == {"results.csv", "differences.csv", "summary.md", *pictures}
    assert lasting(rows(whole / "results.csv")) == lasting(rows(folder / "table.csv"))
    differences = rows(whole / "differences.csv")
    assert [(row["method"], row["less"], row["verdict"]) for row in differences] == [
        ("dense", "magnitude", "no claim: 2 paired seeds"),
        ("again", "magnitude", "no claim: 2 paired seeds"),
    ]
    of = {(row["method"], row["seed"]): float(row["accuracy"]) for row in rows(folder / "table.csv")}
    gap = np.mean([of["dense", seed] - of["magnitude", seed] for seed in ("0", "1")])
    assert float(differences[0]["difference"]) == pytest.approx(gap, abs=1e-5)
    text = (whole / "summary.md").read_text()
    assert "2 comparisons in each score" in text
    assert "80% power" in text


def test_checkpoints_are_dropped_and_the_rest_stays(folder: Path, finished: list[str]) -> None:
    run = folder / "whole" / "runs" / "all" / "magnitude-d0.5-s0"
    there = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "masks.safetensors", "weights", "scored.json"} <= there
    assert not there & {"checkpoints", "tensorboard"}


def test_rows_that_exist_are_skipped_even_on_another_machine(folder: Path, finished: list[str]) -> None:
    said: list[str] = []
    before = (folder / "table.csv").read_bytes()
    began = time.perf_counter()
    compare(folder / "study.yaml", output=Path("elsewhere"), say=said.append)
    assert (folder / "table.csv").read_bytes() == before
    assert not (folder / "elsewhere" / "runs").exists()
    assert time.perf_counter() - began < 30
    assert any("6 of 6 runs are finished" in line for line in said)


def test_what_is_chosen_to_run_does_not_narrow_the_analysis(folder: Path, finished: list[str]) -> None:
    files = [folder / "whole" / name for name in ("results.csv", "differences.csv", "summary.md")]
    before = [file.read_bytes() for file in files]
    said: list[str] = []
    for chosen in ({"only": ("again",)}, {"folds": ("all",)}):
        compare(folder / "study.yaml", output=Path("whole"), analyse_only=True, say=said.append, **chosen)
        assert [file.read_bytes() for file in files] == before
    compare(folder / "study.yaml", output=Path("whole"), only=("dense",), dry_run=True, say=said.append)
    assert [line.split(maxsplit=2)[2] for line in said if line.startswith("done")] == [
        "all dense density 1 seed 0",
        "all dense density 1 seed 1",
    ]
    assert any(line.startswith("2 comparisons with magnitude") for line in said)


def test_a_dry_run_says_what_is_missing(folder: Path, finished: list[str]) -> None:
    said: list[str] = []
    compare(folder / "study.yaml", ["seeds=[0,1,2]"], output=Path("whole"), dry_run=True, jobs=1, say=said.append)
    assert sum(line.startswith("done") for line in said) == 6
    assert [line.split(maxsplit=2)[2] for line in said if line.startswith("missing")] == [
        "all dense density 1 seed 2",
        "all magnitude density 0.5 seed 2",
        "all again density 0.5 seed 2",
    ]
    assert any(line.startswith("6 of 9 runs done, 3 to do, about ") for line in said)
    assert any("5 seeds find a difference of" in line for line in said)


def test_what_a_study_can_find_is_told_before_its_first_run(folder: Path, finished: list[str]) -> None:
    said: list[str] = []
    fresh = ["table=none-yet.csv", "screened=table.csv", "seeds=[0,1,2,3,4,5,6,7]"]
    compare(folder / "study.yaml", fresh, output=Path("later"), dry_run=True, say=said.append)
    assert said[-3].startswith("2 comparisons with magnitude in each score, 8 seeds")
    assert said[-2:-1] == ["from the spread between seeds in table.csv:"]
    scores = {(row["method"], int(row["seed"])): float(row["accuracy"]) for row in rows(folder / "table.csv")}
    gaps = [[scores[method, seed] - scores["magnitude", seed] for seed in (0, 1)] for method in ("dense", "again")]
    pooled = float(np.sqrt(np.mean([np.var(each, ddof=1) for each in gaps])))
    least = smallest_detectable(pooled, 8, 2)
    assert said[-1].startswith(f"accuracy: paired SD over seeds {pooled:.3f}; 8 seeds find a difference of {least:.3f}")
    assert not (folder / "later").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [("no-such.csv", "is no file"), ("others.csv", "give methods the names")],
)
def test_a_screening_that_says_nothing_is_refused(folder: Path, finished: list[str], table: str, message: str) -> None:
    (folder / "others.csv").write_text((folder / "table.csv").read_text().replace("magnitude,", "other,"))
    with pytest.raises(SynbbError, match=message):
        compare(folder / "study.yaml", [f"screened={table}", "table=none-yet.csv"], output=Path("later"), dry_run=True)


def test_other_settings_are_another_run_and_their_rows_are_left(folder: Path, finished: list[str]) -> None:
    shutil.copy(folder / "table.csv", folder / "other.csv")
    said: list[str] = []
    changes = ["table=other.csv", "methods.magnitude.scope=network", "seeds=[0]"]
    compare(folder / "study.yaml", changes, output=Path("other"), threads=1, say=said.append)
    found = rows(folder / "other.csv")
    assert found[:6] == [{**row} for row in rows(folder / "table.csv")]
    assert [row["method"] for row in found[6:]] == ["magnitude", "again"]
    assert "2 rows of other.csv were made with other settings and are passed over" in said
    assert any("3 of 3 runs are finished" in line for line in said)


def test_a_lost_row_is_written_again_without_a_run(folder: Path, finished: list[str]) -> None:
    """As after a kill between the end of a run and its row."""
    table = folder / "lost.csv"
    lines = (folder / "table.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("all,dense")]
    table.write_text("".join(kept))
    logs = folder / "whole" / "logs" / "all" / "dense-d1-s0.log"
    before = logs.stat().st_mtime_ns
    compare(folder / "study.yaml", ["table=lost.csv", "seeds=[1]"], output=Path("whole"), say=lambda _: None)
    assert logs.stat().st_mtime_ns == before
    assert lasting(rows(table)) == lasting(
        [row for row in rows(folder / "table.csv") if row["seed"] == "1" or row["method"] != "dense"]
    )


def test_one_that_fails_is_told_once_and_the_others_go_on(folder: Path) -> None:
    said: list[str] = []
    changes = ["run.task=toy_task:Broken", "table=failing.csv"]
    write_study(folder, "failing", **{**STUDY, "methods": {k: v for k, v in METHODS.items() if k != "dense"}})
    with pytest.raises(StudyIncomplete, match="2 of 4 runs failed or could not be begun") as ended:
        compare(folder / "failing.yaml", changes, output=Path("failing"), threads=1, say=said.append)
    assert ended.value.exit_status == 3
    assert [(row["method"], row["seed"]) for row in rows(folder / "failing.csv")] == [
        ("magnitude", "0"),
        ("again", "0"),
    ]
    told = [line for line in said if "failed" in line]
    assert "all magnitude density 0.5 seed 1 failed, exit status 1" in told[0]
    assert "ValueError: the points of seed 1 are lost" in told[0]
    assert "again density 0.5 seed 1: not run, as it needs the masks of all magnitude density 0.5 seed 1" in told[1]


def test_a_task_without_test_data_cannot_be_compared(folder: Path) -> None:
    (folder / "untested.py").write_text(
        "from toy_task import Points\n\n\nclass Untested(Points):\n    def score(self, *_):\n        return None\n"
    )
    said: list[str] = []
    changes = ["run.task=untested:Untested", "table=none.csv", "seeds=[0]", "run.training.steps=10"]
    with pytest.raises(RunEnded):
        compare(folder / "study.yaml", changes, output=Path("none"), only=("dense",), threads=1, say=said.append)
    assert any("has no test data, so methods cannot be compared: add a test split" in line for line in said)


def test_nothing_to_analyse(folder: Path) -> None:
    with pytest.raises(SynbbError, match=r"empty.csv: no run of this study is finished"):
        compare(folder / "study.yaml", ["table=empty.csv"], output=Path("nothing"), analyse_only=True)


def test_two_studies_in_one_folder(folder: Path) -> None:
    (folder / "busy").mkdir()
    with (folder / "busy" / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(SynbbError, match="busy: another synbb compare is at work there"):
            compare(folder / "study.yaml", ["table=busy.csv"], output=Path("busy"))


def test_a_folder_without_locks_is_worked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with _alone(tmp_path / "there"):
        assert (tmp_path / "there").is_dir()


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the study ended before it was stopped"
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_is_a_stop_with_checkpoints(folder: Path, number: signal.Signals) -> None:
    """As ``timeout`` and batch systems send it: to the study, and at the same time to every process of its group."""
    write_study(folder, "slow", **{**STUDY, "methods": {"dense": {"method": "none"}}, "reference": "dense"})
    (folder / "slow_task.py").write_text(
        "import time\nfrom pathlib import Path\n\nfrom toy_task import Points\n\n\nclass Slow(Points):\n"
        "    def loss(self, outputs, batch):\n        Path('stepping').touch()\n        time.sleep(0.5)\n"
        "        return super().loss(outputs, batch)\n"
    )
    (folder / "stepping").unlink(missing_ok=True)
    output = folder / f"group-{number.name}"
    command = [sys.executable, "-m", "synbb", "compare", "slow.yaml", "table=slow.csv", "--output", output.name]
    command += ["run.task=slow_task:Slow", "run.training.checkpoint_every=1000", "seeds=[0]", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        wait_for((folder / "stepping").exists, process)
        time.sleep(1.2)  # a second signal right after the first is the same one, however long the study has run
        process.send_signal(number)
        time.sleep(0.01)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 75, said
    assert f"{number.name}: the runs are stopped" in said
    assert "failed" not in said
    assert "Traceback" not in said
    assert len(list(output.glob("runs/all/*/checkpoints/last.pt"))) == 1


def test_stopped_killed_and_continued_is_the_same_study(folder: Path, finished: list[str]) -> None:
    """SIGTERM while a run trains, then SIGKILL of the study alone while one trains, then to the end."""
    table, output = folder / "killed.csv", folder / "killed"
    command = [sys.executable, "-m", "synbb", "compare", "study.yaml", "table=killed.csv", "--output", "killed"]
    command += ["--jobs", "2", "--threads", "1"]

    def started() -> int:
        """Runs that have begun to train and are not scored."""
        return len(list(output.glob("runs/all/*/metrics.jsonl"))) - len(list(output.glob("runs/all/*/scored.json")))

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    with begin() as process:
        wait_for(started, process)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[0].decode()
        assert process.returncode == 75, said
        assert "SIGTERM: the runs are stopped and what is finished is kept; the same call continues" in said
        assert "Traceback" not in said
    with begin() as process:
        wait_for(lambda: table.exists() and len(rows(table)) >= 2 and started(), process)
        process.kill()
        process.communicate(timeout=120)
    with begin() as process:
        said = process.communicate(timeout=240)[0].decode()
        assert process.returncode == 0, said
    assert lasting(rows(table)) == lasting(rows(folder / "table.csv"))
    for run in (folder / "whole" / "runs" / "all").iterdir():
        one, other = (
            json.loads((f / "scored.json").read_text())["row"] for f in (run, output / "runs" / "all" / run.name)
        )
        assert one["accuracy"] == other["accuracy"]
