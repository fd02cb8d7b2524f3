"""What a run's pruning report says in one number each, as columns of a study's table."""

from __future__ import annotations

from typing import Any

from synbb.errors import SynbbError
from synbb.training.run import RunFolder

LEFT_OUT = ("density", "steps")
"""Numbers of the report that the table has under other names."""


def diagnostics(run: RunFolder) -> dict[str, float]:
    """Every number of the pruning report, those of nested parts as ``part_name``; nothing for a run without one.

    Lists (of layers, of refreshes) are passed over.
    """
    try:
        report = run.pruning_report()
    except SynbbError:
        return {}
    return {name: value for name, value in _numbers(report, "").items() if name not in LEFT_OUT}


def _numbers(values: dict[str, Any], prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}_")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name] = value
    return found
