"""All masked connections of a network, the units at their two ends, and how many of them may be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from synbb.pruning.balance import Floats, Integers
    from synbb.pruning.wiring import TracedLayer

Actuator = Literal["fan_out", "fan_in", "both", "matched"]
ACTUATORS: tuple[Actuator, ...] = ("fan_out", "fan_in", "both", "matched")
Scope = Literal["layer", "network"]


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
