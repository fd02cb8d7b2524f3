"""The selectivity-audience balance: on-rates and a budget in, degrees out. Pure functions of numpy arrays.

Source of the law: Meirovitch, Yang, Lichtman, Shavit, *Budgeted Broadcast*, arXiv 2510.01263 (2025). Maximising
sum_i H(a_i) under sum_i a_i k_i <= T gives log((1 - a_i) / a_i) = beta k_i. As a rule for degrees it is read the other
way round, in relative degrees kappa_i = k_i / K_i and with an offset d0 that the budget determines:

    kappa_i = clip(d0 + (1 / beta) log((1 - a_i) / a_i), kappa_min, 1)

Any non-negative cost of the degrees grows with d0, so a budget is met by bisection on d0; density is *not* monotone in
beta, which therefore stays what the user set (or what :mod:`synbb.pruning.feedback` moves it to between refreshes).

:class:`Law` is what the actuators know of it: relative degrees as a function of one parameter that the budget
determines. There are two: :class:`Balance`, where that parameter is d0, and :class:`LocalBudget`, where it is tau.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RATE_FLOOR = 1e-6
"""On-rates are kept this far from 0 and 1, so that units never or always on get a finite log-odds."""


LEAST_UNITS = 10
"""Unclipped units that a group must have for its fit to say something."""

HALVINGS = 80
"""Of the range of d0: to the last bit of a float64."""

FLAT = 1e-12
"""Variance of log-odds or relative degrees below which there is nothing to fit."""


def log_odds(on_rates: Floats) -> Floats:
    """log((1 - a) / a) of each on-rate: positive for quiet units. An unknown rate (nan) is neutral, 0."""
    clipped = np.clip(np.asarray(on_rates, dtype=np.float64), RATE_FLOOR, 1 - RATE_FLOOR)
    return np.where(np.isnan(clipped), 0.0, np.log1p(-clipped) - np.log(clipped))


def binary_entropy(on_rates: Floats) -> Floats:
    """Coding entropy H(a) of each unit in bits; 0 for a unit that is never or always on."""
    a = np.asarray(on_rates, dtype=np.float64)
    inside = np.clip(a, 1e-300, 1 - 1e-16)
    entropy = -(inside * np.log2(inside) + (1 - inside) * np.log1p(-inside) / np.log(2))
    return np.where((a <= 0) | (a >= 1), 0.0, entropy)


def degrees(odds: Floats, capacities: Floats, offset: float, beta: float, minimum: Floats | float) -> Floats:
    """Real-valued degrees k_i of the law at offset d0, clipped to [``minimum``, K_i].

    Args:
        odds: log((1 - a_i) / a_i), shape (units,).
        capacities: K_i, the degree of each unit when dense.
        offset: d0, in relative degrees.
        beta: strength of the law; larger means more equal degrees.
        minimum: the least degree of a unit, in connections.
    """
    return np.clip((offset + odds / beta) * capacities, np.minimum(minimum, capacities), capacities)


class Law(ABC):
    """Degrees of units as a function, nowhere falling, of one parameter."""

    @abstractmethod
    def degrees(self, units: Integers, capacities: Floats, minimum: float, parameter: float) -> Floats:
        """Real-valued degree of each row, within [``minimum``, K_i].

        Args:
            units: unit of each row, shape (rows,).
            capacities: K_i of each row.
            minimum: least degree, in connections.
            parameter: of the law.
        """

    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Parameters at which every row has its least and its full degree."""


@dataclass(frozen=True)
class Balance(Law):
    """The selectivity-audience balance; the parameter is d0.

    Attributes:
        odds: log((1 - a_i) / a_i) of each unit, shape (units,).
        beta: strength of the law.
    """

    odds: Floats
    beta: float

    def degrees(self, units: Integers, capacities: Floats, minimum: float, parameter: float) -> Floats:
        """See :func:`degrees`."""
        return degrees(self.odds[units], capacities, parameter, self.beta, minimum)

    def bounds(self) -> tuple[float, float]:
        """All clipped below, all clipped above."""
        span = float(np.abs(self.odds).max(initial=0.0)) / self.beta + 1.0
        return -span, span


@dataclass(frozen=True)
class LocalBudget(Law):
    """Each unit's own traffic budget: a_i kappa_i <= tau, and nothing is asked of units below it.

    The parameter is tau, in relative traffic (on-rate times relative degree), so that it carries over between layers.

    Attributes:
        rates: a_i of each unit, shape (units,).
    """

    rates: Floats

    def degrees(self, units: Integers, capacities: Floats, minimum: float, parameter: float) -> Floats:
        """k_i = K_i min(1, tau / a_i), clipped."""
        rates = np.clip(np.nan_to_num(self.rates[units], nan=0.5), RATE_FLOOR, 1.0)
        return np.clip(capacities * parameter / rates, np.minimum(minimum, capacities), capacities)

    def bounds(self) -> tuple[float, float]:
        """No traffic; all that is possible."""
        return 0.0, 1.0


