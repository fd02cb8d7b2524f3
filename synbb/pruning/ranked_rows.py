"""Rows of connections, each from its strongest on: all that leave a unit (fan-out), all that enter it (fan-in).

A row keeps its strongest connections, as many as its degree says. Degrees follow a law whose one parameter is solved
for the budget; what whole numbers leave over goes by largest remainder. A connection in several rows (both actuators at
once, or a channel that sums two units) must be kept by all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from synbb.errors import SynbbError
from synbb.pruning import balance
from synbb.pruning.matching import Side, match
from synbb.pruning.ranking import numbered, ranks_in_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from synbb.pruning.balance import Floats, Integers, Law

BISECTIONS = 40
"""Halvings of the range of d0: to 1e-12 of it, below what could move a degree by one connection."""

ROUNDING = 1e-9
"""Relative room for the rounding of sums and quotients of floats."""


class _Part(NamedTuple):
    """Rows of one actuator."""

    connections: Integers
    ranks: Integers  # of each connection in its row
    rows: Integers  # number of its row
    once: bool  # no connection stands twice


class Rows:
    """Rows of one scope: each connection's rank in each of its rows, and each row's unit and capacity.

    Args:
        scores: strength of each connection of the scope; connections are numbered within it.
    """

    def __init__(self, scores: Floats) -> None:
        self._scores = scores
        self._times = np.zeros(len(scores), dtype=np.int64)  # in how many rows a connection stands
        self._parts: list[_Part] = []
        self._row_capacities: list[Floats] = []
        self._row_units: list[Integers] = []
        self._row_count = 0

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Whether each connection stands in a row."""
        return self._times > 0

    def add(self, connections: Integers, units: Integers) -> None:
        """Rows of one actuator: the connections of each unit, in ascending order, which is that among equals."""
        present, rows = numbered(units)
        capacities = np.bincount(rows, minlength=len(present))
        ranks = ranks_in_rows(self._scores[connections], rows, capacities)
        times = np.bincount(connections, minlength=len(self._times))
        once = bool(times.max(initial=0) <= 1)  # each connection in one row of this part, as without summed channels
        self._parts.append(_Part(connections, ranks, rows + self._row_count, once))
        self._row_capacities.append(capacities.astype(np.float64))
        self._row_units.append(present)
        self._row_count += len(present)
        self._times += times

    def keep(self, law: Law, budget: int, minimum: int) -> Integers:
        """Exactly ``budget`` connections that the law keeps, as indices.

        Where each connection stands in one row, rows keep as many as the law says, integers by largest remainder.
        Where it stands in several, all of them must keep it: the parameter is bisected on the size of that
        intersection, and what rounding leaves over goes by how far a connection lies beyond its worst row's degree.

        Raises:
            SynbbError: the budget is below what the minimum degrees take.
        """
        members = np.flatnonzero(self._times)
        if not len(members):
            return members
        units, capacities = self._rows()
        if self._times.max() == 1:
            parameter = balance.solve(law, units, capacities, budget, minimum)
            real = law.degrees(units, capacities, minimum, parameter)
            return self._first(balance.apportion(real, budget))
        # Scores and on-rates decide how many connections minimum degrees take here; this bound holds whatever they are,
        # so that a budget accepted at the start is never refused in the middle of training.
        least = int(np.ceil(np.minimum(minimum, capacities).sum() / self._times.max()))
        if budget < least:
            raise SynbbError(
                f"a budget of {budget} connections is out of reach: minimum degrees of {minimum} take at least {least} "
                f"of {len(members)}; choose a larger density or a smaller minimum"
            )
        return self._by_excess(members, law, minimum, np.ones(len(self._times)), budget)[:budget]

    def keep_matched(self, law: Law, budget: int, minimum: int) -> Integers:
        """Exactly ``budget`` connections, of which each row has as many as the law says, in both directions.

        The parameter of the law is solved for each direction. Where channels sum units, or are none, degrees are met as
        nearly as connections allow, and the strongest ones make up the number.

        Raises:
            SynbbError: the budget is below what the minimum degrees take.
        """
        members = np.flatnonzero(self._times)
        if not len(members):
            return members
        sides, quotas, first = [], [], 0
        for part, capacities, units in zip(self._parts, self._row_capacities, self._row_units, strict=True):
            total = round(budget * len(part.connections) / len(members))  # a connection of summed units counts for each
            parameter = balance.solve(law, units, capacities, total, minimum)
            degrees = balance.apportion(law.degrees(units, capacities, minimum, parameter), total)
            # What has no unit on this side stands in one row more, ranked at the density of all.
            others = np.setdiff1d(members, part.connections)
            rows = np.concatenate([part.rows - first, np.full(len(others), len(units))])
            sides.append(Side(np.concatenate([part.connections, others]), rows, self._scores, len(units) + 1))
            quotas.append(np.append(degrees, round(budget * len(others) / len(members))))
            first += len(units)
        (offering, taking), (given, taken) = sides, quotas
        kept = match(offering, taking, given, taken, self._times > 0)
        return members[np.lexsort((-self._scores[members], ~kept[members]))[:budget]]

    def keep_within(self, law: Law, budget: float, minimum: int, costs: Floats) -> Integers:
        """Connections that the law keeps and whose costs sum to at most ``budget``, less by under one connection."""
        members = np.flatnonzero(self._times)
        if not len(members):
            return members
        return prefix(self._by_excess(members, law, minimum, costs, budget), costs, budget)

    def granted(self, law: Law, minimum: int, parameter: float) -> Integers:
        """Connections within the degrees of the law at ``parameter``, rounded down."""
        members = np.flatnonzero(self._times)
        if not len(members):
            return members
        real = law.degrees(*self._rows(), minimum, parameter)
        return members[self._excess(np.floor(real + ROUNDING))[members] <= -1]

    def _rows(self) -> tuple[Integers, Floats]:
        """Unit and capacity of each row."""
        return np.concatenate(self._row_units), np.concatenate(self._row_capacities)

    def _first(self, degrees: Integers) -> Integers:
        """The strongest connections of each row, as many as its degree."""
        return np.concatenate([part.connections[part.ranks < degrees[part.rows]] for part in self._parts])

    def _excess(self, real_degrees: Floats) -> Floats:
        """How far each connection's rank lies beyond its row's degree, the worst of its rows; at most -1 is inside."""
        worst = np.full(len(self._times), -np.inf)
        for part in self._parts:
            beyond = part.ranks - real_degrees[part.rows]
            if part.once:
                worst[part.connections] = np.maximum(worst[part.connections], beyond)
            else:
                np.maximum.at(worst, part.connections, beyond)
        return worst

    def _by_excess(self, members: Integers, law: Law, minimum: int, costs: Floats, budget: float) -> Integers:
        """``members`` in the order in which the law at the budget's parameter keeps them."""
        units, capacities = self._rows()

        def cost(parameter: float) -> float:
            inside = self._excess(law.degrees(units, capacities, minimum, parameter))[members] <= -0.5
            return float(costs[members[inside]].sum())

        parameter = balance.bisect(cost, *law.bounds(), budget, BISECTIONS)
        excess = self._excess(law.degrees(units, capacities, minimum, parameter))[members]
        return members[np.argsort(excess, kind="stable")]


def prefix(ranked: Integers, costs: Floats, budget: float) -> Integers:
    """The first of ``ranked`` whose costs together stay within ``budget``."""
    spent = np.cumsum(costs[ranked])
    return ranked[: int(np.searchsorted(spent, budget * (1 + ROUNDING), side="right"))]
