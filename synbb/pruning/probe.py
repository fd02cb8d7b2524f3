"""How a network codes held-out data: on-rates, coding entropy, correlation and dimension of its units.

The same measure for every pruning method and for the dense network: evaluation mode, one threshold (a unit is on where
h > 0), the same inputs and the same sampled positions.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from synbb.errors import SynbbError
from synbb.pruning.balance import binary_entropy
from synbb.pruning.observing import Observers, ValidMasks
from synbb.pruning.statistics import SUMS, check_statistic, rates, statistic_of, sums

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn

    from synbb.pruning.observing import Valid
    from synbb.pruning.statistics import Array, StatisticChoice
    from synbb.pruning.wiring import UnitGroup, Wiring

NAN = float("nan")


@dataclass(frozen=True)
class GroupProbe:
    """One group of units; figures are nan where nothing was seen.

    Attributes:
        name: of the group.
        size: its units.
        positions: positions counted.
        entropy: mean coding entropy H(P(h > 0)) of its units, bit.
        correlation: mean absolute Pearson correlation between its binarised units, over pairs of units that vary.
        constant: share of units that are always or never on among the sampled positions; no pair holds them.
        participation: participation ratio of the covariance of its activations, (sum of eigenvalues)² / sum of their
            squares, over the number of units; 1 when all directions carry the same variance, 0 when none carries any.
    """

    name: str
    size: int
    positions: int
    entropy: float
    correlation: float
    constant: float
    participation: float


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """The network; means over units for entropy, over groups weighed by their units for the rest.

    Attributes:
        rates: on-rate of each unit by the statistic asked for, shape (units,), nan where a unit was not seen.
        on: P(h > 0) of each unit, exact, likewise.
        groups: each group.
        inputs: samples that were run.
    """

    rates: Array
    on: Array
    groups: tuple[GroupProbe, ...]
    inputs: int
    entropy: float
    correlation: float
    constant: float
    participation: float


def probe(
    model: nn.Module,
    wiring: Wiring,
    batches: Iterable[Tensor | Sequence[Any]],
    *,
    valid: Iterable[Valid] | None = None,
    statistic: str = "sign",
    positions: int = 4096,
    seed: int = 0,
) -> ProbeReport:
    """Run ``model`` over held-out inputs, in evaluation mode and without gradients, and measure its units.

    Nothing in the model is changed: modes are put back and hooks taken off. On-rates are counted over all positions;
    correlation and participation are measured on ``positions`` of each group, drawn without replacement and uniformly
    over all batches, at places that depend on ``seed`` and the shapes alone.

    Args:
        model: the network.
        wiring: of :func:`synbb.pruning.wiring.trace`.
        batches: inputs, batch first, on the model's device: each a tensor, or the positional arguments of ``model``,
            of which the first one says how many samples they are.
        valid: for each batch the positions that count: bool (batch, 1, *space), or None for all, or such masks by
            patterns of module names, as :data:`synbb.pruning.observing.Valid` says.
        statistic: of :attr:`ProbeReport.rates`; everything else is at the one threshold h > 0.
        positions: sampled positions a group; bounds the memory.
        seed: of the sample.

    Raises:
        SynbbError: no such statistic, a mask that does not fit, fewer masks than batches, or fewer than 2 positions.
    """
    if positions < 2:
        raise SynbbError(f"{positions} positions say nothing of correlations; sample 2 or more")
    taken = [_Taken(group, check_statistic(statistic), positions) for group in wiring.groups]
    now: dict[str, Any] = {}

    def see(number: int, values: Tensor, axis: int) -> None:
        mask = now["masks"].at(number, values.shape, axis)
        shape = tuple(size for dim, size in enumerate(values.shape) if dim != axis)
        if shape not in now["keys"]:
            now["keys"][shape] = np.random.default_rng([seed, now["batch"], *shape]).random(int(np.prod(shape)))
        taken[number].add(values, axis, mask, now["keys"][shape])

    observers = Observers(model, wiring.groups, see, lambda _: True)
    inputs = 0
    masks = iter(valid) if valid is not None else repeat(None)
    try:
        with _evaluating(model), torch.no_grad():
            for number, batch in enumerate(batches):
                given = (batch,) if isinstance(batch, Tensor) else tuple(batch)
                try:
                    mask = next(masks)
                except StopIteration:
                    raise SynbbError(
                        f"batch {number} has no valid mask, as valid ended: give a mask, or None, for each batch"
                    ) from None
                now |= {"batch": number, "keys": {}, "masks": ValidMasks(mask, wiring.groups)}
                model(*given)
                inputs += len(given[0])
    finally:
        observers.close()
    return _report(taken, inputs)


class _Taken:
    """What is taken of one group: sums over all positions, and a bounded sample of positions."""

    def __init__(self, group: UnitGroup, statistic: StatisticChoice, limit: int) -> None:
        self.group, self._limit = group, limit
        self._statistic = statistic_of(group, statistic)
        self._on = np.zeros((1, group.size))
        self._sums = np.zeros((SUMS[self._statistic], group.size))
        self.positions = 0
        self._keys = np.zeros(0)
        self.values = np.zeros((0, group.size))

    def add(self, values: Tensor, axis: int, valid: tuple[Tensor, Tensor] | None, keys: Array) -> None:
        mask = None if valid is None else valid[0]
        on = sums("sign", values, axis, mask)
        self._on += on.cpu().numpy()
        of_statistic = on if self._statistic == "sign" else sums(self._statistic, values, axis, mask)
        self._sums += of_statistic.cpu().numpy()
        self.positions += len(keys) if valid is None else int(valid[1])
        if mask is not None:
            keys = np.where(mask.movedim(axis, -1).flatten().cpu().numpy(), keys, np.inf)
        self._sample(values.movedim(axis, -1), keys)

    def _sample(self, values: Tensor, keys: Array) -> None:
        """Keep the positions with the smallest keys: a uniform sample without replacement of all seen so far."""
        worst = self._keys.max() if len(self._keys) == self._limit else np.inf
        better = np.flatnonzero(keys < worst)
        better = better[np.argsort(keys[better], kind="stable")[: self._limit]]
        places = np.unravel_index(better, values.shape[:-1])
        found = values[tuple(torch.from_numpy(each).to(values.device) for each in places)]
        merged = np.concatenate([self._keys, keys[better]])
        both = np.concatenate([self.values, found.double().cpu().numpy()])
        order = np.argsort(merged, kind="stable")[: self._limit]
        self._keys, self.values = merged[order], both[order]

    def rates(self) -> Array:
        """By the statistic asked for."""
        return rates(self._statistic, self._sums, np.full(self.group.size, float(self.positions)))

    def on(self) -> Array:
        """P(h > 0)."""
        return rates("sign", self._on, np.full(self.group.size, float(self.positions)))


def _report(taken: Sequence[_Taken], inputs: int) -> ProbeReport:
    on = np.concatenate([np.zeros(0), *(each.on() for each in taken)])
    groups = tuple(_group(each) for each in taken)
    sizes = np.array([group.size for group in groups], dtype=np.float64)

    def mean(name: str) -> float:
        figures = np.array([getattr(group, name) for group in groups])
        known = ~np.isnan(figures)
        return float(np.average(figures[known], weights=sizes[known])) if known.any() else NAN

    return ProbeReport(
        rates=np.concatenate([np.zeros(0), *(each.rates() for each in taken)]),
        on=on,
        groups=groups,
        inputs=inputs,
        entropy=mean("entropy"),
        correlation=mean("correlation"),
        constant=mean("constant"),
        participation=mean("participation"),
    )


def _group(taken: _Taken) -> GroupProbe:
    group, sample = taken.group, taken.values
    if len(sample) < 2:
        return GroupProbe(group.name, group.size, taken.positions, NAN, NAN, NAN, NAN)
    on = sample > 0
    varies = on.any(0) & ~on.all(0)
    return GroupProbe(
        name=group.name,
        size=group.size,
        positions=taken.positions,
        entropy=float(binary_entropy(taken.on()).mean()),
        correlation=mean_correlation(on[:, varies]),
        constant=1.0 - float(varies.mean()),
        participation=participation_ratio(sample),
    )


def mean_correlation(on: np.ndarray) -> float:
    """Mean absolute off-diagonal Pearson correlation of units that vary, shape (positions, units); nan below two."""
    units = on.shape[1]
    if units < 2:
        return NAN
    matrix = np.abs(np.corrcoef(on.astype(np.float64), rowvar=False))
    return float((matrix.sum() - np.trace(matrix)) / (units * (units - 1)))


def participation_ratio(values: Array) -> float:
    """(sum of eigenvalues)² / sum of their squares of the covariance of (positions, units), over the units."""
    centred = values - values.mean(0)
    covariance = centred.T @ centred
    # The trace is the sum of the eigenvalues, and the sum of all squared entries that of their squares.
    squares = float(np.square(covariance).sum())
    return float(np.trace(covariance)) ** 2 / squares / values.shape[1] if squares else 0.0


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; every module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
