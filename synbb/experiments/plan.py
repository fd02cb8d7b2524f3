"""The runs of a study, in the order in which they can be done, each with its settings and their hash."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from synbb.errors import SynbbError
from synbb.experiments.config import StudySettings, changed
from synbb.pruning.rows import Cell
from synbb.schema import Settings, nearest
from synbb.training.config import RunConfig, run_config
from synbb.training.pruning import without_effect
from synbb.training.run import RunFolder

NO_MATTER = ("training.loader_threads", "training.prefetch", "training.checkpoint_every")
"""Settings that change no result: they are no part of the hash."""
ADDED = {"data.augment.shadow": 0.0}
"""Numbers that a version added after studies had been run, and where they are off: then they are no part of it."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        cell: fold, method, density, seed.
        config: its settings.
        config_hash: of all settings that may change its result.
        folder: where it is trained.
        evidence: where the counts behind its scores are kept.
        after: the run whose masks it needs.
    """

    cell: Cell
    config: RunConfig
    config_hash: str
    folder: Path
    evidence: Path
    after: Cell | None

    @property
    def masks_file(self) -> Path:
        """Its final masks."""
        return RunFolder(self.folder).masks_file


def plan(
    study: StudySettings, output: Path, source: str, only: tuple[str, ...] = (), folds: tuple[str, ...] = ()
) -> list[PlannedRun]:
    """All runs of a study. The methods of one seed, fold and density come together.

    Args:
        study: its settings.
        output: folder of the study.
        source: name of the settings, for messages.
        only: methods to run, with those whose masks they need; all when empty.
        folds: folds to run; all when empty.

    Raises:
        SynbbError: a method or fold leads to settings that no run can have.
    """
    for name in folds:
        if name not in study.folds:
            raise SynbbError(f"--folds {name!r} is none of the study's folds{nearest(name, [*study.folds])}")
    wanted = _wanted(study, only)
    planned: dict[Cell, PlannedRun] = {}
    for seed in study.seeds:
        for fold in (name for name in study.folds if not folds or name in folds):
            for density in study.densities:
                for method in (name for name in study.order() if name in wanted):
                    cell = _cell(study, fold, method, density, seed)
                    if cell not in planned:
                        planned[cell] = _planned(study, cell, density, output, source, planned)
    return list(planned.values())


def _wanted(study: StudySettings, only: tuple[str, ...]) -> set[str]:
    wanted = set()
    for name in only or study.methods:
        if name not in study.methods:
            raise SynbbError(f"--only {name!r} is none of the study's methods{nearest(name, [*study.methods])}")
        each: str | None = name
        while each is not None:
            wanted.add(each)
            each = study.methods[each].after
    return wanted


def _cell(study: StudySettings, fold: str, method: str, density: float, seed: int) -> Cell:
    own = study.own_density(method)
    return Cell(fold, method, float(density) if own is None else own, seed)


def _planned(
    study: StudySettings, cell: Cell, density: float, output: Path, source: str, known: dict[Cell, PlannedRun]
) -> PlannedRun:
    settings = study.methods[cell.method]
    values: dict[str, Any] = copy.deepcopy(study.run)
    changed(values, study.folds[cell.fold], f"{source}: folds.{cell.fold}")
    values["seed"] = cell.seed
    given = values.get("pruning", {})
    if not isinstance(given, dict):
        raise SynbbError(
            f"{source}: run.pruning = {given!r} holds no keys; write pruning's settings below it, or drop it"
        )
    if given.get("tau") is not None:
        raise SynbbError(
            f"{source}: run.pruning.tau = {given['tau']!r}: a local budget settles the density, which a study asks "
            "for; give it to methods, which are run once for all densities then"
        )
    pruning = {**given, **settings.pruning}
    if pruning.get("method") != "none":
        pruning["density"] = cell.density
    before = None
    if settings.after is not None:
        before = known[_cell(study, cell.fold, settings.after, density, cell.seed)]
        pruning["masks_from"] = str(before.masks_file)
    values["pruning"] = pruning
    config = run_config(values, f"{source}, fold {cell.fold}, method {cell.method}")
    unread = without_effect(config.pruning, settings.pruning)
    if unread:
        raise SynbbError(
            f"{source}: methods.{cell.method}: {', '.join(unread)}: no option that method {config.pruning.method} "
            "reads; remove what has no effect"
        )
    begins_with = config.training.start_from
    if begins_with is not None and config.pruning.masks is None and RunFolder(begins_with).masks_file.is_file():
        raise SynbbError(
            f"{source}: training.start_from = {begins_with!r} is a pruned run, whose masks every method would hold "
            "unasked; give run.pruning.masks: reopen or dense (or keep, for methods that are meant to hold them)"
        )
    if config.training.devices not in ("auto", 1):
        raise SynbbError(f"{source}: training.devices={config.training.devices}: each run of a study has one device")
    name = f"{cell.method}-d{cell.density:g}-s{cell.seed}"
    return PlannedRun(
        cell=cell,
        config=config,
        config_hash=config_hash(config, "" if before is None else before.config_hash),
        folder=output / "runs" / cell.fold / name,
        evidence=output / "evidence" / cell.fold / f"{name}.npz",
        after=None if before is None else before.cell,
    )


def config_hash(config: RunConfig, before: str = "") -> str:
    """12 hexadecimal digits that change with every setting that may change a run's result.

    Settings that are off (null, false, empty) are left out, so that an option which a later version adds, off by
    default, does not make all runs done so far another study. One whose default is null, and which is switched off by
    something else than null, is another setting and stays.

    Args:
        config: the settings.
        before: hash of the run whose masks are taken: it stands for the path to them.
    """
    values = config.plain()
    for key in NO_MATTER:
        group, name = key.split(".")
        values[group].pop(name, None)
    for key, off in ADDED.items():
        *groups, name = key.split(".")
        part = reduce(lambda inner, group: inner.get(group) or {}, groups, values)
        if part.get(name) == off:
            del part[name]
    pruning = config.pruning
    if before:
        del values["pruning"]["masks_from"]
    if pruning.method == "none" and (config.training.start_from is None or pruning.masks in ("reopen", "dense")):
        values["pruning"] = {"method": "none"}  # nothing else of it has an effect
    text = json.dumps([_on(values, config), before], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _on(value: Any, settings: Any) -> Any:
    """Plain values without those that are off; ``settings`` is what they are of."""
    if isinstance(value, dict):
        inner = {key: _on(each, getattr(settings, key, None)) for key, each in value.items()}
        return {key: each for key, each in inner.items() if not _off(each) or _not_as_usual(settings, key)}
    if isinstance(value, list):
        parts = settings if isinstance(settings, list | tuple) else [None] * len(value)
        return [_on(each, part) for each, part in zip(value, parts, strict=True)]
    return value


def _off(value: Any) -> bool:
    return value is None or value is False or value in ({}, [])


def _not_as_usual(settings: Any, key: str) -> bool:
    """Whether a setting that is off is something else than null, its default."""
    if not isinstance(settings, Settings) or key not in type(settings).model_fields:
        return False
    return type(settings).model_fields[key].default is None and getattr(settings, key) is not None
