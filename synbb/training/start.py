"""From a config file to a trained run."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from synbb.errors import SynbbError
from synbb.tasks.synapse import SynapseTask
from synbb.training.config import RunConfig, load_config
from synbb.training.loop import Progress, Say, train
from synbb.training.run import RunFolder


def make_task(config: RunConfig) -> SynapseTask:
    """The task that a config names; its data are opened by ``prepare``."""
    return SynapseTask(config.data, config.model, seed=config.seed, batch_size=config.training.batch_size)


def start(
    config_file: Path,
    overrides: list[str],
    *,
    output: Path | None,
    resume: bool,
    say: Say,
    progress: Progress | None = None,
) -> RunFolder:
    """Train as a config file says, into a new run folder or, with ``resume``, an existing one.

    Everything that can be wrong with settings and data is found before the folder is made.

    Raises:
        SynbbError: settings or data that do not fit, an existing run without ``resume``, or other settings with it.
        RunEnded: the run had to end.
    """
    folder = output or Path("runs") / config_file.stem
    config = load_config(config_file, overrides)
    # Fabric starts further processes by running the same command again; they find the folder that the first one made.
    joining = int(os.environ.get("LOCAL_RANK", "0")) > 0
    if not resume and not joining and (folder / "config.yaml").exists():
        raise SynbbError(f"{folder} holds a run already: continue it with --resume, or choose another --output")
    if resume:
        _check_same(RunFolder.open(folder).config(), config, folder)
    task = make_task(config)
    try:
        known = RunFolder.open(folder).info().get("data") if resume else None
        for line in task.prepare(known):
            say(line)
        run = RunFolder.open(folder) if resume or joining else RunFolder.create(folder, config)
        if not resume and not joining:
            run.update_info(
                task=config.task,
                data=task.facts(),
                machine={
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "threads": torch.get_num_threads(),
                },
            )
        train(config, task, run, resume=resume, say=say, progress=progress)
    finally:
        task.close()
    return run


def _check_same(stored: RunConfig, given: RunConfig, folder: Path) -> None:
    """A resumed run must be the same run: name the settings that changed."""
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
