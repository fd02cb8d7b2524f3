"""Imports go downwards only, and rooms that must stay light do (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import synbb

PACKAGE = Path(synbb.__file__).parent
FLOORS = {
    "errors": -2,
    "locks": -1,
    "schema": -1,
    "places": -1,
    "plugins": -1,
    "yaml_text": -1,
    "pruning": 0,
    "volumes": 0,
    "models": 1,
    "datasets": 1,
    "evaluation": 1,
    "inference": 2,
    "tasks": 2,
    "viewing": 2,
    "training": 3,
    "prediction": 3,
    "experiments": 3,
    "cli": 4,
    "__main__": 5,
}
# Rooms on one floor that may know each other, and why.
SAME_FLOOR = {
    ("plugins", "schema"),  # for its hints at names spelt alike
    ("tasks", "inference"),  # a task scores by predicting blocks
    ("prediction", "training"),  # what is done with a run begins with its folder
    ("experiments", "training"),  # a study is many trainings
}
WITHOUT_TORCH = {"volumes", "evaluation", "datasets", "viewing"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Modules that a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names.add(node.module or "")
    return names


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "synbb" and len(parts) > 1 else None


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_downwards(file: Path) -> None:
    here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module in imported(file):
        there = room_of(module)
        if there is None or there == here:
            continue
        assert there in FLOORS, f"{file}: room {there} has no floor in this test"
        allowed = FLOORS[there] < FLOORS[here] or (here, there) in SAME_FLOOR
        assert allowed, f"{here} (floor {FLOORS[here]}) imports {module} (floor {FLOORS[there]})"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_light_rooms_need_no_torch(file: Path) -> None:
    if file.relative_to(PACKAGE).parts[0] in WITHOUT_TORCH:
        heavy = {name.split(".")[0] for name in imported(file)} & {"torch", "monai", "lightning"}
        assert not heavy, f"{file} imports {heavy}"


def test_pruning_stands_alone() -> None:
    outside = {
        name
        for file in FILES
        if file.relative_to(PACKAGE).parts[0] == "pruning"
        for name in imported(file)
        if room_of(name) not in (None, "pruning", "errors", "locks")
    }
    assert not outside


def test_training_and_pruning_know_no_task_in_particular() -> None:
    """What they know is the interface (base) and how a task is found by its name (registry)."""
    of_tasks = {
        (file.relative_to(PACKAGE).as_posix(), name)
        for file in FILES
        if file.relative_to(PACKAGE).parts[0] in ("training", "pruning", "experiments")
        for name in imported(file)
        if room_of(name) == "tasks" and name not in ("synbb.tasks.base", "synbb.tasks.registry")
    }
    assert not of_tasks


def test_every_public_name_exists() -> None:
    import importlib

    for file in FILES:
        if file.name == "__init__.py" and file.parent != PACKAGE:
            module = importlib.import_module(".".join(file.parent.relative_to(PACKAGE.parent).parts))
            for name in getattr(module, "__all__", ()):
                assert hasattr(module, name), f"{module.__name__} has no {name}"
