"""The settings of a run: YAML, dotted overrides, defaults, and errors that name the key."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import Field, create_model

from synbb.errors import SynbbError
from synbb.places import config_at
from synbb.schema import Settings, validated
from synbb.tasks.registry import find_task
from synbb.training.pruning import PruningSettings
from synbb.yaml_text import parse_yaml, read_yaml

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy's and Lightning's generators take
DEFAULT_TASK = "synapse"


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
        start_from: folder of a trained run whose last weights this one begins with, to fine-tune or to prune it;
            ``pruning.masks`` says what becomes of its masks.
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
    start_from: str | None = None


class RunConfig(Settings):
    """All settings of a run; :func:`run_config` makes one, whose ``data`` and ``model`` are of the types of its task.

    Attributes:
        task: what is learned; ``synapse`` finds synapses in EM volumes, ``my_package.module:MyTask`` is a class of
            one's own (see :class:`synbb.tasks.base.Task`).
        seed: of weights, patches, augmentation and random masks; one seed reproduces a run on one machine.
        data: where the data are and how they are sampled, as the task has it.
        model: the network, likewise.
        training: how it is trained.
        pruning: how it is pruned.
    """

    task: str = DEFAULT_TASK
    seed: Seed = 0
    data: Any
    model: Any
    training: TrainingSettings = TrainingSettings()
    pruning: PruningSettings = PruningSettings()

    def plain(self) -> dict[str, Any]:
        """All settings, defaults included, as plain values for YAML and JSON."""
        return self.model_dump(mode="json")


def run_config(values: object, source: str) -> RunConfig:
    """Settings of a run, with ``data`` and ``model`` as its task has them.

    Args:
        values: what a YAML file held.
        source: its name, for messages.

    Raises:
        SynbbError: a key or value is wrong or has no effect, or there is no such task.
    """
    config = _any_config(values, source)
    masks = config.pruning.masks
    if masks is not None and config.training.start_from is None:
        raise SynbbError(
            f"{source}: pruning.masks = {masks!r} says what becomes of the masks of the run that training.start_from "
            "names: name one, or remove the key"
        )
    return config


def _any_config(values: object, source: str) -> RunConfig:
    """As :func:`run_config`, and keys may have no effect."""
    name = values.get("task", DEFAULT_TASK) if isinstance(values, dict) else DEFAULT_TASK
    if not isinstance(name, str):
        raise SynbbError(f"{source}: task = {name!r}: give the name of a task")
    return validated(_config_of(name), values, source)


def stored_config(values: object, source: str) -> RunConfig:
    """Settings that a run of this version or an earlier one stored; as :func:`run_config`.

    Keys that were added since mean there what was done before they existed: ``BEFORE`` of the task's settings.
    """
    if isinstance(values, dict):
        kind = find_task(str(values.get("task", DEFAULT_TASK)))
        for part, wanted in (("data", kind.data), ("model", kind.model)):
            if isinstance(values.get(part), dict):
                values = {**values, part: {**getattr(wanted, "BEFORE", {}), **values[part]}}
    return _any_config(values, source)


@cache
def _config_of(task: str) -> type[RunConfig]:
    """The settings of runs of a task."""
    kind = find_task(task)
    fields: dict[str, Any] = {}
    for name, wanted in (("data", kind.data), ("model", kind.model)):
        # A task without a type of its own takes any mapping, none too.
        fields[name] = (wanted, Field(default_factory=dict) if get_origin(wanted) is dict else ...)
    return create_model("RunConfig", __base__=RunConfig, **fields)


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read a config file and apply ``key=value`` overrides with dotted keys.

    Values are read as YAML: ``pruning.density=0.1``, ``data.patch=[8,128,128]``, ``data.volumes.0.weight=2``.

    Raises:
        SynbbError: the file is missing or no YAML mapping, an override is malformed, or a key or value is wrong.
    """
    values = read_mapping(path, overrides)
    if "methods" in values and "data" not in values:
        raise SynbbError(f"{path} is the config of a study, for synbb compare; synbb train takes that of one run")
    return run_config(values, str(path))


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
    values = read_yaml(config_at(path), f"config {path}")
    if not isinstance(values, dict):
        raise SynbbError(f"config {path} must be a mapping of keys ({keys})")
    for override in overrides:
        _override(values, override)
    return values


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SynbbError(f"override {text!r} is not of the form key=value, for example pruning.density=0.1")
    try:
        parsed = parse_yaml(value, f"override {text!r}: the value")
    except SynbbError as error:
        raise SynbbError(
            f"{error}; texts with * or : want quotes that the shell leaves alone, such as 'key=[\"a*\"]'"
        ) from None
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
    if not part.isdecimal() or int(part) >= len(place):
        raise SynbbError(f"{where}: {part!r} is no position in a list of {len(place)} (0 to {len(place) - 1})")
    return int(part)
