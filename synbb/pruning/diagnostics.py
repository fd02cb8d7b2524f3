"""What pruning did to a network: densities, multiply-accumulates, on-rates, traffic, dead units and the balance fit.

A report of a dense network has the same figures, so that methods can be set beside each other. On-rates of a pruner are
those it keeps while training; what a :class:`synbb.pruning.probe.ProbeReport` of held-out data adds is measured the
same way for every method.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError
from synbb.pruning.balance import BalanceFit, Floats, balance_fit, binary_entropy
from synbb.pruning.degrees import decided_fit, directions
from synbb.pruning.masks import weights_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from synbb.pruning.probe import ProbeReport
    from synbb.pruning.pruner import Pruner
    from synbb.pruning.wiring import TracedLayer, Wiring

DEAD_RATE = 1e-3
"""A unit that is on at fewer than one in a thousand positions counts as dead."""

NAN = float("nan")


@dataclass(frozen=True)
class LayerReport:
    """One weight layer.

    Attributes:
        name: module name.
        masked: whether pruning may cut its connections; the first layers and the head are left alone.
        connections: its connections when dense.
        density: realised share of them that is live.
        macs: multiply-accumulates of its live weights in one pass over the example inputs.
        on_rate: mean on-rate of the units the layer reads (nan when it reads none); in training, or, when training
            counted none, on held-out data.
        on_rate_spread: their standard deviation.
        traffic: sum of the same on-rates times live connections into this layer (nan when none is known).
        units: units the layer writes to (0 for a layer with no activation of its own).
        dead: of those, units never on, without a live input or without a live consumer.
    """

    name: str
    masked: bool
    connections: int
    density: float
    macs: int
    on_rate: float
    on_rate_spread: float
    traffic: float
    units: int
    dead: int


@dataclass(frozen=True)
class HeldOutCoding:
    """The network on held-out data, in evaluation mode.

    Attributes:
        inputs: samples that were run.
        entropy: mean coding entropy H(P(h > 0)) of a unit, bit.
        traffic: sum of P(h > 0) times live connections over all layers.
        correlation: mean absolute Pearson correlation between binarised units of a group that vary.
        constant: share of units that do not vary among the sampled positions.
        participation: participation ratio of the activations of a group, over its units.
        fits: as :attr:`PruningReport.fits`, with held-out on-rates of the pruner's own statistic.
    """

    inputs: int
    entropy: float
    traffic: float
    correlation: float
    constant: float
    participation: float
    fits: dict[str, BalanceFit]


@dataclass(frozen=True)
class PruningReport:
    """The whole network.

    Attributes:
        density: live share of the masked layers' connections.
        whole_density: live share of all weights, unmasked layers and weights outside the trace included.
        masked_share: share of all weights that the masked layers hold.
        macs: multiply-accumulates of live weights in one pass over the example inputs, all traced layers.
        dense_macs: the same with no weight cut.
        layers: masked ones and others, in the order of the trace.
        entropy: mean coding entropy of a unit, bit, from training on-rates.
        traffic: sum over all layers of on-rate times live connections, likewise; nan when no on-rate is known.
        dead: units never on, without a live input or without a live consumer.
        fits: the balance fit on ``fan_out`` and on ``fan_in`` of the masked layers, for units of 32 and more
            connections in groups of ten and more that no bound clips; empty when no layer is masked.
        decided_fits: the same on the on-rates that the present masks were made from, for the degrees of ``actuated``.
        actuated: the degrees that the law was solved on; none for methods without it.
        churn: share of the connections that was exchanged at the last refresh; nan without one.
        held_out: the figures on held-out data, None when there was none.
    """

    method: str
    steps: int
    final: bool
    density: float
    whole_density: float
    masked_share: float
    macs: int
    dense_macs: int
    layers: tuple[LayerReport, ...]
    entropy: float
    traffic: float
    dead: int
    units: int
    fits: dict[str, BalanceFit]
    decided_fits: dict[str, BalanceFit]
    actuated: tuple[str, ...]
    churn: float
    held_out: HeldOutCoding | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not known (nan) is None."""
        values = asdict(self)
        values["fits"], values["decided_fits"] = _plain_fits(self.fits), _plain_fits(self.decided_fits)
        if self.held_out is not None:
            values["held_out"]["fits"] = _plain_fits(self.held_out.fits)
        plain = _without_nan(values)
        assert isinstance(plain, dict)
        return plain

    def scalars(self) -> dict[str, float]:
        """Every figure of the whole network by name, for metrics; what is not known is left out."""
        names = ("density", "whole_density", "macs", "dense_macs", "entropy", "traffic", "dead", "churn")
        found: dict[str, float] = {name: getattr(self, name) for name in names} | _flat_fits(self.fits)
        found |= {f"decided_{name}": value for name, value in _flat_fits(self.decided_fits).items()}
        if self.held_out is not None:
            coding = ("entropy", "traffic", "correlation", "constant", "participation")
            found |= {f"held_out_{name}": getattr(self.held_out, name) for name in coding}
            found |= {f"held_out_{name}": value for name, value in _flat_fits(self.held_out.fits).items()}
        return {name: value for name, value in found.items() if not math.isnan(value)}


