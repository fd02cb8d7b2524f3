"""Tasks by name: those of synbb, and a user's own by ``my_package.module:MyTask``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from synbb.errors import SynbbError
from synbb.plugins import load_named
from synbb.schema import nearest
from synbb.tasks.base import Task

BUILT_IN = {
    "synapse": "synbb.tasks.synapse:SynapseTask",
    "faces": "synbb.tasks.faces:FacesTask",
    "speech": "synbb.tasks.speech:SpeechTask",
}


@dataclass(frozen=True)
class TaskKind:
    """A task's class and the types of its settings.

    Attributes:
        make: the class, called as ``make(data, model, seed=..., batch_size=...)``.
        data: a pydantic model, or dict where the class has no ``DataSettings``.
        model: likewise, ``ModelSettings``.
    """

    make: Callable[..., Task]
    data: Any
    model: Any


@cache
def find_task(name: str) -> TaskKind:
    """The task of a name.

    Raises:
        SynbbError: there is none, or the class is no task.
    """
    if name not in BUILT_IN and ":" not in name:
        raise SynbbError(
            f"task {name!r} is none of synbb's{nearest(name, [*BUILT_IN])}; a task of your own is given as "
            "my_package.module:MyTask"
        )
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        kind = getattr(importlib.import_module(module), attribute)
    else:
        kind = load_named(name, "task")
    _check(kind, name)
    data, model = (_settings(kind, each, name) for each in ("DataSettings", "ModelSettings"))
    return TaskKind(kind, data, model)


def _check(kind: Any, name: str) -> None:
    if not inspect.isclass(kind):
        raise SynbbError(f"task {name!r} is no class but {kind!r}; name the class that has the methods of a task")
    wanted = [each for each in vars(Task) if not each.startswith("_")]
    missing = [each for each in wanted if not callable(getattr(kind, each, None))]
    if missing:
        raise SynbbError(
            f"task {name!r} lacks the methods {', '.join(missing)}; synbb.tasks.base.Task says what each one does"
        )


def _settings(kind: Any, attribute: str, name: str) -> Any:
    """The type of a task's ``data`` or ``model``."""
    found = getattr(kind, attribute, None)
    if found is None:
        return dict[str, Any]
    if not (inspect.isclass(found) and issubclass(found, BaseModel)):
        raise SynbbError(
            f"task {name!r}: {attribute} must be a pydantic model (synbb.schema.Settings, for example), not {found!r}"
        )
    return found
