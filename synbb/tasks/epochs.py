"""Which items of a training set a step takes: endless shuffled epochs that need no state to be continued."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MIXED = 32
"""Batches whose items are sorted by length together."""


@dataclass(frozen=True)
class Drawn:
    """One item of a batch.

    Attributes:
        place: in the training set.
        seed: of its random changes.
    """

    place: int
    seed: int


class Epochs:
    """An endless sequence of shuffled epochs, a function of the seed alone: an interrupted run goes on where it was.

    Args:
        count: items of the training set, at least one.
        seed: of the run.
        batch_size: items of a step, over all ranks.
        lengths: of each item, None where all are alike. Those of a batch are of about one length, so that little is
            padding, and an epoch has whole batches.
    """

    def __init__(self, count: int, *, seed: int, batch_size: int, lengths: Sequence[int] | None = None) -> None:
        self._seed, self._batch_size = seed, batch_size
        self._count = count
        self._lengths = None if lengths is None else np.array(lengths)
        self._span = count if lengths is None else max(count // batch_size, 1) * batch_size
        self._local = threading.local()  # each loader thread is somewhere else in the sequence

    def drawn(self, step: int, rank: int, world_size: int) -> list[Drawn]:
        """A rank's share of the items of a step."""
        first = step * self._batch_size
        return [self._at(first + item) for item in range(rank, self._batch_size, world_size)]

    def _at(self, position: int) -> Drawn:
        epoch, place = divmod(position, self._span)
        held = getattr(self._local, "order", None)
        if held is None or held[0] != epoch:
            held = self._local.order = (epoch, self._order(np.random.default_rng([self._seed, epoch])))
        seed = np.random.default_rng([self._seed, position, 1]).integers(2**31)
        return Drawn(int(held[1][place]), int(seed))

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        order = rng.permutation(self._count)
        if self._lengths is None:
            return order
        order = np.resize(order, self._span)
        for first in range(0, self._span, MIXED * self._batch_size):
            window = order[first : first + MIXED * self._batch_size]
            window[:] = window[np.argsort(self._lengths[window], kind="stable")]
        return np.asarray(rng.permutation(order.reshape(-1, self._batch_size)).reshape(-1), np.int64)
