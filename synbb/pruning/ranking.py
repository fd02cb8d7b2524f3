"""Orders of connections by strength, ties by index: the largest few, ranks among all, ranks within rows.

A network has a million connections and a refresh looks at them all, so that nothing here sorts what need not be sorted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from synbb.pruning.balance import Floats, Integers


def strongest(members: Integers, scores: Floats, count: int) -> Integers:
    """The ``count`` of ``members`` with the largest ``scores``, in the order of ``members``; among equals the first.

    Args:
        members: numbers of connections.
        scores: of all connections; NaN is below everything.
        count: how many; none where it is negative, all where there are not as many.
    """
    if count <= 0:
        return members[:0]
    if count >= len(members):
        return members
    values = scores[members]
    values = np.where(np.isnan(values), -np.inf, values)
    last = np.partition(values, len(values) - count)[len(values) - count]
    chosen = values > last
    equals = np.flatnonzero(values == last)
    chosen[equals[: count - int(np.count_nonzero(chosen))]] = True
    found: Integers = members[chosen]
    return found


def ranks(values: Floats) -> Floats:
    """Rank of each value in [0, 1), the largest last, ties by index."""
    found = np.empty(len(values))
    found[np.argsort(values, kind="stable")] = np.arange(len(values)) / max(len(values), 1)
    return found


def ranks_in_rows(scores: Floats, rows: Integers, capacities: Integers) -> Integers:
    """Rank of each entry among those of its row, the largest score first (rank 0), ties by index.

    Args:
        scores: of the entries, shape (n,).
        rows: row of each, 0 to ``len(capacities)`` - 1.
        capacities: entries of each row.
    """
    order = np.argsort(-scores, kind="stable")
    quick = np.uint16 if len(capacities) <= np.iinfo(np.uint16).max else np.int64  # 16 bits are sorted by radix
    order = order[np.argsort(rows[order].astype(quick), kind="stable")]
    first = np.cumsum(capacities) - capacities
    found = np.empty(len(scores), dtype=np.int64)
    found[order] = np.arange(len(scores)) - np.repeat(first, capacities)
    return found


def numbered(units: Integers) -> tuple[Integers, Integers]:
    """The units that occur, ascending, and the place of each entry among them, as ``np.unique`` has them.

    Args:
        units: numbers from 0 on, none much larger than there are units.
    """
    present = np.flatnonzero(np.bincount(units))
    place = np.zeros(int(present[-1]) + 1 if len(present) else 0, dtype=np.int64)
    place[present] = np.arange(len(present))
    return present, place[units]
