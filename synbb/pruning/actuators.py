"""From degrees to masks: which connections a unit keeps.

All masked connections of a network stand in one :class:`ConnectionTable`. An actuator groups them into *rows*: all that
leave a unit (fan-out), all that enter it (fan-in). A row keeps its strongest connections, as many as its degree says;
a connection in several rows (both actuators at once, or a channel that sums two units) must be kept by all of them.
What is kept over a *scope* (one layer, or the network) meets a :class:`Budget` to one connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError
from synbb.pruning import balance
from synbb.pruning.matching import Side, match

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.pruning.balance import Law
    from synbb.pruning.wiring import TracedLayer

Actuator = Literal["fan_out", "fan_in", "both", "matched"]
ACTUATORS: tuple[Actuator, ...] = ("fan_out", "fan_in", "both", "matched")
Scope = Literal["layer", "network"]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

BISECTIONS = 40
"""Halvings of the range of d0: to 1e-12 of it, below what could move a degree by one connection."""

ROUNDING = 1e-9
"""Relative room for the rounding of sums and quotients of floats."""


@dataclass(frozen=True)
class ConnectionTable:
    """Every masked connection of a network, layer after layer, each layer in the order of its flattened weight.

    Attributes:
        layer: number of the layer, shape (connections,).
        layer_sizes: connections of each layer.
        source: input channel of each connection within its layer.
        target: output channel of each connection within its layer.
        out_pairs: (connection, source unit), shape (2, n); a connection whose input channel is no unit has no pair.
        in_pairs: (connection, target unit), likewise.
    """

    layer: Integers
    layer_sizes: tuple[int, ...]
    source: Integers
    target: Integers
    out_pairs: Integers
    in_pairs: Integers

    @classmethod
    def build(
        cls, layers: Sequence[TracedLayer], shapes: Sequence[Sequence[int]], repeat: Sequence[int]
    ) -> ConnectionTable:
        """Table of ``layers`` with weights of ``shapes``; a kernel slice counts as ``repeat`` connections each."""
        outgoing, incoming, numbers, sizes, sources, targets = [], [], [], [], [], []
        start = 0
        for number, (layer, shape, times) in enumerate(zip(layers, shapes, repeat, strict=True)):
            source, target = (np.repeat(each.ravel(), times) for each in layer.connection_channels(shape))
            numbers.append(np.full(len(source), number))
            sources.append(source)
            targets.append(target)
            outgoing.append(_join(source, layer.reads, start))
            incoming.append(_join(target, layer.writes, start))
            sizes.append(len(source))
            start += len(source)
        return cls(
            np.concatenate(numbers),
            tuple(sizes),
            np.concatenate(sources),
            np.concatenate(targets),
            np.concatenate(outgoing, 1),
            np.concatenate(incoming, 1),
        )

    @property
    def count(self) -> int:
        """Number of connections."""
        return len(self.layer)

    def scopes(self, scope: Scope) -> list[Integers]:
        """The connections of each group that meets the density for itself: each layer's, or all; always a range."""
        if scope not in ("layer", "network"):
            raise SynbbError(f"pruning scope {scope!r} is not one of layer, network")
        if scope == "network":
            return [np.arange(self.count)]
        return np.split(np.arange(self.count), np.cumsum(self.layer_sizes)[:-1])

    def split(self, values: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
        """Values of all connections cut into those of each layer."""
        return np.split(values, np.cumsum(self.layer_sizes)[:-1])

    def pairs(self, actuator: Actuator) -> list[Integers]:
        """(connection, unit) pairs of the rows that an actuator makes.

        Raises:
            SynbbError: there is no such actuator.
        """
        by_actuator = {
            "fan_out": [self.out_pairs],
            "fan_in": [self.in_pairs],
            "both": [self.out_pairs, self.in_pairs],
            "matched": [self.out_pairs, self.in_pairs],
        }
        if actuator not in by_actuator:
            raise SynbbError(f"pruning actuator {actuator!r} is not one of {', '.join(ACTUATORS)}")
        return by_actuator[actuator]

    def source_rates(self, rates: Floats) -> Floats:
        """On-rate of the unit that each connection leaves: the mean of several, 0.5 where none is known."""
        connections, units = self.out_pairs
        total = np.bincount(connections, weights=np.nan_to_num(rates, nan=0.5)[units], minlength=self.count)
        times = np.bincount(connections, minlength=self.count)
        return np.where(times > 0, total / np.maximum(times, 1), 0.5)

    def fan_out(self, kept: NDArray[np.bool_], units: int) -> Integers:
        """Number of kept connections that leave each unit."""
        return np.bincount(self.out_pairs[1], weights=kept[self.out_pairs[0]], minlength=units).astype(np.int64)

    def fan_in(self, kept: NDArray[np.bool_], units: int) -> Integers:
        """Number of kept connections that enter each unit."""
        return np.bincount(self.in_pairs[1], weights=kept[self.in_pairs[0]], minlength=units).astype(np.int64)


@dataclass(frozen=True)
class Budget:
    """How much may be kept.

    Attributes:
        scope: what meets the budget for itself: each ``layer``, or the ``network``.
        shares: of the dense cost, in (0, 1], one for each scope.
        costs: of each connection, non-negative; None counts connections.
    """

    scope: Scope
    shares: Floats
    costs: Floats | None = None

    def parts(self, table: ConnectionTable) -> list[tuple[Integers, float]]:
        """Connections of each scope, and its share."""
        return list(zip(table.scopes(self.scope), self.shares.tolist(), strict=True))


def keep_balanced(
    table: ConnectionTable,
    scores: Floats,
    law: Law,
    budget: Budget,
    *,
    actuator: Actuator,
    minimum: int,
    eligible: NDArray[np.bool_] | None = None,
    parameter: float | None = None,
) -> NDArray[np.bool_]:
    """The connections that a law of degrees keeps.

    Args:
        table: all masked connections.
        scores: strength of each connection; only its order within a row matters.
        law: degrees of the units.
        budget: what to keep in each scope. Within a layer a unit then ranks within each layer that reads it.
        actuator: what a unit chooses among: its outgoing connections, its incoming ones, both intersected, or both
            matched (see :mod:`synbb.pruning.matching`; connections must be what is counted).
        minimum: least degree of a unit in each of its rows.
        eligible: connections to choose from, all by default.
        parameter: of the law, to apply as it stands; the budget is then not looked at.

    Returns:
        bool, shape (connections,). Where connections are counted, ``round(share * n)`` are true in each scope of n
        connections; any other cost is met from below, to less than the next connection.

    Raises:
        SynbbError: a budget below what the minimum degrees take.
    """
    pairs = table.pairs(actuator)
    allowed = np.ones(table.count, dtype=bool) if eligible is None else eligible
    kept = np.zeros(table.count, dtype=bool)
    for members, share in budget.parts(table):
        chosen = members[allowed[members]]
        place = np.full(len(members), -1)
        place[allowed[members]] = np.arange(len(chosen))
        rows = Rows(scores[chosen])
        for connections, units in pairs:
            first, last = np.searchsorted(connections, (members[0], members[-1] + 1))
            local = place[connections[first:last] - members[0]]
            rows.add(local[local >= 0], units[first:last][local >= 0])
        # Channels that are no units have no on-rate: each scope's remainder is ranked on its own, at the share asked.
        rest, inside = np.flatnonzero(~rows.covered), np.flatnonzero(rows.covered)
        if parameter is not None:
            kept[chosen[rest]] = True
            kept[chosen[rows.granted(law, minimum, parameter)]] = True
        elif budget.costs is None:
            rest_budget = round(share * len(rest))
            kept[chosen[_strongest(rest, scores[chosen], rest_budget)]] = True
            wanted = min(round(share * len(members)) - rest_budget, len(inside))
            keep = rows.keep_matched if actuator == "matched" else rows.keep
            kept[chosen[keep(law, wanted, minimum)]] = True
        else:
            costs = budget.costs[chosen]
            ranked = rest[np.argsort(-scores[chosen][rest], kind="stable")]
            spent = prefix(ranked, costs, share * float(costs[rest].sum()))
            kept[chosen[spent]] = True
            total = share * float(budget.costs[members].sum()) - float(costs[spent].sum())
            kept[chosen[rows.keep_within(law, total, minimum, costs)]] = True
    return kept


def keep_strongest(
    table: ConnectionTable, scores: Floats, budget: Budget, *, eligible: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """The connections with the largest scores in each scope, ties by index."""
    kept = np.zeros(table.count, dtype=bool)
    for members, share in budget.parts(table):
        chosen = members if eligible is None else members[eligible[members]]
        if budget.costs is None:
            kept[_strongest(chosen, scores, round(share * len(members)))] = True
        else:
            ranked = chosen[np.argsort(-scores[chosen], kind="stable")]
            kept[prefix(ranked, budget.costs, share * float(budget.costs[members].sum()))] = True
    return kept


def keep_in_rows(
    table: ConnectionTable,
    scores: Floats,
    budget: Budget,
    rows: Integers,
    *,
    eligible: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """The same share of every row, its strongest connections; what rounding leaves over goes by index.

    Args:
        table: all masked connections.
        scores: strength of each.
        budget: shares of connections; costs are not looked at.
        rows: row of each connection within its layer (its output channel, say).
        eligible: connections to choose from.
    """
    kept = np.zeros(table.count, dtype=bool)
    for members, share in budget.parts(table):
        chosen = members if eligible is None else members[eligible[members]]
        present, owner = np.unique(table.layer[chosen] * (int(rows.max()) + 1) + rows[chosen], return_inverse=True)
        held = Rows(scores[chosen])
        held.add(np.arange(len(chosen)), owner)
        even = balance.Balance(np.zeros(len(present)), beta=1.0)
        kept[chosen[held.keep(even, min(round(share * len(members)), len(chosen)), 0)]] = True
    return kept


def pattern_eligible(
    table: ConnectionTable, scores: Floats, linear: Sequence[bool], keep: int, of: int
) -> NDArray[np.bool_]:
    """What an N:M pattern leaves: the ``keep`` strongest of each ``of`` consecutive inputs of a linear layer's output.

    Args:
        table: all masked connections.
        scores: strength of each.
        linear: whether each layer is linear; the pattern leaves others alone.
        keep: N.
        of: M.
    """
    eligible = np.ones(table.count, dtype=bool)
    for number, (members, is_linear) in enumerate(zip(table.scopes("layer"), linear, strict=True)):
        if not is_linear:
            continue
        inputs = int(table.source[members].max()) + 1
        if inputs % of:
            raise SynbbError(
                f"pruning pattern {keep}:{of}: masked layer {number} has {inputs} inputs, no multiple of {of}"
            )
        blocks = scores[members].reshape(-1, of)  # (out, in) row by row, so that M consecutive inputs stand together
        order = np.argsort(-blocks, axis=1, kind="stable")
        allowed = np.zeros(blocks.shape, dtype=bool)
        np.put_along_axis(allowed, order[:, :keep], True, axis=1)
        eligible[members] = allowed.ravel()
    return eligible


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
        """Rows of one actuator: the connections of each unit."""
        present, rows = np.unique(units, return_inverse=True)
        capacities = np.bincount(rows, minlength=len(present))
        order = np.lexsort((connections, -self._scores[connections], rows))
        first = np.cumsum(capacities) - capacities
        ranks = np.empty(len(connections), dtype=np.int64)
        ranks[order] = np.arange(len(connections)) - first[rows[order]]
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


def _join(channels: Integers, pairs: Integers, start: int) -> Integers:
    """Pairs (connection, unit) of connections whose channel stands in ``pairs`` (channel, unit), by connection."""
    order = np.argsort(channels, kind="stable")
    left = np.searchsorted(channels[order], pairs[0], side="left")
    right = np.searchsorted(channels[order], pairs[0], side="right")
    connections = [order[a:b] + start for a, b in zip(left, right, strict=True)]
    units = np.repeat(pairs[1], right - left)
    flat = np.concatenate(connections) if connections else np.zeros(0, dtype=np.int64)
    joined = np.stack([flat, units]).astype(np.int64)
    return joined[:, np.lexsort((joined[1], joined[0]))]


def _strongest(members: Integers, scores: Floats, count: int) -> Integers:
    """The ``count`` of ``members`` with the largest scores, ties by index."""
    return members[np.argsort(-scores[members], kind="stable")[:count]]
