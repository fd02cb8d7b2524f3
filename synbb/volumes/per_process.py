"""Things that must be opened once in each process: file handles do not survive a pickle or a fork."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Opens on first use in each process; only the recipe is pickled.

    Args:
        opener: a function of a module (so that it can be pickled).
        arguments: what it is called with.
    """

    def __init__(self, opener: Callable[..., T], *arguments: Any) -> None:
        self._recipe = (opener, arguments)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._use = threading.Lock()
        self._opened: tuple[int, T] | None = None

    def __getstate__(self) -> tuple[Callable[..., T], tuple[Any, ...]]:
        return self._recipe

    def __setstate__(self, recipe: tuple[Callable[..., T], tuple[Any, ...]]) -> None:
        self._recipe = recipe
        self._begin()

    @contextmanager
    def held(self) -> Iterator[T]:
        """The thing, for one thread at a time."""
        thing = self.get()
        with self._use:
            yield thing

    def get(self) -> T:
        """The thing, opened in this process."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                opener, arguments = self._recipe
                self._opened = (os.getpid(), opener(*arguments))
            return self._opened[1]
