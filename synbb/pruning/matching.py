"""Masks in which units meet a degree in both directions: who speaks to many, and who listens to many.

The intersection of two choices (actuator ``both``) bounds a unit's degree by what each choice grants; the degree that
comes of it follows neither. Here every unit has two quotas, for what leaves it and for what enters it, and connections
are made by deferred acceptance (Gale and Shapley 1962, in its many-to-many form): a unit offers its strongest
connections, the unit at the other end takes the strongest offers up to its quota and refuses the rest, and who was
refused offers the next. Nobody then prefers a connection that the other end would take, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from synbb.pruning.balance import Floats, Integers

ROUNDS = 200
"""Offers that are made at most: a round costs a pass over the connections, and the last ones move very few."""


class Side:
    """The rows of one direction, each row's connections from the strongest on.

    Args:
        connections: of each (connection, row) pair.
        rows: row of each pair, 0 to ``count`` - 1.
        scores: strength of each connection of the scope.
        count: number of rows.
    """

    def __init__(self, connections: Integers, rows: Integers, scores: Floats, count: int) -> None:
        order = np.lexsort((connections, -scores[connections], rows))
        self.connections, self.rows = connections[order], rows[order]
        self._first = np.searchsorted(self.rows, np.arange(count))

    def within(self, chosen: NDArray[np.bool_], quotas: Integers) -> NDArray[np.bool_]:
        """Of the ``chosen``, those that each of their rows counts among its ``quotas`` strongest."""
        asked = chosen[self.connections]
        running = np.cumsum(asked)
        before = np.concatenate([[0], running])[self._first]
        beyond = asked & (running - before[self.rows] > quotas[self.rows])
        kept = chosen.copy()
        kept[self.connections[beyond]] = False
        return kept

    def counts(self, chosen: NDArray[np.bool_]) -> Integers:
        """How many of the ``chosen`` stand in each row."""
        counted = np.bincount(self.rows, weights=chosen[self.connections], minlength=len(self._first))
        return counted.astype(np.int64)


def match(
    offering: Side, taking: Side, given: Integers, taken: Integers, candidates: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Connections by deferred acceptance.

    Args:
        offering: rows that offer.
        taking: rows that take or refuse.
        given: most connections of each offering row.
        taken: of each taking row.
        candidates: connections that may be made, shape (connections,).

    Returns:
        bool, likewise. No row has more than its quota, but for one thing: an offering row whose offers were all refused
        makes its strongest ones all the same, so that its degree is met.
    """
    left = candidates.copy()
    made = np.zeros_like(left)
    for _ in range(ROUNDS):
        offered = offering.within(left, given)
        made = taking.within(offered, taken)
        refused = offered & ~made
        if not refused.any():
            break
        left &= ~refused
    room = given - offering.counts(made)
    return made | offering.within(candidates & ~made, np.maximum(room, 0))
