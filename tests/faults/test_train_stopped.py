"""Training that is killed, stopped or out of disk goes on as if nothing had happened, bit by bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import write_config, write_pair
from training_processes import Processes, assert_same_weights, processes

from synbb.training import RunFolder

STEPS = 40
# Warm-up to step 6, ramp to step 30, masks chosen anew every 3 steps: at 9, 12, ... 30. Checkpoints at 7, 14, ...;
# validation, which re-estimates norm statistics, at 16, 32 and 40. Everything random is on.
SETTINGS = {
    "training__steps": STEPS,
    "training__validate_every": 16,
    "training__checkpoint_every": 7,
    "training__loader_threads": 3,
    "training__prefetch": 4,
    "training__learning_rate": 0.03,
    "pruning__refresh": 3,
    "pruning__warmup": 0.15,
    "pruning__ramp": 0.6,
    "pruning__connection": "weight",
    "data__augment": {"flip": 0.5, "misalignment": 0.5, "missing_section": 0.5, "section_contrast": 0.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stopped")
    write_pair(made)
    write_config(made, **SETTINGS)
    return made


@pytest.fixture(scope="module")
def synbb(folder: Path) -> Iterator[Processes]:
    with processes(folder) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(folder: Path, synbb: Processes) -> Path:
    assert synbb("train", folder / "tiny.yaml", "--output", folder / "undisturbed") == 0, synbb.said
    return folder / "undisturbed"


def regrowths(run: Path, after: int) -> int:
    """Choices of masks after a step in which connections came back."""
    return sum(row["churn"] > 0 for row in RunFolder(run).records("refresh") if row["step"] > after)


@pytest.mark.parametrize(
    ("steps", "when", "resumed"),
    [
        ([11], "after", 7),  # inside the ramp, between refreshes, between checkpoints
        ([17], "inside", 16),
        ([14], "writing", 7),  # the checkpoint of step 14 is written and not yet renamed
        ([3, 12, 19], "after", 16),  # before the first checkpoint, on a refresh, and again
    ],
)
def test_killed_and_resumed_is_bit_identical(
    folder: Path, synbb: Processes, undisturbed: Path, steps: list[int], when: str, resumed: int
) -> None:
    run = folder / f"killed-{when}-{'-'.join(map(str, steps))}"
    resume: list[str] = []
    for step in steps:
        status = synbb(
            "train", folder / "tiny.yaml", "--output", run, *resume, signal=int(signal.SIGKILL), step=step, when=when
        )
        assert status == -signal.SIGKILL, synbb.said
        resume = ["--resume"]
    assert synbb("train", folder / "tiny.yaml", "--output", run, *resume) == 0, synbb.said
    assert f"resuming after step {resumed} of {STEPS}" in synbb.said
    assert_same_weights(run, undisturbed)
    assert regrowths(run, resumed) >= 2
    assert RunFolder(run).records("refresh") == RunFolder(undisturbed).records("refresh")
    assert RunFolder(run).records("validation") == RunFolder(undisturbed).records("validation")
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_finishes_the_step_and_checkpoints(
    folder: Path, synbb: Processes, undisturbed: Path, number: signal.Signals
) -> None:
    run = folder / number.name
    arguments = ("train", folder / "tiny.yaml", "--output", run)
    assert synbb(*arguments, signal=int(number), step=18, when="inside") == 75
    assert f"{number.name} after step 18 of 40: checkpoint written, continue with --resume" in synbb.said
    assert "Traceback" not in synbb.said
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 18
    assert synbb(*arguments, "--resume") == 0
    assert "resuming after step 18 of 40" in synbb.said
    assert_same_weights(run, undisturbed)
    assert regrowths(run, 18) >= 2


def test_a_signal_in_the_last_step_changes_nothing(folder: Path, synbb: Processes, undisturbed: Path) -> None:
    run = folder / "late"
    arguments = ("train", folder / "tiny.yaml", "--output", run)
    assert synbb(*arguments, signal=int(signal.SIGTERM), step=STEPS, when="inside") == 0
    assert_same_weights(run, undisturbed)


def test_a_full_disk_while_training(folder: Path, synbb: Processes, undisturbed: Path) -> None:
    size = (undisturbed / "checkpoints" / "last.pt").stat().st_size
    weights = (undisturbed / "weights" / "last.safetensors").stat().st_size
    run = folder / "full"
    arguments = ("train", folder / "tiny.yaml", "--output", run)
    # Enough for weights and records, too little for a checkpoint with optimiser and pruner.
    assert weights < 0.6 * size
    assert synbb(*arguments, signal=int(signal.SIGUSR1), step=8, when="after") == 75
    before = (run / "checkpoints" / "last.pt").read_bytes()
    assert synbb(*arguments, "--resume", largest_file=int(0.7 * size)) == 3
    assert "last.pt: the disk (or its quota) is full" in synbb.said
    assert "--resume" in synbb.said
    assert "Traceback" not in synbb.said
    assert (run / "checkpoints" / "last.pt").read_bytes() == before
    assert not list(run.rglob("*.tmp"))
    assert synbb(*arguments, "--resume") == 0
    assert_same_weights(run, undisturbed)


def test_a_disk_full_from_the_start_leaves_no_folder(folder: Path, synbb: Processes, undisturbed: Path) -> None:
    run = folder / "fullest"
    largest = (undisturbed / "run.json").stat().st_size - 1  # what is said goes into a file, too, but is shorter
    assert synbb("train", folder / "tiny.yaml", "--output", run, largest_file=largest) == 3, synbb.said
    assert "full" in synbb.said
    assert "Traceback" not in synbb.said
    assert not run.exists()


def test_records_that_do_not_fit_the_disk(folder: Path, synbb: Processes) -> None:
    run = folder / "records"
    arguments = ("train", folder / "tiny.yaml", "--output", run)
    config = (folder / "undisturbed" / "config.yaml").stat().st_size
    status = synbb(*arguments, "training.validate_every=40", "training.checkpoint_every=40", largest_file=config + 400)
    assert status == 3, synbb.said
    assert "is full" in synbb.said
    assert "Traceback" not in synbb.said
    for line in (run / "metrics.jsonl").read_text().splitlines()[:-1]:
        json.loads(line)
