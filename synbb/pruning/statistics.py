"""What the on-rate of a unit is: its statistics, as sums over positions and the ratios made of them.

Every statistic is a few sums a unit that add up over positions, optimiser steps and processes:

    sign          a = P(h > 0)                 number of positions where the unit is above zero
    above_mean    a = P(h > mean of the layer) likewise, against the mean over all units and positions of that pass
    treves_rolls  a = (E|h|)² / E h²           sum of |h| and sum of h²

The last is the sparseness of Treves and Rolls (Network 2, 371, 1991): it equals the on-rate of a unit that is 0 or one
other value, does not change with the unit's gain, and lies in (0, 1] whatever the sign of h, so that it also says
something of units that still transmit when they are "off".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from synbb.pruning.wiring import UnitGroup

Array = np.ndarray[Any, np.dtype[np.float64]]

Statistic = Literal["sign", "treves_rolls", "above_mean"]
StatisticChoice = Literal["sign", "treves_rolls", "above_mean", "auto"]

SUMS: dict[Statistic, int] = {"sign": 1, "treves_rolls": 2, "above_mean": 1}
"""Sums that a statistic keeps of each unit."""

SILENT_WHEN_OFF = frozenset({"relu", "relu6", "threshold"})
"""Activations whose units transmit nothing where they are not above zero."""

RUN = 256
"""Positions added in float32 before float64 takes over."""

WORD = 8
"""Bytes of an int64: so many booleans are added in one addition."""

LANE = 255
"""Words whose sum cannot carry from one byte into the next."""


def check_statistic(asked: str) -> StatisticChoice:
    """``asked``, if there is such a statistic.

    Raises:
        SynbbError: there is none.
    """
    if asked not in get_args(StatisticChoice):
        raise SynbbError(f"pruning statistic {asked!r} is not one of {', '.join(get_args(StatisticChoice))}")
    return cast("StatisticChoice", asked)


def statistic_of(group: UnitGroup, asked: StatisticChoice) -> Statistic:
    """The statistic that the units of ``group`` are measured with.

    ``auto`` takes the sign where a unit that is off transmits nothing (ReLU and its like), else the Treves-Rolls ratio
    (GELU, SiLU, LeakyReLU, PReLU and others). Units without an activation of their own (``group.gated`` false) are
    signed values, of which the sign says nothing: they always take the ratio.
    """
    if not group.gated:
        return "treves_rolls"
    if asked == "auto":
        return "sign" if group.activation in SILENT_WHEN_OFF else "treves_rolls"
    return asked


def is_count(statistic: Statistic) -> bool:
    """Whether its sums are numbers of positions, int64; else they are float64."""
    return statistic != "treves_rolls"


@torch.no_grad()
def sums(statistic: Statistic, values: Tensor, axis: int, valid: Tensor | None = None) -> Tensor:
    """The sums of one tensor of activations.

    Args:
        statistic: which.
        values: activations of a layer, any floating type.
        axis: the axis of its units.
        valid: positions that count, bool, of the shape of ``values`` with one entry along ``axis``.

    Returns:
        shape (sums of the statistic, units), int64 for counts, else float64.
    """
    if statistic == "treves_rolls":
        known = values if valid is None else torch.where(valid, values, 0)
        return _moments(known, axis)
    on = values > 0 if statistic == "sign" else _above_mean(values, axis, valid)
    if valid is not None:
        on &= valid
    return count_true(on, axis)[None]


def rates(statistic: Statistic, found: Array, positions: Array) -> Array:
    """On-rates of units from their sums.

    Args:
        statistic: which.
        found: shape (sums of the statistic, units).
        positions: over how many positions they were taken, shape (units,).

    Returns:
        in [0, 1], shape (units,); nan where no position was seen or a sum is not finite. A unit that was always 0 has
        the rate 0.
    """
    seen = positions > 0
    if is_count(statistic):
        shares: Array = np.divide(found[0], positions, out=np.full(len(positions), np.nan), where=seen)
        return shares
    absolute, squares = found
    with np.errstate(invalid="ignore"):
        ratio = np.divide(absolute**2, positions * squares, out=np.zeros(len(positions)), where=squares != 0)
    return np.where(seen & np.isfinite(absolute) & np.isfinite(squares), np.minimum(ratio, 1.0), np.nan)


def count_true(on: Tensor, axis: int) -> Tensor:
    """Number of true elements for each index of ``axis``, exact, int64, shape (size of the axis,).

    torch adds booleans one by one on CPU, 70 to 90 ms for ten million; read as words, eight at a time, they take 2 ms.
    """
    others = [dim for dim in range(on.dim()) if dim != axis]
    length = on.shape[2:].numel() if on.dim() > 2 else 0
    if axis != 1 or on.device.type != "cpu" or length < WORD * LANE or length % WORD:
        return on.sum(dim=others, dtype=torch.int64) if others else on.long()
    words = on.flatten(2).contiguous().view(torch.int64)
    whole = words.shape[2] // LANE * LANE
    blocks = words[..., :whole].view(*words.shape[:2], whole // LANE, LANE).sum(3)
    rest = words[..., whole:].sum(2, keepdim=True)
    return torch.cat([blocks, rest], 2).view(torch.uint8).sum((0, 2), dtype=torch.int64)


def _above_mean(values: Tensor, axis: int, valid: Tensor | None) -> Tensor:
    """Whether each value is above the mean of all valid ones; half types are compared as float32, like the mean."""
    exact = values.float() if values.element_size() < 4 else values
    if valid is None:
        return exact > exact.mean()
    return exact > torch.where(valid, exact, 0).sum() / (valid.sum() * values.shape[axis])


def _moments(values: Tensor, axis: int) -> Tensor:
    """Sums of |h| and of h² over all positions, float64, shape (2, units).

    Runs of :data:`RUN` positions are reduced in float32 by fused kernels, 20 ms for ten million on one core against
    95 ms in float64 throughout, at a relative error of about 1e-6; the runs are added in float64.
    """
    rows = values.movedim(axis, 1).flatten(2) if values.dim() > 2 else values.movedim(axis, -1).T[None]
    whole = rows.shape[2] // RUN * RUN
    parts = [rows[..., :whole].unflatten(2, (-1, RUN)), rows[..., None, whole:]]
    found = []
    for part in (each.to(torch.promote_types(each.dtype, torch.float32)) for each in parts if each.numel()):
        absolute, root = (torch.linalg.vector_norm(part, order, 3).double() for order in (1, 2))
        found.append(torch.stack([absolute.sum((0, 2)), root.square().sum((0, 2))]))
    if not found:
        return torch.zeros(2, values.shape[axis], dtype=torch.float64, device=values.device)
    return torch.stack(found).sum(0)
