"""Whole units: those that lose their audience are silenced, so that they can be removed from the network later.

A silenced unit keeps no outgoing connection and no incoming one. Removing it then changes nothing (exactly so
behind instance and batch norm), which kernel-wise masks seldom allow. Units that also feed an unmasked layer, such as
the head, cannot be silenced and stay.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from synbb.errors import SynbbError, get_extra
from synbb.pruning.balance import HALVINGS, RATE_FLOOR, log_odds
from synbb.pruning.pruner import Pruner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from synbb.pruning.balance import Floats, Integers
    from synbb.pruning.evidence import Evidence


class UnitPruner(Pruner):
    """Silences whole units, those of the lowest score first; connections are kernel slices.

    The largest set of units stays whose connections fit the budget: within a scope it is met to one unit. ``scope``
    ``layer`` silences the same share of every unit group, ``network`` ranks all units together.

    Args:
        density: share of the masked connections that is live at the end.
        least_units: units that every group keeps.
        options: those of :class:`Pruner`.
    """

    def __init__(self, density: float, *, least_units: int = 1, **options: Any) -> None:
        super().__init__(density, **options)
        for name in ("connection", "budget", "allocation"):
            given, only = {
                "connection": (self.connection, "kernel"),
                "budget": (self.currency, "density"),
                "allocation": (self.allocation, "uniform"),
            }[name]
            if given != only:
                raise SynbbError(f"pruning whole units: {name} {given!r} is not for them, use {only!r}")
        if self.pattern is not None:
            raise SynbbError("pruning whole units: pattern is for single weights of linear layers; drop it")
        if least_units < 1:
            raise SynbbError(
                f"pruning least_units of {least_units} must be at least 1: a group without units cuts the network"
            )
        self.least_units = least_units

    @abstractmethod
    def unit_scores(self, evidence: Evidence) -> Floats:
        """Score of each unit; the lowest of a group are silenced first."""

    def mean_weight(self, evidence: Evidence, pairs: Integers) -> Floats:
        """Mean relative norm of each unit's connections in ``pairs`` (connection, unit); 0 for a unit without any."""
        connections, units = pairs
        count = self.wiring.unit_count
        total = np.bincount(units, weights=evidence.relative_weights()[connections], minlength=count)
        return total / np.maximum(np.bincount(units, minlength=count), 1)

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """Connections whose both ends are alive.

        Raises:
            SynbbError: even the least number of units takes more than the budget.
        """
        standing = self._standing(self.unit_scores(evidence))
        most = round(share * self.table.count)

        def kept(level: float) -> np.ndarray:
            return self._connections(standing > 1 - level)

        if not np.count_nonzero(kept(0.0)) <= most:
            raise SynbbError(
                f"a density of {share:.4f} is out of reach for whole units: {self.least_units} in each group take "
                f"{np.count_nonzero(kept(0.0)) / self.table.count:.4f} of the connections; choose a larger density or "
                "smaller least_units"
            )
        low, high = 0.0, 1.0 + 1e-9
        if np.count_nonzero(kept(high)) <= most:
            return kept(high)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            if np.count_nonzero(kept(middle)) <= most:
                low = middle
            else:
                high = middle
        return kept(low)

    def _standing(self, scores: Floats) -> Floats:
        """Place of each unit in (0, 1], the best near 1; infinite for units that stay whatever the budget."""
        standing = np.zeros(len(scores))
        fixed = self._fixed()
        groups = [np.arange(group.first, group.first + group.size) for group in self.wiring.groups]
        for units in groups if self.scope == "layer" else [np.concatenate(groups)]:
            free = units[~fixed[units]]
            order = free[np.argsort(scores[free], kind="stable")]
            standing[order] = (np.arange(len(order)) + 0.5) / max(len(order), 1)
        for units in groups:
            best = units[np.argsort(-scores[units], kind="stable")[: self.least_units]]
            standing[best] = np.inf
        standing[fixed] = np.inf
        return standing

    def _fixed(self) -> np.ndarray:
        """Units that feed something else than masked layers, or nothing at all: they cannot be silenced."""
        units = self.wiring.unit_count
        masked = {layer.name for layer in self.layers}
        open_out, read = np.zeros(units, dtype=bool), np.zeros(units, dtype=bool)
        open_out[list(self.wiring.shown)] = True
        for layer in self.wiring.layers:
            read[layer.reads[1]] = True
            if layer.name not in masked:
                open_out[layer.reads[1]] = True
        return open_out | ~read

    def _connections(self, alive: np.ndarray) -> np.ndarray:
        """Connections with a living unit, or a channel that is no unit, at both ends."""
        kept = np.ones(self.table.count, dtype=bool)
        for connections, units in (self.table.out_pairs, self.table.in_pairs):
            ends = np.bincount(connections, minlength=self.table.count)
            living = np.bincount(connections, weights=alive[units], minlength=self.table.count)
            kept &= (ends == 0) | (living > 0)
        return kept


