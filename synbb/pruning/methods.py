"""All methods by name, and what each may be told beside the options of every pruner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synbb.errors import SynbbError
from synbb.pruning import controls, rivals, structured
from synbb.pruning.broadcast import BudgetedBroadcast, ClosedLoop

if TYPE_CHECKING:
    from synbb.pruning.pruner import Pruner

LAW = ("actuator", "beta", "minimum", "act", "tau", "from_start", "regrowth", "drop", "threshold_shift", "gate")
"""Options of the law, which its controls share."""

CONNECTIONS: dict[str, tuple[type[Pruner], tuple[str, ...]]] = {
    "bb": (BudgetedBroadcast, LAW),
    "bb-auto": (ClosedLoop, tuple(name for name in LAW if name != "beta")),
    "uniform-degrees": (controls.UniformDegrees, LAW),
    "permuted": (controls.PermutedRates, LAW),
    "inverted": (controls.InvertedRates, LAW),
    "frozen-rates": (controls.FrozenRates, LAW),
    "two-thresholds": (controls.TwoThresholds, (*LAW, "few_above", "many_below")),
    "activity-only": (rivals.ActivityOnly, ("gate",)),
    "magnitude": (rivals.Magnitude, ()),
    "random": (rivals.RandomMask, ()),
    "random-from-start": (rivals.RandomFromStart, ()),
    "snip": (rivals.Snip, ()),
    "taylor": (rivals.Taylor, ()),
    "wanda": (rivals.Wanda, ()),
    "apoz": (rivals.Apoz, ("gate",)),
    "set": (rivals.Set, ("drop",)),
    "rigl": (rivals.RigL, ("drop",)),
    "fixed": (rivals.FixedMask, ("masks_from", "shuffle")),
}
"""Methods for single connections: class, and its options beside those of every pruner."""

UNITS: dict[str, tuple[type[Pruner], tuple[str, ...]]] = {
    "bb": (structured.UnitBroadcast, ("least_units", "gate")),
    "bb-utility": (structured.UnitUtility, ("least_units", "gate")),
    "magnitude": (structured.UnitNorm, ("least_units",)),
    "norm-scale": (structured.UnitNormScale, ("least_units",)),
    "group-norm": (structured.GroupNorm, ("least_units",)),
    "random": (structured.RandomUnits, ("least_units",)),
}
"""Methods for whole units."""


def find_method(name: str, *, units: bool) -> tuple[type[Pruner], tuple[str, ...]]:
    """Class of a method and the names of its own options.

    Raises:
        SynbbError: there is none of that name for connections, or for whole units.
    """
    known = UNITS if units else CONNECTIONS
    if name not in known:
        kind = "whole units (connection: unit)" if units else "connections"
        raise SynbbError(f"pruning method {name!r} is none for {kind}; there are {', '.join(known)}")
    return known[name]