def report(pruner: Pruner, model: nn.Module, probe: ProbeReport | None = None) -> PruningReport:
    """Measure ``pruner`` on ``model``; on-rates are the training ones it keeps.

    Weights are counted over all parameters of ``model`` with two or more axes, norms and biases thus left out. Needs
    no other process: rank 0 may call it alone.

    Args:
        pruner: attached to the model.
        model: the network, or a wrapper that holds it as ``module``.
        probe: of held-out data, for the figures of :class:`HeldOutCoding`.

    Raises:
        SynbbError: the pruner is attached to none, or the model is another one.
    """
    if not pruner.attached:
        raise SynbbError("a report is made of a pruner that was attached to a model: pruner.attach(...) first")
    rates = pruner.activity.rates()
    actuated = () if pruner.actuator is None else directions(pruner)
    wired = _Wired(pruner.wiring, model, pruner.masks, weights=pruner.connection == "weight")
    return _report(
        wired,
        rates,
        probe,
        minimum=float(pruner.minimum),
        whole_network=pruner.scope == "network",
        method=pruner.method,
        steps=pruner.steps,
        final=pruner.final,
        decided_fits={which: decided_fit(pruner, which) for which in actuated},
        actuated=actuated,
        churn=pruner.churn,
    )


def report_dense(
    wiring: Wiring, model: nn.Module, probe: ProbeReport | None = None, *, steps: int = 0
) -> PruningReport:
    """The same of a network that nothing prunes; its on-rates are known from ``probe`` alone.

    Args:
        wiring: of :func:`synbb.pruning.wiring.trace`.
        model: the network.
        probe: of held-out data.
        steps: optimiser steps done.
    """
    wired = _Wired(wiring, model, {}, weights=False)
    unknown = np.full(wiring.unit_count, np.nan)
    return _report(
        wired, unknown, probe, method="none", steps=steps, final=True, decided_fits={}, actuated=(), churn=NAN
    )


