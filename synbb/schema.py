"""Typed settings: models that forbid unknown keys, and errors that name the key and the nearest valid one."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_VALUE = 200
"""Values whose repr is longer are not repeated in messages."""


class Settings(BaseModel):
    """Base of every settings model: frozen, no unknown keys, finite numbers, defaults checked too.

    Attributes:
        BEFORE: of keys that were added when runs had been stored, what runs without them did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
    BEFORE: ClassVar[dict[str, Any]] = {}


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
        details = [dict(detail) for detail in error.errors()]
        # A list whose items are wrong is also called too short.
        shorn = [each for each in details if not (each["type"] == "too_short" and _has_inner(each, details))]
        # The branches of a union complain one by one, often in the same words.
        problems = dict.fromkeys(_problem(kind, detail) for detail in shorn)
        raise SynbbError(f"{source}: " + "; ".join(problems)) from None


def nearest(word: str, valid: Sequence[str]) -> str:
    """The tail of an error message: the nearest valid word, or all of them."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid are {', '.join(sorted(valid))}"


def _has_inner(detail: dict[str, Any], details: Sequence[dict[str, Any]]) -> bool:
    """Whether something inside of what ``detail`` complains of is wrong, too."""
    depth = len(detail["loc"])
    return any(len(each["loc"]) > depth and each["loc"][:depth] == detail["loc"] for each in details)


def _problem(kind: type[BaseModel], detail: dict[str, Any]) -> str:
    location = _without_branches(kind, detail["loc"])
    where = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        *parents, key = (str(part) for part in location)
        inside = f" in {'.'.join(parents)}" if parents else ""
        return f"unknown key {key!r}{inside}{_hint(kind, location)}"
    if detail["type"] == "missing":
        return f"key {where} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    # A mapping or a long list says nothing in a message; its key does.
    shown = "" if isinstance(value, dict) or len(repr(value)) > LONGEST_VALUE else f" = {value!r}"
    return f"{where or 'settings'}{shown}: {message}"


def _hint(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """What a person may have meant by an unknown key: one spelt like it, or the same one elsewhere."""
    *parents, key = location
    known = _keys_at(kind, tuple(parents))
    elsewhere = [path for path in _all_keys(kind, "") if path.rpartition(".")[2] == str(key)]
    if elsewhere and not difflib.get_close_matches(str(key), known, n=1):
        return f"; did you mean {' or '.join(elsewhere)}?"
    return nearest(str(key), known)


def _without_branches(kind: type[BaseModel], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """What a person wrote, keys and positions, of a pydantic location, which also names branches of unions."""
    at: list[Any] = [kind]
    kept: list[int | str] = []
    for part in location:
        branches = [branch for each in at for branch in _branches(each)]
        if len(branches) > len(at):  # this part says which branch of a union was tried
            at = branches
            continue
        kept.append(part)
        at = [inner for each in at for inner in _inside(each, part)]
    return tuple(kept)


def _branches(annotation: Any) -> list[Any]:
    """The members of a union, None aside; anything else is its own only branch."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for member in get_args(annotation) if member is not type(None)]
    return [annotation]


def _inside(annotation: Any, part: int | str) -> list[Any]:
    """Annotations of what lies at ``part`` of a value: a field, an item."""
    for branch in _branches(annotation):
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            return [branch.model_fields[str(part)].annotation] if part in branch.model_fields else []
        if get_origin(branch) in (tuple, list, set, frozenset):
            return [item for item in get_args(branch)[:1] if item is not Ellipsis]
        if get_origin(branch) is dict:
            return [get_args(branch)[1]]
    return []


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


def _all_keys(kind: type[BaseModel], prefix: str) -> list[str]:
    """Dotted names of all keys of a model; positions of lists are shown as ``N``."""
    keys = []
    for name, field in kind.model_fields.items():
        keys.append(prefix + name)
        listed = "" if isinstance(field.annotation, type) else "N."
        for model in _models(field.annotation):
            keys += _all_keys(model, f"{prefix}{name}.{listed}")
    return keys


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models(argument)]
