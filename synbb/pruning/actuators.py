"""From degrees to masks: which connections a unit keeps.

All masked connections of a network stand in one table (:mod:`synbb.pruning.connections`). An actuator groups them into
rows (:mod:`synbb.pruning.ranked_rows`): all that leave a unit, all that enter it. What is kept over a *scope* (one
layer, or the network) meets a budget to one connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from synbb.pruning.balance import Balance
from synbb.pruning.ranked_rows import Rows, prefix
from synbb.pruning.ranking import strongest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from synbb.pruning.balance import Floats, Integers, Law
    from synbb.pruning.connections import Actuator, Budget, ConnectionTable


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
        bare = np.ones(len(members), dtype=bool)  # in no row, whether eligible or not
        for connections, units in pairs:
            first, last = np.searchsorted(connections, (members[0], members[-1] + 1))
            own = connections[first:last] - members[0]
            bare[own] = False
            local = place[own]
            rows.add(local[local >= 0], units[first:last][local >= 0])
        # Channels that are no units have no on-rate: each scope's remainder is ranked on its own, at the share asked.
        rest, inside = np.flatnonzero(~rows.covered), np.flatnonzero(rows.covered)
        if parameter is not None:
            kept[chosen[rest]] = True
            kept[chosen[rows.granted(law, minimum, parameter)]] = True
        elif budget.costs is None:
            rest_budget = min(round(share * int(bare.sum())), len(rest))
            kept[chosen[strongest(rest, scores[chosen], rest_budget)]] = True
            wanted = min(round(share * len(members)) - rest_budget, len(inside))
            keep = rows.keep_matched if actuator == "matched" else rows.keep
            kept[chosen[keep(law, wanted, minimum)]] = True
        else:
            costs = budget.costs[chosen]
            ranked = rest[np.argsort(-scores[chosen][rest], kind="stable")]
            spent = prefix(ranked, costs, share * float(budget.costs[members[bare]].sum()))
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
            kept[strongest(chosen, scores, round(share * len(members)))] = True
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
        even = Balance(np.zeros(len(present)), beta=1.0)
        kept[chosen[held.keep(even, min(round(share * len(members)), len(chosen)), 0)]] = True
    return kept
