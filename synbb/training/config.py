"""The settings of a run: YAML, dotted overrides, defaults, and errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from synbb.errors import SynbbError
from synbb.schema import Settings, validated
from synbb.tasks.synapse import SynapseData, UnetSettings
from synbb.training.pruning import PruningSettings

Positive = Annotated[int, Field(gt=0)]


class TrainingSettings(Settings):
    """How the network is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: patches of a step, summed over devices.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW, decoupled.
        warmup: share of the steps in which the learning rate rises.
        gradient_clip: largest norm of the gradient; 0 switches clipping off.
        precision: ``32-true``, ``bf16-mixed``, or ``auto`` (bf16 on a GPU that has it, else 32 bit).
        accelerator: ``auto`` takes a GPU when there is one.
        devices: how many of them; ``auto`` all GPUs, or one process on the CPU.
        validate_every: steps between two validations; the last step is always validated.
        checkpoint_every: steps between two checkpoints.
        calibration_patches: uniform, unaugmented patches that re-estimate batch-norm statistics before validation.
        loader_threads: threads that cut and augment patches.
        prefetch: steps prepared ahead.
    """

    steps: Positive = 2000
    batch_size: Positive = 4
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.15
    gradient_clip: Annotated[float, Field(ge=0)] = 5.0
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Positive | Literal["auto"] = "auto"
    validate_every: Positive = 250
    checkpoint_every: Positive = 100
    calibration_patches: Annotated[int, Field(ge=50)] = 64
    loader_threads: Positive = 1
    prefetch: Positive = 8


class RunConfig(Settings):
    """All settings of a run.

    Attributes:
        task: what is learned; ``synapse`` finds synapses in EM volumes.
        seed: of weights, patches, augmentation and random masks; one seed reproduces a run on one machine.
        data: where the volumes are and how they are sampled.
        model: the network.
        training: how it is trained.
        pruning: how it is pruned.
    """

    task: Literal["synapse"] = "synapse"
    seed: Annotated[int, Field(ge=0)] = 0
    data: SynapseData
    model: UnetSettings
    training: TrainingSettings = TrainingSettings()
    pruning: PruningSettings = PruningSettings()

    def plain(self) -> dict[str, Any]:
        """All settings, defaults included, as plain values for YAML and JSON."""
        return self.model_dump(mode="json")


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read a config file and apply ``key=value`` overrides with dotted keys.

    Values are read as YAML: ``pruning.density=0.1``, ``data.patch=[8,128,128]``, ``data.volumes.0.weight=2``.

    Raises:
        SynbbError: the file is missing or no YAML mapping, an override is malformed, or a key or value is wrong.
    """
    return validated(RunConfig, read_mapping(path, overrides), str(path))


def read_mapping(
    path: str | Path, overrides: list[str] | tuple[str, ...] = (), keys: str = "task, data, model, training, pruning"
) -> dict[str, Any]:
    """The mapping in a YAML file, overrides applied.

    Args:
        path: of the file.
        overrides: ``key=value`` with dotted keys.
        keys: what the mapping holds, for the message.

    Raises:
        SynbbError: the file is missing or no YAML mapping, or an override is malformed.
    """
    file = Path(path)
    if not file.is_file():
        raise SynbbError(f"config {path}: no such file; see configs/ for examples")
    try:
        values = _unshared(yaml.safe_load(file.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SynbbError(f"config {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise SynbbError(f"config {path} must be a mapping of keys ({keys})")
    for override in overrides:
        _override(values, override)
    return values


def _unshared(value: Any) -> Any:
    """A copy in which what YAML aliases share is there several times, so that an override changes one place."""
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SynbbError(f"override {text!r} is not of the form key=value, for example pruning.density=0.1")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SynbbError(f"override {text!r}: the value is not valid YAML: {error}") from None
    set_key(values, key, parsed, f"override {text!r}")


def set_key(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key of nested mappings and lists; missing mappings are made.

    Raises:
        SynbbError: a part of the key is no key or position; the message begins with ``where``.
    """
    *parents, last = key.split(".")
    place: Any = values
    for depth, part in enumerate(parents):
        if isinstance(place, list):
            place = place[_index(place, part, where)]
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            raise SynbbError(f"{where}: {'.'.join(parents[:depth])} holds no keys")
    if isinstance(place, list):
        place[_index(place, last, where)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise SynbbError(f"{where}: {'.'.join(parents)} holds no keys")


def _index(place: list[Any], part: str, where: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise SynbbError(f"{where}: {part!r} is no position in a list of {len(place)} (0 to {len(place) - 1})")
    return int(part)
