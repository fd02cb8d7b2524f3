"""Forget toy tasks of other folders: tests and studies name them alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from synbb.tasks.registry import find_task
from synbb.training import config


@pytest.fixture(scope="module", autouse=True)
def own_toy_task() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    sys.modules.pop("toy_task", None)
    find_task.cache_clear()
    config._config_of.cache_clear()
