"""Checks of the options of a pruner."""

from __future__ import annotations

from math import isfinite
from numbers import Integral, Real

from synbb.errors import SynbbError


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option's value that is none of those allowed."""
    if value not in allowed:
        raise SynbbError(f"pruning {name} {value!r} is not one of {', '.join(allowed)}")


def check_number(name: str, value: object, *, whole: bool = False) -> None:
    """Refuse an option's value that is no finite number, or no whole one."""
    if not isinstance(value, Integral if whole else Real) or not isfinite(value):
        raise SynbbError(f"pruning {name} {value!r} must be a {'whole' if whole else 'finite'} number")
