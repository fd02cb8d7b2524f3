"""A run's folder: everything that is needed to resume, to predict and to tell what was done.

RUN/
  config.yaml            the settings, defaults included
  run.json               id, versions, machine, what the task keeps of its data, state of the run
  metrics.jsonl          one JSON object a line: training, validation and refresh records with their step
  tensorboard/           the same for TensorBoard
  checkpoints/last.pt    weights, optimiser, scheduler, pruner: what --resume reads
  weights/last.safetensors, best.safetensors   with a .json each: step, scores, decision, realised density
  pruning.json           the pruning report after the last validation
  masks.safetensors      the masks of the last weights; balance.csv beside: on-rate and degree of every unit
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from synbb import __version__
from synbb.errors import SynbbError, disk_errors, make_folder
from synbb.places import RUN_CONFIG, run_at
from synbb.pruning.degrees import balance_table
from synbb.pruning.masks import masks_as_bytes
from synbb.training.checkpoint import (
    RESUME,
    file_sha256,
    read_json,
    save_weights,
    write_atomically,
    write_json,
)
from synbb.training.config import RunConfig, stored_config
from synbb.yaml_text import read_yaml

if TYPE_CHECKING:
    from torch import nn

    from synbb.pruning import Pruner

WEIGHTS = ("last", "best")


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: RunConfig, **facts: Any) -> RunFolder:
        """A new folder for ``config``, made beside and renamed, so that a run folder is never half there.

        Args:
            path: of the folder; an empty one may be there.
            config: the settings.
            facts: for ``run.json``, beside id, version and date.

        Raises:
            SynbbError: there is a run, or anything else, at ``path``.
            RunEnded: the disk is full.
        """
        cls.check_free(path)
        where = Path(path)
        with disk_errors(where):
            make_folder(where.parent)
            beside = where.with_name(f".{where.name}.{os.getpid()}.tmp")
            beside.mkdir()
        try:
            run = cls(beside)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            about = {"schema_version": 1, "id": uuid.uuid4().hex[:12], "synbb": __version__, "created": created}
            write_json(beside / "run.json", {**about, **facts})
            text = yaml.safe_dump(config.plain(), sort_keys=False, width=120)
            write_atomically(run.config_file, text.encode())
            beside.rename(where)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        return cls(path)

    @classmethod
    def check_free(cls, path: str | Path) -> None:
        """Make sure that a new run may be made at ``path``.

        Raises:
            SynbbError: there is a run, or anything else.
        """
        run = cls(path)
        if run.config_file.exists():
            raise SynbbError(f"{path} holds a run already: continue it with --resume, or choose another --output")
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise SynbbError(f"{path} exists and is no run folder: choose another --output")
        if not run.path.name:  # a run is made beside its place and moved there
            raise SynbbError(f"--output {path} is the current folder: name a folder of its own for the run")

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run.

        Raises:
            SynbbError: there is none at ``path``.
        """
        return cls(run_at(path))

    @property
    def config_file(self) -> Path:
        """Settings of the run."""
        return self.path / RUN_CONFIG

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
        values = read_yaml(self.config_file, f"{self.config_file} is damaged: it")
        return stored_config(values, str(self.config_file))

    def info(self) -> dict[str, Any]:
        """What ``run.json`` holds.

        Raises:
            SynbbError: the file is missing or damaged.
        """
        return read_json(self.path / "run.json")

    def data_facts(self) -> dict[str, Any]:
        """What the task keeps of the data that the run was trained on.

        Raises:
            SynbbError: ``run.json`` is missing, damaged or without them.
        """
        facts = self.info().get("data")
        if not isinstance(facts, dict):
            raise SynbbError(f"{self.path / 'run.json'} is damaged: it says nothing of the data")
        return facts

    def store_weights(self, which: str, net: nn.Module, about: dict[str, Any]) -> None:
        """Store weights ``which`` with what is to be known of them.

        Raises:
            RunEnded: the disk is full.
        """
        file = self.weights_file(which)
        save_weights(file, net)
        write_json(file.with_suffix(".json"), {**about, "sha256": file_sha256(file)})

    @property
    def masks_file(self) -> Path:
        """Masks of the weights ``last``."""
        return self.path / "masks.safetensors"

    def store_masks(self, pruner: Pruner) -> None:
        """Store the masks, and on-rate and degree of every unit.

        Raises:
            RunEnded: the disk is full.
        """
        write_atomically(self.masks_file, masks_as_bytes(pruner.masks))
        write_atomically(self.path / "balance.csv", balance_table(pruner).encode())

    def weights_info(self, which: str) -> dict[str, Any]:
        """Step, scores, decision, density and finality of weights ``which``, with their SHA-256.

        Raises:
            SynbbError: the run has no such weights yet, or they are not those that the JSON beside describes.
        """
        file = self.weights_file(which)
        if not file.is_file():
            there = [name for name in WEIGHTS if self.weights_file(name).is_file()]
            has = f"it has {' and '.join(there)}" if there else "it has none: train it first"
            raise SynbbError(f"{self.path}: no weights {which!r}; {has}")
        about = read_json(file.with_suffix(".json"))
        if about.get("sha256") != file_sha256(file):
            raise SynbbError(
                f"{file} is damaged, or the run was stopped while it was written: continue it with synbb train --resume"
            )
        return about

    def pruning_report(self) -> dict[str, Any]:
        """The report written at the last validation.

        Raises:
            SynbbError: the run has not got that far, or its network has no units.
        """
        if not (self.path / "pruning.json").is_file():
            raise SynbbError(
                f"{self.path} has no pruning report: no validation has come yet, or no units were found in its network"
            )
        return read_json(self.path / "pruning.json")

    def drop_metrics_after(self, step: int) -> None:
        """Forget records of steps that a resumed run will repeat, and a torn last line."""
        if not self.metrics_file.exists():
            return
        kept = [json.dumps(row) + "\n" for row in self._rows() if row["step"] <= step]
        write_atomically(self.metrics_file, "".join(kept).encode())

    def record(self, **values: Any) -> None:
        """Append one record to the metrics file.

        Raises:
            RunEnded: the disk is full.
        """
        with disk_errors(self.metrics_file, RESUME), self.metrics_file.open("a") as handle:
            handle.write(json.dumps(values) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def records(self, kind: str) -> list[dict[str, Any]]:
        """All records of a kind (``train``, ``validation``, ``refresh``, ``pruning``), oldest first."""
        return [row for row in self._rows() if row["kind"] == kind]

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.metrics_file.read_text().splitlines() if self.metrics_file.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # the line that a kill or a full disk cut off
        return rows
