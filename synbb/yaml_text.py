"""YAML as people write it: a key stands once, ``2:4`` and dates are texts, and what is wrong is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from synbb.errors import SynbbError

INT, FLOAT, TIMESTAMP, STR, MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "str", "merge")
)


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1 without numbers to the base of 60 and dates, which no setting is, and without repeated keys."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        return STR if tag == TIMESTAMP or (tag in (INT, FLOAT) and ":" in value) else tag

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here each mapping comes once and as it is written; what it merges (<<) is put beside its keys later.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} stands twice, remove one", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str, name: str) -> Any:
    """The value that a YAML text holds; what aliases share is there several times.

    Args:
        text: of one document.
        name: what it is called in messages.

    Raises:
        SynbbError: it is no YAML, a key stands twice in a mapping, a value is none of the type that its tag names, or
            one holds itself.
    """
    try:
        return _unshared(yaml.load(text, _Loader))  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise SynbbError(f"{name} is not valid YAML: {_in_one_line(error)}") from None
    except RecursionError:
        raise SynbbError(f"{name} is nested too deep, or something in it holds itself") from None


def read_yaml(path: Path, name: str) -> Any:
    """The value that a YAML file holds; see :func:`parse_yaml`.

    Raises:
        SynbbError: as there, or the file is not UTF-8.
        OSError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SynbbError(f"{name} is not valid YAML: {error}") from None
    return parse_yaml(text, name)


def _unshared(value: Any) -> Any:
    """A copy in which what aliases share is there several times, so that an override changes one place."""
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def _in_one_line(error: Exception) -> str:
    """What the parser says over several lines, with the place."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    place = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
    return f"{', '.join(filter(None, (error.context, error.problem)))} ({place})"
