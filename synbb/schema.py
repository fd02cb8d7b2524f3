"""Typed settings: models that forbid unknown keys, and errors that name the key and the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from synbb.errors import SynbbError


class Settings(BaseModel):
    """Base of every settings model: frozen, no unknown keys, defaults checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


S = TypeVar("S", bound=BaseModel)


def validated(kind: type[S], values: object, source: str) -> S:
    """``values`` as a ``kind``.

    Args:
        kind: the settings model.
        values: what a YAML or JSON file held.
        source: name of the file for messages.

    Raises:
        SynbbError: every key that is unknown (with the nearest valid one), missing or of a wrong type.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_problem(kind, dict(detail)) for detail in error.errors()]
        raise SynbbError(f"{source}: " + "; ".join(problems)) from None


def nearest(word: str, valid: Sequence[str]) -> str:
    """The tail of an error message: the nearest valid word, or all of them."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid are {', '.join(sorted(valid))}"


def _problem(kind: type[BaseModel], detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        *parents, key = (str(part) for part in detail["loc"])
        inside = f" in {'.'.join(parents)}" if parents else ""
        return f"unknown key {key!r}{inside}{nearest(key, _keys_at(kind, detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"key {where} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where or 'settings'} = {detail['input']!r}: {message}"


def _keys_at(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Valid keys at a location inside nested models (list positions are passed over)."""
    kinds: list[type[BaseModel]] = [kind]
    for part in location:
        found = [
            model
            for each in kinds
            if part in each.model_fields
            for model in _models(each.model_fields[str(part)].annotation)
        ]
        kinds = found or kinds
    return [key for each in kinds for key in each.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models(argument)]