class UnitBroadcast(UnitPruner):
    """Budgeted Broadcast on whole units: those to which the balance grants the smallest audience are silenced.

    At a common offset the granted audience falls with the on-rate, so the busiest go first.
    """

    method = "bb"
    reads_rates = True

    def __init__(self, density: float, *, gate: float = 0.03, **options: Any) -> None:
        super().__init__(density, gate=gate, **options)
        self._last_rates: Floats | None = None

    def judged(self) -> np.ndarray:
        """Units that can be silenced."""
        return np.flatnonzero(~self._fixed())

    def observe(self, evidence: Evidence) -> None:
        """See :meth:`Pruner.observe`; and keep the on-rate that each unit had while it lived.

        A silenced unit is the constant that its bias makes of it, which says nothing of its traffic.
        """
        super().observe(evidence)
        written, units = self.table.in_pairs
        inputs = np.bincount(units, minlength=self.wiring.unit_count)
        alive = np.bincount(units, weights=evidence.live[written], minlength=len(inputs)) > 0
        self._last_rates = np.where(alive | (inputs == 0), evidence.rates, self.rates_decided(evidence))

    def rates_decided(self, evidence: Evidence) -> Floats:
        """On-rates, of silenced units the last ones that they had."""
        return evidence.rates if self._last_rates is None else self._last_rates

    def own_state(self) -> dict[str, Any]:
        """See :meth:`Pruner.own_state`."""
        last = None if self._last_rates is None else torch.from_numpy(self._last_rates.copy())
        return {**super().own_state(), "last_rates": last}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """See :meth:`Pruner.load_own_state`."""
        super().load_own_state(state)
        last = state.get("last_rates")  # states of before 2026-12-01 have none
        self._last_rates = None if last is None else last.cpu().numpy().copy()

    def unit_scores(self, evidence: Evidence) -> Floats:
        """Log-odds of each on-rate."""
        return log_odds(self.rates_decided(evidence))


class UnitUtility(UnitBroadcast):
    """Utility per unit of traffic: mean relative weight of a unit's outgoing connections over its on-rate."""

    method = "bb-utility"

    def unit_scores(self, evidence: Evidence) -> Floats:
        """Audience-weighted norm over traffic, a k."""
        rates = np.clip(np.nan_to_num(self.rates_decided(evidence), nan=0.5), RATE_FLOOR, 1.0)
        return self.mean_weight(evidence, self.table.out_pairs) / rates


class UnitNorm(UnitPruner):
    """L1 norm of the filters that write a unit (Li et al. 2017), relative to their layer."""

    method = "magnitude"

    def unit_scores(self, evidence: Evidence) -> Floats:
        """Mean relative norm of the incoming connections."""
        return self.mean_weight(evidence, self.table.in_pairs)


class UnitNormScale(UnitPruner):
    """Scale |gamma| of the norm in front of a unit (Liu et al. 2017, network slimming)."""

    method = "norm-scale"

    def unit_scores(self, evidence: Evidence) -> Floats:  # noqa: ARG002
        """Absolute gains.

        Raises:
            SynbbError: a unit that could be silenced has no norm with a scale in front of it.
        """
        modules = dict(self.model.named_modules())
        scores = np.zeros(self.wiring.unit_count)
        fixed = self._fixed()
        for group in self.wiring.groups:
            own = slice(group.first, group.first + group.size)
            norm = None if group.norm is None else modules[group.norm]
            if norm is not None:
                scores[own] = norm.weight.detach().abs().double().cpu().numpy()
            elif not fixed[own].all():
                raise SynbbError(
                    f"pruning method 'norm-scale': no norm with a scale stands in front of units {group.name!r}"
                )
        return scores


class GroupNorm(UnitPruner):
    """Group norm of Torch-Pruning (Fang et al. 2023), an opponent from outside: its own graph, its own scores.

    The norm of all weights that go with a unit: those that write it, its norm's and those that read it. Needs the
    package ``torch-pruning`` (extra ``rivals``).
    """

    method = "group-norm"

    def attach(
        self,
        model: nn.Module,
        example_inputs: Tensor | Sequence[Any],
        *,
        optimizer: torch.optim.Optimizer | None = None,
        channel_axis: int = 1,
    ) -> Self:
        """See :meth:`Pruner.attach`.

        Raises:
            SynbbError: torch-pruning is not installed; or as there.
        """
        try:
            import torch_pruning
        except ModuleNotFoundError:
            raise SynbbError(
                f"pruning method 'group-norm' needs the package torch-pruning; {get_extra('rivals')}"
            ) from None
        self._library = torch_pruning
        self._graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example_inputs)
        return super().attach(model, example_inputs, optimizer=optimizer, channel_axis=channel_axis)

    def unit_scores(self, evidence: Evidence) -> Floats:  # noqa: ARG002
        """What the library makes of each unit's group of weights, relative to the mean of its unit group."""
        score = self._library.importance.GroupMagnitudeImportance(p=2, normalizer="mean")
        modules = dict(self.model.named_modules())
        found = np.zeros(self.wiring.unit_count)
        for group in self.wiring.groups:
            layer = modules[group.name]
            linear = isinstance(layer, nn.Linear)
            remove = self._library.prune_linear_out_channels if linear else self._library.prune_conv_out_channels
            weights = self._graph.get_pruning_group(layer, remove, idxs=list(range(group.size)))
            found[group.first : group.first + group.size] = score(weights).double().cpu().numpy()
        return found


class RandomUnits(UnitPruner):
    """A fixed random order of the units."""

    method = "random"

    def unit_scores(self, evidence: Evidence) -> Floats:  # noqa: ARG002
        """Random numbers of the seed."""
        return np.random.default_rng(self.seed).random(self.wiring.unit_count)
