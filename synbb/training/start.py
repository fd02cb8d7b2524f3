"""From a config file to a trained run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from synbb.errors import RunEnded, SynbbError
from synbb.models.processor import EMULATED, emulates_bf16, leave_amx_alone
from synbb.tasks.base import Task
from synbb.tasks.registry import find_task
from synbb.training.config import RunConfig, load_config
from synbb.training.loop import Progress, Say, train
from synbb.training.pruning import make_pruner
from synbb.training.run import RunFolder
from synbb.training.session import keeps_masks


def make_task(config: RunConfig) -> Task:
    """The task that a config names; its data are opened by ``prepare``.

    Raises:
        SynbbError: there is no such task, or its settings do not fit each other.
    """
    make = find_task(config.task).make
    return make(config.data, config.model, seed=config.seed, batch_size=config.training.batch_size)


def start(
    config_file: Path,
    overrides: list[str],
    *,
    output: Path | None,
    resume: bool,
    say: Say,
    progress: Progress | None = None,
) -> RunFolder:
    """Train as a config file says; see :func:`start_run`. The folder is runs/<name of the file> by default."""
    folder = output or Path("runs") / config_file.stem
    return start_run(load_config(config_file, overrides), folder, resume=resume, say=say, progress=progress)


def start_run(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool,
    say: Say,
    progress: Progress | None = None,
    then: Callable[[Task, RunFolder], None] | None = None,
) -> RunFolder:
    """Train as ``config`` says, into a new run folder or, with ``resume``, an existing one.

    Everything that can be wrong with settings and data is found before the folder is made. With several devices this
    is called in each process; :func:`leads` tells which one goes on afterwards.

    Args:
        config: the settings.
        folder: of the run.
        resume: continue an interrupted run.
        say: prints a line for a person.
        progress: called after each step.
        then: called with the prepared task and the trained run, by the first process.

    Raises:
        SynbbError: settings or data that do not fit, an existing run without ``resume``, or other settings with it.
        RunEnded: the run had to end.
    """
    joining = not leads()  # the folder is there then
    tell = _nothing if joining else say
    if resume:
        _check_same(RunFolder.open(folder).config(), config, folder)
    elif not joining:
        RunFolder.check_free(folder)
    if _bf16_on_cpu(config) and leave_amx_alone():
        tell(
            f"training.precision={config.training.precision}: AMX is left alone, as training with it can end the "
            "process (docs/performance.md); a step takes about as long as in 32 bits"
        )
    task = make_task(config)
    try:
        for line in _prepared(task, config, folder, resume=resume):
            tell(line)
        for line in _warnings(config):
            tell(line)
        made = not (resume or joining)
        run = _create(folder, config, task) if made else RunFolder.open(folder)
        try:
            train(config, task, run, resume=resume, say=tell, progress=None if joining else progress)
            tell(f"run folder: {run.path}")
        except RunEnded:
            # What all processes end for, the first one says for all.
            if not joining:
                raise
        except Exception:
            if made and not run.checkpoint_file.exists():  # nothing was trained that could be continued
                shutil.rmtree(run.path, ignore_errors=True)
            raise
        if then is not None and not joining:
            then(task, run)
    finally:
        task.close()
    return run


def _prepared(task: Task, config: RunConfig, folder: Path, *, resume: bool) -> list[str]:
    """Open the data; lines that tell of them, and of what the run begins with."""
    if resume:
        return task.prepare(RunFolder.open(folder).data_facts())
    if config.training.start_from is None:
        return task.prepare()
    source = RunFolder.open(config.training.start_from)
    theirs = source.config().task
    if theirs != config.task:
        raise SynbbError(
            f"training.start_from: {source.path} is a run of task {theirs!r}, and this one is of {config.task!r}; name "
            "a run of the same task"
        )
    task.begin_with(source.data_facts())
    lines = task.prepare()
    if keeps_masks(config, source):
        lines.append(
            f"the masks of {source.path} are held, and pruning.method={config.pruning.method} and its density have no "
            "effect: pruning.masks=reopen or dense lets it choose"
        )
    return lines


def leads() -> bool:
    """Whether this is the first process of a run.

    Fabric starts those of further devices by running the same command again.
    """
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def _create(folder: Path, config: RunConfig, task: Task) -> RunFolder:
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    facts = task.facts()
    try:
        json.dumps(facts)
    except (TypeError, ValueError) as error:
        raise SynbbError(f"task {config.task}: facts() must be plain values that JSON can hold ({error})") from None
    return RunFolder.create(folder, config, task=config.task, data=facts, machine=machine)


def _warnings(config: RunConfig) -> list[str]:
    """What is allowed and seldom meant."""
    found = []
    jumps = _jumps(config)
    if 0 < jumps < 4:
        found.append(
            f"the density falls in few jumps, {jumps}: masks are chosen every {config.pruning.refresh} steps; lower "
            "pruning.refresh or train for more steps"
        )
    if _bf16_on_cpu(config) and emulates_bf16():
        stated = f"training.precision={config.training.precision}"
        found.append(f"{stated}: {EMULATED}; training.precision=32-true avoids that")
    return found


def _jumps(config: RunConfig) -> int:
    """How many choices of masks bring the density down; 0 where nothing falls."""
    start = config.training.start_from
    if start is not None and keeps_masks(config, RunFolder(start)):
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pruner that trains will say it
        pruner = make_pruner(config.pruning, config.training.steps, config.seed)
    return 0 if pruner is None else pruner.schedule.falls


def _bf16_on_cpu(config: RunConfig) -> bool:
    on_cpu = config.training.accelerator == "cpu" or not torch.cuda.is_available()
    return on_cpu and config.training.precision.startswith("bf16")


def _nothing(_: str) -> None:
    """Say nothing."""


def _check_same(stored: RunConfig, given: RunConfig, folder: Path) -> None:
    """A resumed run must be the same run: name the settings that changed."""
    if stored.task != given.task:
        raise SynbbError(
            f"{folder} holds a run of task {stored.task!r}, and this config is of task {given.task!r}: choose another "
            "--output"
        )
    changed = _differences(stored.plain(), given.plain(), "")
    if changed:
        raise SynbbError(
            f"{folder} was begun with other settings: {'; '.join(changed)}. Resume with the same settings, or start "
            "a new run in another --output"
        )


def _differences(old: object, new: object, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{key}.{k}" if key else k)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in _differences(a, b, f"{key}.{i}")]
    return [] if old == new else [f"{key} was {old!r}, is {new!r}"]
