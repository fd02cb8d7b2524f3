"""Budgeted Broadcast and its rivals: torch and numpy only, usable on any network without the rest of synbb."""

from synbb.pruning.broadcast import BudgetedBroadcast, ClosedLoop
from synbb.pruning.comparison import Comparison, compare
from synbb.pruning.diagnostics import LayerReport, PruningReport, report
from synbb.pruning.evidence import Evidence
from synbb.pruning.masks import apply_masks, load_masks, save_masks
from synbb.pruning.observing import Valid
from synbb.pruning.pruner import Pruner
from synbb.pruning.rivals import FixedMask, Magnitude, RandomMask, RigL, Scored
from synbb.pruning.schedule import CubicSchedule, Waypoints
from synbb.pruning.tracing import trace
from synbb.pruning.wiring import Wiring

__all__ = [
    "BudgetedBroadcast",
    "ClosedLoop",
    "Comparison",
    "CubicSchedule",
    "Evidence",
    "FixedMask",
    "LayerReport",
    "Magnitude",
    "Pruner",
    "PruningReport",
    "RandomMask",
    "RigL",
    "Scored",
    "Valid",
    "Waypoints",
    "Wiring",
    "apply_masks",
    "compare",
    "load_masks",
    "report",
    "save_masks",
    "trace",
]
