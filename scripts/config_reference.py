#!/usr/bin/env python
"""Write docs/config.md: every key of a run's config and of a study, its default and its meaning, from the code itself.

python scripts/config_reference.py            # writes it
python scripts/config_reference.py --check    # status 1 where it is out of date
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from synbb.experiments.config import StudySettings
from synbb.tasks.registry import BUILT_IN, find_task
from synbb.training.config import RunConfig, TrainingSettings
from synbb.training.pruning import PruningSettings

PAGE = Path(__file__).parents[1] / "docs" / "config.md"
BEGINNING = """# Keys of a config

Written by `scripts/config_reference.py` from the settings in the code; a test keeps it current. Examples with comments
are in [configs/](../configs). Any key can be changed on the command line by its dotted name, `synbb train CONFIG
pruning.density=0.1 data.volumes.0.weight=2`; unknown keys are refused with the nearest valid one. In keys, N stands for
the place of an entry in a list, counted from 0, NAME for a name of your choice.
"""
PAGES = {"synapse": "", "faces": "More: [faces.md](faces.md).", "speech": "More: [speech.md](speech.md)."}


def reference() -> str:
    """The whole page."""
    parts = [BEGINNING, _section("A run", RunConfig, "", leave=("data", "model", "training", "pruning"))]
    parts.append(_section("`training`", TrainingSettings, "training."))
    what = "What each choice does: [budgeted_broadcast.md](budgeted_broadcast.md#options)."
    parts.append(_section("`pruning`", PruningSettings, "pruning.", what))
    for name in BUILT_IN:
        kind = find_task(name)
        parts.append(_section(f"`data` of task `{name}`", kind.data, "data.", PAGES[name]))
        parts.append(_section(f"`model` of task `{name}`", kind.model, "model."))
    parts.append(_section("A study, for `synbb compare`", StudySettings, ""))
    return "\n".join(parts)


def _section(title: str, kind: type[BaseModel], prefix: str, note: str = "", leave: tuple[str, ...] = ()) -> str:
    rows = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _rows(kind, prefix, leave)]
    told = [note, ""] if note else []
    return "\n".join([f"## {title}", "", *told, "| key | default | |", "|---|---|---|", *rows, ""])


def _rows(kind: type[BaseModel], prefix: str, leave: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    meanings = _meanings(kind)
    for name, field in kind.model_fields.items():
        if name in leave:
            continue
        meaning = re.sub(r"(:\w+:)?`+(.*?)`+", r"`\2`", meanings[name]).rstrip(".")
        unsaid = [each for each in _choices(field.annotation) if each not in meaning]
        meaning += f" ({', '.join(unsaid)})" if unsaid else ""
        yield prefix + name, _default(field), meaning.replace("|", "\\|")
        for inner, place in _inner(field.annotation, ""):
            yield from _rows(inner, f"{prefix}{name}{place}.")


def _inner(annotation: Any, place: str) -> Iterator[tuple[type[BaseModel], str]]:
    """The settings that a field holds, and where: itself, ``.N`` in a list, ``.NAME`` in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, place
        return
    place += {tuple: ".N", list: ".N", dict: ".NAME"}.get(get_origin(annotation), "")  # type: ignore[call-overload]
    for part in get_args(annotation):
        yield from _inner(part, place)


def _choices(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (each for each in get_args(annotation) if isinstance(each, str))
        return
    for part in get_args(annotation):
        yield from _choices(part)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "as below"
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()


def _meanings(kind: type[BaseModel]) -> dict[str, str]:
    """What a docstring's ``Attributes`` say of each."""
    text = inspect.getdoc(kind) or ""
    _, _, attributes = text.partition("Attributes:\n")
    found: dict[str, str] = {}
    for line in attributes.splitlines():
        if not line.strip():
            break
        name = re.match(r"    (\w+): (.*)", line)
        if name is not None:
            last = name[1]
            found[last] = name[2]
        else:
            found[last] += " " + line.strip()
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Write docs/config.md from the settings in the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(reference())
    elif PAGE.read_text() != reference():
        print("docs/config.md is out of date: run python scripts/config_reference.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
