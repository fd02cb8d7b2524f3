"""How much of the budget each layer gets, and what one connection costs.

``uniform`` gives every layer the same share. ``erk`` (Erdős-Rényi-Kernel; Mocanu et al. 2018, Evci et al. 2020) gives
a layer of n inputs, m outputs and kernel extents w a share in proportion to (n + m + sum w) / (n m prod w): small
layers stay denser. :mod:`synbb.pruning.feedback` moves shares by how the loss responds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from synbb.errors import SynbbError
from synbb.pruning.balance import HALVINGS, bisect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.pruning.balance import Floats
    from synbb.pruning.connections import ConnectionTable
    from synbb.pruning.wiring import TracedLayer

Allocation = Literal["uniform", "erk", "loss"]
Currency = Literal["density", "traffic", "macs"]


def shares_in_proportion(
    proportions: Floats, sizes: Floats, share: float, least: Floats | float = 0.0, most: Floats | float = 1.0
) -> Floats:
    """Shares of each layer in ``proportions``, clipped to [``least``, ``most``], that together take ``share`` of all.

    Args:
        proportions: positive, shape (layers,).
        sizes: dense cost of each layer.
        share: of the total.
        least: smallest share of a layer.
        most: largest share of a layer; all together hold ``share``.

    Raises:
        SynbbError: the least shares take more than ``share``.
    """
    total = share * float(sizes.sum())
    floor = np.broadcast_to(np.asarray(least, dtype=np.float64), sizes.shape)
    if float((floor * sizes).sum()) > total * (1 + 1e-9):
        raise SynbbError(f"a budget of {share:.4f} is below what the least share of every layer takes")

    def given(scale: float) -> Floats:
        return np.clip(scale * proportions, floor, np.maximum(most, floor))

    def cost(exponent: float) -> float:
        return float((given(np.exp(exponent)) * sizes).sum())

    reach = np.log(proportions)
    exponent = bisect(cost, -float(reach.max()) - 40.0, -float(reach.min()) + 1.0, total, HALVINGS)
    return given(np.exp(exponent))


def erk_proportions(layers: Sequence[TracedLayer], shapes: Sequence[Sequence[int]]) -> Floats:
    """Erdős-Rényi-Kernel proportion of each layer, from its weight's shape."""
    found = []
    for layer, shape in zip(layers, shapes, strict=True):
        kernel = list(shape[2:])
        inputs, outputs = layer.in_channels / layer.groups, layer.out_channels
        found.append((inputs + outputs + sum(kernel)) / (inputs * outputs * float(np.prod(kernel))))
    return np.array(found)


def connection_costs(
    currency: Currency, table: ConnectionTable, layers: Sequence[TracedLayer], rates: Floats
) -> Floats | None:
    """What each connection costs; None where all cost the same.

    Args:
        currency: ``density`` counts connections, ``traffic`` adds up the on-rates of the units they leave, ``macs``
            multiply-accumulates per sample.
        table: the masked connections.
        layers: the masked layers.
        rates: on-rate of each unit.
    """
    if currency == "density":
        return None
    if currency == "macs":
        each = [layer.positions * layer.weights / size for layer, size in zip(layers, table.layer_sizes, strict=True)]
        return np.array(each)[table.layer]
    return table.source_rates(rates)
