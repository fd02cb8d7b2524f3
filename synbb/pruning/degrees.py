"""Degrees of the units under a pruner's masks, and how well they meet the law."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from synbb.pruning.balance import BalanceFit, balance_fit

if TYPE_CHECKING:
    from synbb.pruning.balance import Floats, Integers
    from synbb.pruning.pruner import Pruner

Direction = Literal["fan_out", "fan_in"]


@dataclass(frozen=True)
class Degrees:
    """Live connections of the rows that a scope balances: units, within each layer where layers meet the budget.

    Attributes:
        units: unit of each row.
        scopes: number of the scope (layer, or 0 for the network) each row shares its offset d0 with.
        live: live connections k of each row.
        capacity: connections K of each row when dense.
    """

    units: Integers
    scopes: Integers
    live: Integers
    capacity: Integers


def degrees_of(pruner: Pruner, direction: Direction) -> Degrees:
    """Degrees of all units under the present masks."""
    table, units = pruner.table, pruner.wiring.unit_count
    connections, owners = table.in_pairs if direction == "fan_in" else table.out_pairs
    scope = table.layer[connections] if pruner.scope == "layer" else np.zeros(len(connections), dtype=np.int64)
    present, rows = np.unique(scope * units + owners, return_inverse=True)
    live = np.bincount(rows, weights=pruner.kept()[connections], minlength=len(present)).astype(np.int64)
    return Degrees(present % units, present // units, live, np.bincount(rows, minlength=len(present)))


def directions(pruner: Pruner) -> tuple[Direction, ...]:
    """The degrees that a pruner's law acts on; fan-out for methods without one."""
    if pruner.actuator == "both" or pruner.actuator == "matched":
        return ("fan_out", "fan_in")
    return (pruner.actuator or "fan_out",)


def decided_fit(pruner: Pruner, direction: Direction) -> BalanceFit:
    """The balance fit on the on-rates that the masks were made from."""
    rows = degrees_of(pruner, direction)
    minimum = float(pruner.minimum)
    rates: Floats = pruner.decided_rates
    return balance_fit(rates[rows.units], rows.live, rows.capacity, minimum, groups=rows.scopes)


def balance_table(pruner: Pruner) -> str:
    """Every unit's on-rate and degree as CSV, for the figure of log((1 - a) / a) against kappa.

    Columns: direction, scope, unit, group, on_rate (that the masks were made from), live, capacity, kappa, clipped.
    """
    groups = pruner.wiring.groups
    starts = np.array([group.first for group in groups])
    minimum = pruner.minimum
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(("direction", "scope", "unit", "group", "on_rate", "live", "capacity", "kappa", "clipped"))
    for direction in directions(pruner):
        rows = degrees_of(pruner, direction)
        for unit, scope, live, capacity in zip(*_plain(rows), strict=True):
            group = groups[int(np.searchsorted(starts, unit, side="right")) - 1].name
            where = "network" if pruner.scope == "network" else pruner.layers[scope].name
            clipped = int(live <= minimum or live >= capacity)
            rate = f"{pruner.decided_rates[unit]:.6f}"
            out.writerow((direction, where, unit, group, rate, live, capacity, f"{live / capacity:.6f}", clipped))
    return text.getvalue()


def _plain(rows: Degrees) -> tuple[list[int], list[int], list[int], list[int]]:
    return rows.units.tolist(), rows.scopes.tolist(), rows.live.tolist(), rows.capacity.tolist()
