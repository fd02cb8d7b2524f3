"""One run of a study, in a process of its own: train, score, and leave a file that says so."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from synbb.errors import SynbbError
from synbb.experiments.diagnostics import diagnostics
from synbb.pruning.resampling import save_resampled
from synbb.pruning.rows import TEXT
from synbb.tasks.base import Task
from synbb.training.checkpoint import load_weights, write_json
from synbb.training.config import RunConfig, run_config
from synbb.training.loop import STOPPING
from synbb.training.run import RunFolder
from synbb.training.start import start_run

SCORED = "scored.json"


@dataclass(frozen=True)
class Job:
    """What a child must know.

    Attributes:
        config: plain settings of the run.
        config_hash: theirs.
        folder: of the run.
        evidence: file for the counts behind the scores.
        log: file for what the run says.
        keep: what stays of it, as in the settings of a study.
        threads: of torch.
        gpu: name of the GPU that is seen, as CUDA_VISIBLE_DEVICES has it; None for those that the environment names.
    """

    config: dict[str, Any]
    config_hash: str
    folder: Path
    evidence: Path
    log: Path
    keep: str
    threads: int
    gpu: str | None = None


def main(job: Job, parent: Connection) -> None:
    """Run ``job``; the exit status is 0, or that of ``synbb train``."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # While data are opened or scored there is nothing that a signal would have to save.
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # blocked since the fork
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    torch.set_num_threads(job.threads)
    logging.getLogger("lightning").setLevel(logging.WARNING)
    status = 0
    try:
        train_and_score(job)
    except SynbbError as error:
        print(f"synbb: {error}", flush=True)  # noqa: T201  standard output is the log
        status = error.exit_status
    if status:
        raise SystemExit(status)


def _end_with(parent: Connection) -> None:
    """End at once when the study's process is gone: whoever continues the study continues this run, too."""
    try:
        parent.recv()
    except EOFError:
        os._exit(1)


def train_and_score(job: Job) -> None:
    """Train, continuing what is there if it has the same settings, then score and clear up."""
    config = run_config(job.config, str(job.folder))
    began, resumed = time.perf_counter(), _prepare(job.folder, config)

    def finish(task: Task, run: RunFolder) -> None:
        seconds = None if resumed else time.perf_counter() - began
        score(job, config, task, run, seconds)

    start_run(config, job.folder, resume=resumed, say=_say, then=finish)
    clear(job.folder, job.keep)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  standard output is the log


def _prepare(folder: Path, config: RunConfig) -> bool:
    """Whether a run with these settings and masks was begun; anything else at its place is removed."""
    if not folder.exists():
        return False
    try:
        begun = RunFolder.open(folder)
        same = begun.config().plain() == config.plain() and not _masks_since(begun, config)
    except SynbbError:
        same = False
    if not same:
        shutil.rmtree(folder)
    return same


def _masks_since(begun: RunFolder, config: RunConfig) -> bool:
    """Whether the masks that a run takes from another one were written after it had begun, so by another training."""
    masks = Path(config.pruning.masks_from or "")
    return masks.is_file() and masks.stat().st_mtime_ns > begun.config_file.stat().st_mtime_ns


def score(job: Job, config: RunConfig, task: Task, run: RunFolder, seconds: float | None) -> None:
    """Score the last weights on the test split; store counts and the values of the row."""
    device = "cuda" if torch.cuda.is_available() and config.training.accelerator != "cpu" else "cpu"
    about = run.weights_info("last")
    began = time.perf_counter()
    net = task.build_model()
    load_weights(run.weights_file("last"), net)
    found = task.score(net.to(device).eval(), device, about.get("decision", {}))
    if found is None:
        raise SynbbError(f"task {config.task!r} has no test data, so methods cannot be compared: add a test split")
    if found.resampled:
        save_resampled(job.evidence, found.resampled, job.config_hash)
    speed = [row["steps_per_second"] for row in run.records("train")]
    row: dict[str, Any] = {"realised_density": about["density"], "main": found.main, **found.scores}
    row |= {f"validation_{name}": value for name, value in about.get("validation", {}).items()}
    row |= diagnostics(run)
    # Settings and their hash do not say it, and rows of two devices are no pairs.
    row["device"] = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    row |= {"steps_per_second": speed[-1] if speed else None, "seconds": seconds}
    row["scoring_seconds"] = time.perf_counter() - began
    _check_numbers(row, config.task)
    write_json(run.path / SCORED, {"config_hash": job.config_hash, "row": row})


def _check_numbers(row: dict[str, Any], task: str) -> None:
    """A table with a text among its scores could not be read again."""
    for name, value in row.items():
        if name not in TEXT and (isinstance(value, bool) or not isinstance(value, int | float | None)):
            raise SynbbError(f"task {task!r} gives {name} = {value!r}: scores are Python's numbers")


def clear(folder: Path, keep: str) -> None:
    """Remove what is not to be kept of a scored run."""
    if keep != "all":
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    if keep == "none":
        shutil.rmtree(folder / "weights", ignore_errors=True)
