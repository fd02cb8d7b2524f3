"""What the pipelines share: stages that are skipped when they are current, datasets, training that goes on."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from synbb.cli.console import console, errors, progress
from synbb.datasets import fetch
from synbb.datasets.ordering import files_below
from synbb.errors import SynbbError
from synbb.evaluation.run_report import in_words
from synbb.prediction import evaluate_run, predict_files
from synbb.training import RunConfig, leads, load_config, start
from synbb.training.checkpoint import file_sha256, read_json, write_json

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, dotted keys.")
]
RunFolder = Annotated[Path | None, typer.Option(help="Folder of the run; runs/<name of the config> by default.")]
Datasets = Annotated[Path, typer.Option(help="Folder of all datasets.")]


DATA = "data of the training"


class Stages:
    """What was done before: a fingerprint of each stage's inputs, kept in one JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def run(
        self,
        name: str,
        inputs: dict[str, Any],
        outputs: list[Path],
        work: Callable[[], object],
        afresh: Callable[[], object] | None = None,
    ) -> bool:
        """Do ``work`` unless its inputs are unchanged and its outputs are there; tell whether it was done.

        Args:
            name: of the stage.
            inputs: all that its outputs depend on.
            outputs: files and folders that it makes.
            work: makes them.
            afresh: called first where outputs were begun with other inputs, for work that would continue them.
        """
        done = self.kept()
        mark = fingerprint(inputs)
        begun = done.get(f"{name}, begun", mark)
        if done.get(name) == begun == mark and all(path.exists() for path in outputs):
            console.print(f"{name}: current")
            return False
        console.rule(name, align="left")
        if afresh is not None:
            if begun != mark:
                afresh()
            self.keep(f"{name}, begun", mark)
        work()
        self.keep(name, mark)
        return True

    def kept(self) -> dict[str, Any]:
        """All that is on record."""
        return read_json(self._file) if self._file.is_file() else {}

    def keep(self, name: str, value: Any) -> None:
        """Put on record."""
        write_json(self._file, {**self.kept(), name: value})


def fingerprint(inputs: dict[str, Any]) -> str:
    """Another one for other inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def settings_of(config: Path, overrides: list[str] | None, task: str) -> RunConfig:
    """The settings of a run, which must be of the pipeline's task.

    Raises:
        SynbbError: they are wrong, or of another task.
    """
    settings = load_config(config, overrides or [])
    if settings.task != task:
        raise SynbbError(f"{config} is of task {settings.task!r}: run it with pipelines/{settings.task}.py")
    return settings


def get_dataset(name: str, to: Path) -> None:
    """Fetch a dataset from local files where they are, else from upstream."""
    local = Path(os.environ.get("SYNBB_SOURCES", "../shared/data")) / name
    with progress(f"fetching {name}") as bar:
        found = fetch(name, source=local if local.is_dir() else None, to=to, progress=bar)
    console.print(f"fetch {name}: {'current' if found.current else 'done'}, {found.folder}", markup=False)


def train(
    stages: Stages,
    settings: RunConfig,
    sources: Iterable[Path],
    config: Path,
    overrides: list[str] | None,
    run: Path,
) -> None:
    """Train unless that is done. Where ``sources``, the data, have changed since it began, this is told, no more."""
    new, now = not (run / "config.yaml").is_file(), {str(source): fingerprint(stamps([source])) for source in sources}
    before = stages.kept().get(DATA, now)
    changed = [source for source, mark in now.items() if before.get(source) != mark]
    if changed:
        say(
            f"{', '.join(changed)}: changed since the training began, which is not repeated for that; remove {run}, or "
            "choose another --output, to train on what is there now"
        )
    try:
        stages.run(
            "train",
            settings.plain(),
            [run / "weights/last.safetensors"],
            lambda: start_or_resume(config, overrides, run),
        )
    finally:
        if new and leads() and (run / "config.yaml").is_file():  # also of a training that was stopped
            stages.keep(DATA, now)


def start_or_resume(config: Path, overrides: list[str] | None, run: Path) -> None:
    """Train from scratch, or go on where an earlier call stopped."""
    with progress("training", "steps") as bar:
        start(
            config,
            overrides or [],
            output=run,
            resume=(run / "config.yaml").is_file(),
            say=say,
            progress=bar,
        )
    if not leads():  # a process that training started for a further device: the rest is done once
        sys.exit(0)


def stamps(sources: Iterable[Path]) -> dict[str, list[int]]:
    """Sizes and times of change of files, and of all below folders: what tells that a source is another one."""
    found = {}
    for source in sources:
        there = files_below(source) if source.is_dir() else [source] if source.exists() else []
        for file in there:
            stat = file.lstat()
            found[str(file)] = [stat.st_size, stat.st_mtime_ns]
    return found


def evaluate(stages: Stages, run: Path, sources: Iterable[Path]) -> Callable[[], None]:
    """Score the last weights on the test split; returns what tells the main figure.

    Args:
        stages: what was done before.
        run: folder of the run.
        sources: the data, those of training among them, which scores go by too.
    """
    scores = run / "evaluation"
    fresh = stages.run(
        "evaluate",
        {"weights": file_sha256(run / "weights/last.safetensors"), "sources": stamps(sources)},
        [scores / "scores.json", scores / "report.html"],
        lambda: evaluate_run(run, scores, say=say),
    )

    def tell() -> None:
        found = read_json(scores / "scores.json")
        figure = found["scores"][found["main"]]
        say(f"{in_words(found['main'])} {figure['value']:.3f}{'' if fresh else ' (scored before)'}")
        say(f"report  {scores / 'report.html'}")

    return tell


def by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders by their names, with those of the folders above them where several have the same."""
    apart: dict[Path, Path] = {}
    for folder in folders:
        apart.setdefault(Path(os.path.abspath(folder)), folder)  # noqa: PTH100 (a link keeps its own name)
    names = {}
    for place, folder in apart.items():
        same = [other.parts for other in apart if other.name == place.name and other != place]
        depth = next(n for n in count(1) if all(other[-n:] != place.parts[-n:] for other in same))
        names["-".join(place.parts[-depth:])] = folder
    return names


def predict(stages: Stages, run: Path, name: str, source: Path, table: Path) -> None:
    """Predict the files of ``source`` into a table."""
    stages.run(
        name,
        {"weights": file_sha256(run / "weights/last.safetensors"), "source": stamps([source])},
        [table],
        lambda: predict_files(run, source, table, overwrite=True, say=say),
    )


def say(line: str) -> None:
    """Print one line as it is."""
    console.print(line, markup=False)


def call(main: Callable[..., None]) -> None:
    """Run a pipeline's ``main`` as a command: a user's mistake is one clear line."""
    try:
        typer.run(main)
    except SynbbError as error:
        errors.print(f"synbb: {error}", markup=False)
        sys.exit(error.exit_status)
