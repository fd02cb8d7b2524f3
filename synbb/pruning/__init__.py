"""Budgeted Broadcast and its rivals: torch and numpy only, usable on any network without the rest of synbb."""

from synbb.pruning.diagnostics import LayerReport, PruningReport, report
from synbb.pruning.pruner import BudgetedBroadcast, Magnitude, Pruner, RandomMask
from synbb.pruning.schedule import CubicSchedule
from synbb.pruning.wiring import Wiring, trace

__all__ = [
    "BudgetedBroadcast",
    "CubicSchedule",
    "LayerReport",
    "Magnitude",
    "Pruner",
    "PruningReport",
    "RandomMask",
    "Wiring",
    "report",
    "trace",
]