class _Wired:
    """Degrees of all layers: live and dense connections of each unit within each layer.

    Args:
        wiring: how units and layers connect.
        model: the network, for the shapes of weights.
        masks: of the masked layers, broadcastable to their weights.
        weights: whether a connection is a single weight (of layers without a mask; a mask says it itself).
    """

    def __init__(self, wiring: Wiring, model: nn.Module, masks: Mapping[str, Tensor], *, weights: bool) -> None:
        self.wiring, self.model = wiring, model
        self.masked = [layer.name in masks for layer in wiring.layers]
        self.connections: list[int] = []
        self.live: list[int] = []
        self.rows: dict[str, list[_Rows]] = {"fan_out": [], "fan_in": []}
        found = weights_of(model, [layer.name for layer in wiring.layers])
        for layer in wiring.layers:
            weight = found[layer.name]
            rows, columns = int(weight.shape[0]), int(weight.shape[1])
            mask = masks.get(layer.name)
            slices = mask if mask is not None else weight
            repeat = slices.numel() // (rows * columns) if mask is not None or weights else 1
            dense = np.full(rows * columns, repeat)
            live = dense if mask is None else mask.reshape(rows * columns, -1).sum(1).cpu().numpy()
            self.connections.append(int(dense.sum()))
            self.live.append(int(live.sum()))
            source, target = (each.ravel() for each in layer.connection_channels(weight.shape))
            self.rows["fan_out"].append(_Rows.of(layer.reads, source, layer.in_channels, live, dense))
            self.rows["fan_in"].append(_Rows.of(layer.writes, target, layer.out_channels, live, dense))

    def degree(self, which: str) -> Floats:
        """Live connections of each unit over all layers, shape (units,)."""
        return self._summed(which, "live")

    def capacity(self, which: str) -> Floats:
        """Connections of each unit when dense, likewise."""
        return self._summed(which, "dense")

    def traffic(self, rates: Floats) -> list[float]:
        """Of each layer: sum of on-rate times live connections; units of unknown on-rate left out, nan if none is."""
        if np.isnan(rates).all():
            return [NAN] * len(self.masked)
        known = np.nan_to_num(rates)
        return [float((known[rows.units] * rows.live).sum()) for rows in self.rows["fan_out"]]

    def fits(self, rates: Floats, minimum: float, *, whole_network: bool) -> dict[str, BalanceFit]:
        """Fit of the law over the rows of the masked layers: units, within each layer unless ``whole_network``."""
        if not any(self.masked):
            return {}
        return {which: self._fit(which, rates, minimum, whole_network=whole_network) for which in self.rows}

    def _fit(self, which: str, rates: Floats, minimum: float, *, whole_network: bool) -> BalanceFit:
        units = self.wiring.unit_count
        rows = [(number, self.rows[which][number]) for number, masked in enumerate(self.masked) if masked]
        keys = [(0 if whole_network else number) * units + each.units for number, each in rows]
        present, row = np.unique(np.concatenate([np.zeros(0, np.int64), *keys]), return_inverse=True)
        live = np.bincount(row, np.concatenate([np.zeros(0), *(each.live for _, each in rows)]), len(present))
        dense = np.bincount(row, np.concatenate([np.zeros(0), *(each.dense for _, each in rows)]), len(present))
        return balance_fit(rates[present % units], live, dense, minimum, groups=present // units)

    def _summed(self, which: str, name: str) -> Floats:
        total = np.zeros(self.wiring.unit_count)
        for rows in self.rows[which]:
            np.add.at(total, rows.units, getattr(rows, name))
        return total


@dataclass(frozen=True)
class _Rows:
    """Degrees within one layer of the units it reads, or of those it writes; a unit may stand more than once."""

    units: np.ndarray
    live: Floats
    dense: Floats

    @classmethod
    def of(cls, pairs: np.ndarray, channels: np.ndarray, count: int, live: np.ndarray, dense: np.ndarray) -> _Rows:
        """Rows of ``pairs`` (channel, unit) from the connections of each kernel slice and the slices' channels."""
        by_channel = [np.bincount(channels, weights=each, minlength=count) for each in (live, dense)]
        return cls(pairs[1], by_channel[0][pairs[0]], by_channel[1][pairs[0]])


def _report(
    wired: _Wired,
    rates: Floats,
    probe: ProbeReport | None,
    *,
    minimum: float = 0.0,
    whole_network: bool = False,
    **about: Any,
) -> PruningReport:
    masked = [number for number, each in enumerate(wired.masked) if each]
    layers = wired.wiring.layers
    seen = rates if probe is None or not np.isnan(rates).all() else probe.on
    dead = seen < DEAD_RATE
    for which in wired.rows:
        dead = dead | ((wired.degree(which) == 0) & (wired.capacity(which) > 0))
    traffic = wired.traffic(seen)
    weights = [layer.weights for layer in layers]
    live = [n * alive / dense for n, alive, dense in zip(weights, wired.live, wired.connections, strict=True)]
    positions = [layer.positions for layer in layers]
    macs = [round(each * times) for each, times in zip(live, positions, strict=True)]
    all_weights = sum(parameter.numel() for parameter in wired.model.parameters() if parameter.dim() > 1)
    connections = sum(wired.connections[number] for number in masked)
    held_out = None
    if probe is not None:
        held_out = HeldOutCoding(
            inputs=probe.inputs,
            entropy=probe.entropy,
            traffic=sum(wired.traffic(probe.on)),
            correlation=probe.correlation,
            constant=probe.constant,
            participation=probe.participation,
            fits=wired.fits(probe.rates, minimum, whole_network=whole_network),
        )
    return PruningReport(
        density=sum(wired.live[number] for number in masked) / connections if connections else 1.0,
        whole_density=(all_weights - sum(weights) + sum(live)) / all_weights,
        masked_share=sum(weights[number] for number in masked) / all_weights,
        macs=sum(macs),
        dense_macs=sum(n * times for n, times in zip(weights, positions, strict=True)),
        layers=tuple(_layer(wired, number, seen, traffic[number], macs[number], dead) for number in range(len(layers))),
        entropy=_mean(binary_entropy(rates)),
        traffic=sum(wired.traffic(rates)),
        dead=int(dead.sum()),
        units=len(rates),
        fits=wired.fits(rates, minimum, whole_network=whole_network),
        held_out=held_out,
        **about,
    )


def _layer(wired: _Wired, number: int, rates: Floats, traffic: float, macs: int, dead: np.ndarray) -> LayerReport:
    layer: TracedLayer = wired.wiring.layers[number]
    read, written = rates[np.unique(layer.reads[1])], np.unique(layer.writes[1])
    return LayerReport(
        name=layer.name,
        masked=wired.masked[number],
        connections=wired.connections[number],
        density=wired.live[number] / wired.connections[number],
        macs=macs,
        on_rate=_mean(read),
        on_rate_spread=NAN if np.isnan(read).all() else float(np.nanstd(read)),
        traffic=traffic if len(read) else 0.0,
        units=len(written),
        dead=int(dead[written].sum()),
    )


def _plain_fits(fits: dict[str, BalanceFit]) -> dict[str, Any]:
    return {name: fit._asdict() for name, fit in fits.items()}


def _flat_fits(fits: dict[str, BalanceFit]) -> dict[str, float]:
    return {f"{name}_{key}": value for name, fit in fits.items() for key, value in fit._asdict().items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else NAN