def bisect(cost: Callable[[float], float], low: float, high: float, budget: float, halvings: int) -> float:
    """The parameter in [``low``, ``high``] at which a ``cost`` that nowhere falls reaches ``budget``."""
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        if cost(middle) < budget:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def solve(law: Law, units: Integers, capacities: Floats, budget: float, minimum: float = 1.0) -> float:
    """The parameter of ``law`` at which the degrees of all rows sum to ``budget`` connections.

    Raises:
        SynbbError: the budget lies below the minimum degrees or above the dense degrees.
    """
    least = float(np.minimum(minimum, capacities).sum())
    most = float(capacities.sum())
    if not least - 0.5 <= budget <= most + 0.5:
        raise SynbbError(
            f"a budget of {budget:.0f} connections is out of reach: {len(capacities)} units take at least {least:.0f} "
            f"(minimum degree) and at most {most:.0f}; choose a density between {least / most:.4f} and 1, or a smaller "
            "minimum"
        )

    def cost(parameter: float) -> float:
        return float(law.degrees(units, capacities, minimum, parameter).sum())

    return bisect(cost, *law.bounds(), budget, HALVINGS)


def solve_offset(odds: Floats, capacities: Floats, budget: float, beta: float, minimum: float = 1.0) -> float:
    """The offset d0 at which the degrees of the balance sum to ``budget`` connections; see :func:`solve`."""
    return solve(Balance(odds, beta), np.arange(len(odds)), capacities, budget, minimum)


def apportion(real_degrees: Floats, total: int) -> NDArray[np.int64]:
    """Integers that sum to ``total`` and lie within one of ``real_degrees``: largest remainder, ties by index.

    Raises:
        ValueError: ``total`` is not within one a unit of the sum of the real degrees.
    """
    whole = np.floor(real_degrees).astype(np.int64)
    missing = total - int(whole.sum())
    if not 0 <= missing <= len(whole):
        raise ValueError(f"{total} is too far from the sum of the degrees, {real_degrees.sum():.3f}")
    order = np.argsort(-(real_degrees - whole), kind="stable")
    whole[order[:missing]] += 1
    return whole


class BalanceFit(NamedTuple):
    """How well relative degrees follow the law among the units that no bound clips."""

    slope: float
    r_squared: float
    unclipped: int
    clipped_share: float


def balance_fit(
    on_rates: Floats,
    degree: NDArray[np.generic],
    capacities: NDArray[np.generic],
    minimum: float = 1.0,
    *,
    groups: NDArray[np.int64] | None = None,
    least_capacity: int = 32,
) -> BalanceFit:
    """Least-squares fit of log((1 - a) / a) against kappa = k / K, a slope near beta where the law holds.

    Integers blur the law where units have few connections (simulated R² 0.94 at K = 16, 0.99 at K >= 64), so units of
    ``least_capacity`` and more are judged. Units at their minimum or full degree are left out and their share given.

    Args:
        on_rates: a_i, shape (rows,).
        degree: live connections k_i, likewise.
        capacities: K_i.
        minimum: degree at and below which a unit counts as clipped.
        groups: number of the group each row shares its offset d0 with (its layer, say), default one for all. The fit
            has one slope and one intercept a group; groups with fewer than ten unclipped units are left out.
        least_capacity: least K_i of a unit that is judged.

    Returns:
        nan for slope and R² when no group is left or nothing varies.
    """
    group = np.zeros(len(on_rates), dtype=np.int64) if groups is None else groups
    capacity, live = capacities.astype(np.float64), degree.astype(np.float64)
    known = ~np.isnan(on_rates) & (capacity >= max(least_capacity, 1))
    free = known & (live > minimum) & (live < capacity)
    clipped = 1.0 - int(free.sum()) / max(int(known.sum()), 1)
    judged = free & (np.bincount(group[free], minlength=int(group.max(initial=0)) + 1) >= LEAST_UNITS)[group]
    count = int(judged.sum())
    if not count:
        return BalanceFit(float("nan"), float("nan"), count, clipped)
    kappa = _centred(live[judged] / capacity[judged], group[judged])
    odds = _centred(log_odds(on_rates[judged]), group[judged])
    together, alone, other = float(kappa @ odds), float(kappa @ kappa), float(odds @ odds)
    if min(alone, other) < FLAT * count:
        return BalanceFit(float("nan"), float("nan"), count, clipped)
    return BalanceFit(together / alone, together**2 / (alone * other), count, clipped)


def _centred(values: Floats, group: NDArray[np.int64]) -> Floats:
    """Values less the mean of their group."""
    sizes = np.maximum(np.bincount(group), 1)
    return values - (np.bincount(group, weights=values) / sizes)[group]
