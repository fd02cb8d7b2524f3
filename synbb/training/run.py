"""A run's folder: everything that is needed to resume, to predict and to tell what was done.

RUN/
  config.yaml            the settings, defaults included
  run.json               id, versions, machine, what the task keeps of its data, state of the run
  metrics.jsonl          one JSON object a line: training, validation and refresh records with their step
  tensorboard/           the same for TensorBoard
  checkpoints/last.pt    weights, optimiser, scheduler, pruner: what --resume reads
  weights/last.safetensors, best.safetensors   with a .json each: step, scores, decision, realised density
  pruning.json           the pruning report after the last validation
"""

from __future__ import annotations

import json
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from synbb import __version__
from synbb.errors import SynbbError
from synbb.schema import validated
from synbb.training.checkpoint import file_sha256, read_json, write_atomically, write_json
from synbb.training.config import RunConfig

WEIGHTS = ("last", "best")


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> RunFolder:
        """A new folder for ``config``.

        Raises:
            SynbbError: there is a run, or anything else, at ``path``.
        """
        run = cls(path)
        if run.config_file.exists():
            raise SynbbError(f"{path} holds a run already: continue it with --resume, or choose another --output")
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise SynbbError(f"{path} exists and is no run folder: choose another --output")
        run.path.mkdir(parents=True, exist_ok=True)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(
            run.path / "run.json",
            {"schema_version": 1, "id": uuid.uuid4().hex[:12], "synbb": __version__, "created": created},
        )
        text = yaml.safe_dump(config.plain(), sort_keys=False, width=120)
        write_atomically(run.config_file, lambda beside: _write(beside, text))
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run.

        Raises:
            SynbbError: there is none at ``path``.
        """
        run = cls(path)
        if not run.config_file.is_file():
            raise SynbbError(f"{path} is no run folder: it has no config.yaml (synbb train makes one)")
        return run

    @property
    def config_file(self) -> Path:
        """Settings of the run."""
        return self.path / "config.yaml"

    @property
    def checkpoint_file(self) -> Path:
        """What ``--resume`` reads."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def metrics_file(self) -> Path:
        """Records of the run, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def weights_file(self, which: str) -> Path:
        """Weights ``last`` or ``best``."""
        return self.path / "weights" / f"{which}.safetensors"

    def config(self) -> RunConfig:
        """The settings.

        Raises:
            SynbbError: the file is damaged or of another version.
        """
        values = yaml.safe_load(self.config_file.read_text())
        return validated(RunConfig, values, str(self.config_file))

    def info(self) -> dict[str, Any]:
        """What ``run.json`` holds."""
        return read_json(self.path / "run.json")

    def update_info(self, **values: Any) -> None:
        """Add to ``run.json``."""
        write_json(self.path / "run.json", {**self.info(), **values})

    def weights_info(self, which: str) -> dict[str, Any]:
        """Step, scores, decision, density and finality of weights ``which``, with their SHA-256.

        Raises:
            SynbbError: the run has no such weights yet.
        """
        file = self.weights_file(which)
        if not file.is_file():
            there = [name for name in WEIGHTS if self.weights_file(name).is_file()]
            has = f"it has {' and '.join(there)}" if there else "it has none: train it first"
            raise SynbbError(f"{self.path}: no weights {which!r}; {has}")
        return {**read_json(file.with_suffix(".json")), "sha256": file_sha256(file)}

    def pruning_report(self) -> dict[str, Any]:
        """The report written at the last validation.

        Raises:
            SynbbError: the run was not pruned, or has not got that far.
        """
        if not (self.path / "pruning.json").is_file():
            raise SynbbError(
                f"{self.path} has no pruning report: pruning.method is none, or no validation has come yet"
            )
        return read_json(self.path / "pruning.json")

    def drop_metrics_after(self, step: int) -> None:
        """Forget records of steps that a resumed run will repeat, and a torn last line."""
        if not self.metrics_file.exists():
            return
        kept = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a kill cut off
            if record["step"] <= step:
                kept.append(line)
        write_atomically(self.metrics_file, lambda beside: _write(beside, "".join(f"{line}\n" for line in kept)))

    def record(self, **values: Any) -> None:
        """Append one record to the metrics file."""
        with self.metrics_file.open("a") as handle:
            handle.write(json.dumps(values) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def records(self, kind: str) -> list[dict[str, Any]]:
        """All records of a kind (``train``, ``validation``, ``refresh``), oldest first."""
        if not self.metrics_file.exists():
            return []
        rows = [json.loads(line) for line in self.metrics_file.read_text().splitlines() if line.endswith("}")]
        return [row for row in rows if row["kind"] == kind]


def _write(path: Path, text: str) -> None:
    path.write_text(text)
