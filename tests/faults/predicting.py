"""Processes that predict, for the tests that kill them."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import predict_process
import pytest

from synbb.inference.ledger_lines import ledger_path, workers_folder
from synbb.volumes.opening import open_volume

SHAPE = (7, 30, 37)
BLOCKS = 4 * 4 * 5


@dataclass
class Predicting:
    """A process that predicts, and what it says."""

    process: BaseProcess
    log: Path

    def end(self) -> Predicting:
        """Wait for the end."""
        self.process.join(240)  # importing takes its time on a busy machine
        assert not self.process.is_alive(), "it hangs"
        return self

    @property
    def status(self) -> int | None:
        return self.process.exitcode

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def computed(self) -> list[int]:
        """Numbers of the blocks that were read for the network."""
        return [int(line.split()[1]) for line in self.text.splitlines() if line.startswith("computed")]


def start(raw: Path, output: Path, pause: float = 0.0, **options: Any) -> Predicting:
    """A new process, forked from one that has done nothing but import (importing takes seconds)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["synbb.inference.predictor"])
    log = output.with_name(f"log-{time.monotonic_ns()}")
    log.touch()
    process = context.Process(
        target=predict_process.main, args=(str(raw), str(output), str(log), pause), kwargs=options
    )
    process.start()
    return Predicting(process, log)


def run(raw: Path, output: Path, **options: Any) -> Predicting:
    """Predict to the end."""
    return start(raw, output, **options).end()


def voxels(output: Path) -> np.ndarray:
    """All that was written."""
    stored = open_volume(str(output))
    return stored.read(stored.box)


def wait_for_marks(predicting: Predicting, output: Path, count: int) -> None:
    """Until so many blocks are marked."""
    until = time.monotonic() + 120
    while predicting.process.is_alive() and time.monotonic() < until:
        if marked(output) >= count:
            return
        time.sleep(0.005)
    pytest.fail(f"{count} blocks were never marked: {predicting.text}")


def marked(output: Path) -> int:
    """Marks in all files, read as text: they may be half written."""
    files = [ledger_path(output), *workers_folder(output).glob("marks-*.jsonl")]
    return sum(file.read_bytes().count(b'"block"') for file in files if file.exists())
