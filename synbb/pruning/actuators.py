"""From degrees to masks: which connections a unit keeps.

All masked connections of a network stand in one :class:`ConnectionTable`. An actuator groups them into *rows*: all that
leave a unit (fan-out), all that enter it (fan-in). A row keeps its strongest connections, as many as its degree says;
a connection in several rows (both actuators at once, or a channel that sums two units) must be kept by all of them.
The number kept over a *scope* (one layer, or the network) meets the budget exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError
from synbb.pruning import balance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.pruning.wiring import TracedLayer

Actuator = Literal["fan_out", "fan_in", "both"]
Scope = Literal["layer", "network"]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

BISECTIONS = 40
"""Halvings of the range of d0: to 1e-12 of it, below what could move a degree by one connection."""


@dataclass(frozen=True)
class ConnectionTable:
    """Every masked connection of a network, layer after layer, each layer in the order of its flattened weight.

    Attributes:
        layer: number of the layer, shape (connections,).
        out_pairs: (connection, source unit), shape (2, n); a connection whose input channel is no unit has no pair.
        in_pairs: (connection, target unit), likewise.
    """

    layer: Integers
    layer_sizes: tuple[int, ...]
    out_pairs: Integers
    in_pairs: Integers

    @classmethod
    def build(
        cls, layers: Sequence[TracedLayer], shapes: Sequence[Sequence[int]], repeat: Sequence[int]
    ) -> ConnectionTable:
        """Table of ``layers`` with weights of ``shapes``; a kernel slice counts as ``repeat`` connections each."""
        outgoing, incoming, numbers, sizes = [], [], [], []
        start = 0
        for number, (layer, shape, times) in enumerate(zip(layers, shapes, repeat, strict=True)):
            source, target = (np.repeat(each.ravel(), times) for each in layer.connection_channels(shape))
            numbers.append(np.full(len(source), number))
            outgoing.append(_join(source, layer.reads, start))
            incoming.append(_join(target, layer.writes, start))
            sizes.append(len(source))
            start += len(source)
        return cls(np.concatenate(numbers), tuple(sizes), np.concatenate(outgoing, 1), np.concatenate(incoming, 1))

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

    def fan_out(self, kept: NDArray[np.bool_], units: int) -> Integers:
        """Number of kept connections that leave each unit."""
        return np.bincount(self.out_pairs[1], weights=kept[self.out_pairs[0]], minlength=units).astype(np.int64)

    def fan_in(self, kept: NDArray[np.bool_], units: int) -> Integers:
        """Number of kept connections that enter each unit."""
        return np.bincount(self.in_pairs[1], weights=kept[self.in_pairs[0]], minlength=units).astype(np.int64)


def keep_balanced(
    table: ConnectionTable,
    scores: Floats,
    on_rates: Floats,
    *,
    density: float,
    actuator: Actuator,
    scope: Scope,
    beta: float,
    minimum: int,
) -> NDArray[np.bool_]:
    """The connections that the selectivity-audience balance keeps at ``density``.

    Args:
        table: all masked connections.
        scores: strength of each connection; only its order within a row matters.
        on_rates: a_i of each unit; nan counts as 0.5, which gives a unit exactly d0.
        density: share of the connections to keep in each scope.
        actuator: what a unit chooses among: its outgoing connections, its incoming ones, or both intersected.
        scope: meet the density within each layer (a unit then ranks within each layer that reads it), or over the
            network with one offset d0.
        beta: strength of the law.
        minimum: least degree of a unit in each of its rows.

    Returns:
        bool, shape (connections,), with ``round(density * n)`` true in each scope of n connections.

    Raises:
        SynbbError: the density is below what the minimum degrees take.
    """
    if actuator not in ("fan_out", "fan_in", "both"):
        raise SynbbError(f"pruning actuator {actuator!r} is not one of fan_out, fan_in, both")
    pairs = {"fan_out": [table.out_pairs], "fan_in": [table.in_pairs], "both": [table.out_pairs, table.in_pairs]}
    odds_of_unit = balance.log_odds(on_rates)
    kept = np.zeros(table.count, dtype=bool)
    for members in table.scopes(scope):
        rows = _Rows(scores[members])
        for connections, units in pairs[actuator]:
            first, last = np.searchsorted(connections, (members[0], members[-1] + 1))
            rows.add(connections[first:last] - members[0], units[first:last], odds_of_unit)
        # Channels that are no units have no on-rate: each scope's remainder is ranked on its own, at the density asked.
        rest = np.flatnonzero(~rows.covered)
        rest_budget = round(density * len(rest))
        kept[members[rows.keep(round(density * len(members)) - rest_budget, beta, minimum)]] = True
        kept[members[_strongest(rest, scores[members], rest_budget)]] = True
    return kept


def keep_strongest(table: ConnectionTable, scores: Floats, *, density: float, scope: Scope) -> NDArray[np.bool_]:
    """The connections with the largest scores in each layer or over the network, ties by index."""
    kept = np.zeros(table.count, dtype=bool)
    for members in table.scopes(scope):
        kept[_strongest(members, scores, round(density * len(members)))] = True
    return kept


class _Rows:
    """Rows of one scope: each connection's rank in each of its rows, and each row's capacity and log-odds.

    Args:
        scores: strength of each connection of the scope; connections are numbered within it.
    """

    def __init__(self, scores: Floats) -> None:
        self._scores = scores
        self._times = np.zeros(len(scores), dtype=np.int64)  # in how many rows a connection stands
        self._parts: list[tuple[Integers, Integers, Integers]] = []  # connections, ranks, rows
        self._capacities: list[Floats] = []
        self._odds: list[Floats] = []
        self._row_count = 0

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Whether each connection stands in a row."""
        return self._times > 0

    def add(self, connections: Integers, units: Integers, odds_of_unit: Floats) -> None:
        """Rows of one actuator: the connections of each unit."""
        present, rows = np.unique(units, return_inverse=True)
        capacities = np.bincount(rows, minlength=len(present))
        order = np.lexsort((connections, -self._scores[connections], rows))
        first = np.cumsum(capacities) - capacities
        ranks = np.empty(len(connections), dtype=np.int64)
        ranks[order] = np.arange(len(connections)) - first[rows[order]]
        self._parts.append((connections, ranks, rows + self._row_count))
        self._capacities.append(capacities.astype(np.float64))
        self._odds.append(odds_of_unit[present])
        self._row_count += len(present)
        self._times += np.bincount(connections, minlength=len(self._times))

    def keep(self, budget: int, beta: float, minimum: int) -> Integers:
        """Exactly ``budget`` connections that the law keeps, as indices.

        Where each connection stands in one row, rows keep as many as the law says, integers by largest remainder.
        Where it stands in several, all of them must keep it: d0 is bisected on the size of that intersection, and
        what rounding leaves over goes by how far a connection lies beyond its worst row's degree.

        Raises:
            SynbbError: the budget is below what the minimum degrees take.
        """
        members = np.flatnonzero(self._times)
        if not len(members):
            return members
        capacities, odds = np.concatenate(self._capacities), np.concatenate(self._odds)
        if self._times.max() == 1:
            offset = balance.solve_offset(odds, capacities, budget, beta, minimum)
            granted = balance.apportion(balance.degrees(odds, capacities, offset, beta, minimum), budget)
            inside = [part[0][part[1] < granted[part[2]]] for part in self._parts]
            return np.concatenate(inside)
        # Scores and on-rates decide how many connections minimum degrees take here; this bound holds whatever they are,
        # so that a budget accepted at the start is never refused in the middle of training.
        least = int(np.ceil(np.minimum(minimum, capacities).sum() / self._times.max()))
        if budget < least:
            raise SynbbError(
                f"a budget of {budget} connections is out of reach: minimum degrees of {minimum} take at least {least} "
                f"of {len(members)}; choose a larger density or a smaller minimum"
            )
        offset = self._bisect(members, capacities, odds, budget, beta, minimum)
        excess = self._excess(balance.degrees(odds, capacities, offset, beta, minimum))[members]
        return members[np.argsort(excess, kind="stable")[:budget]]

    def _excess(self, real_degrees: Floats) -> Floats:
        """How far each connection's rank lies beyond its row's degree, the worst of its rows; at most -1 is inside."""
        worst = np.full(len(self._times), -np.inf)
        for connections, ranks, rows in self._parts:
            np.maximum.at(worst, connections, ranks - real_degrees[rows])
        return worst

    def _bisect(
        self, members: Integers, capacities: Floats, odds: Floats, budget: int, beta: float, minimum: int
    ) -> float:
        span = float(np.abs(odds).max(initial=0.0)) / beta + 1.0
        low, high = -span, span
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            excess = self._excess(balance.degrees(odds, capacities, middle, beta, minimum))[members]
            if np.count_nonzero(excess <= -0.5) < budget:
                low = middle
            else:
                high = middle
        return 0.5 * (low + high)


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
