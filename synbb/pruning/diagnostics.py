"""What pruning did to a network: realised density, on-rates, traffic and dead units, layer by layer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.pruning.balance import BalanceFit, Floats, balance_fit, binary_entropy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from synbb.pruning.pruner import Pruner

DEAD_RATE = 1e-3
"""A unit that is on at fewer than one in a thousand positions counts as dead."""


@dataclass(frozen=True)
class LayerReport:
    """One masked layer.

    Attributes:
        name: module name.
        connections: masked connections when dense.
        density: realised share of them that is live.
        on_rate: mean on-rate of the units the layer reads (nan when it reads none).
        on_rate_spread: their standard deviation.
        traffic: sum of on-rate times live connections into this layer.
        units: units the layer writes to (0 for a layer with no activation of its own).
        dead: of those, units never on, without a live input or without a live consumer.
    """

    name: str
    connections: int
    density: float
    on_rate: float
    on_rate_spread: float
    traffic: float
    units: int
    dead: int


@dataclass(frozen=True)
class PruningReport:
    """The whole network.

    Attributes:
        whole_density: live share of all weights, unmasked layers and weights outside the trace included.
        masked_share: share of all weights that the masked layers hold.
        fit: the balance fit on ``fit_degree``, for units of 32 and more connections.
    """

    method: str
    steps: int
    final: bool
    density: float
    whole_density: float
    masked_share: float
    layers: tuple[LayerReport, ...]
    entropy: float
    traffic: float
    dead: int
    units: int
    fit: BalanceFit
    fit_degree: str
    churn: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not known (nan) is None."""
        values = asdict(self)
        values["fit"] = self.fit._asdict()
        plain = _without_nan(values)
        assert isinstance(plain, dict)
        return plain


def report(pruner: Pruner, model: nn.Module) -> PruningReport:
    """Measure ``pruner`` on ``model``; on-rates are the training ones it keeps.

    Weights are counted over all parameters of ``model`` with two or more axes, norms and biases thus left out. Needs
    no other process: rank 0 may call it alone.
    """
    rates = pruner.activity.rates()
    units = pruner.wiring.unit_count
    table, kept = pruner.table, pruner.kept()
    dense = np.ones(table.count, dtype=bool)
    fan_out, fan_in = table.fan_out(kept, units), table.fan_in(kept, units)
    dense_out, dense_in = table.fan_out(dense, units), table.fan_in(dense, units)
    # Layers that are not masked keep all their connections: a unit they read or write is not cut off.
    unmasked = [layer for layer in pruner.wiring.layers if layer.name not in pruner.masks]
    open_out, open_in = np.zeros(units, dtype=bool), np.zeros(units, dtype=bool)
    for layer in unmasked:
        open_out[layer.reads[1]] = True
        open_in[layer.writes[1]] = True
    dead = (rates < DEAD_RATE) | ((fan_out == 0) & (dense_out > 0) & ~open_out)
    dead |= (fan_in == 0) & (dense_in > 0) & ~open_in
    traffic_of_pair = np.nan_to_num(rates)[table.out_pairs[1]] * kept[table.out_pairs[0]]
    traffic = np.bincount(table.layer[table.out_pairs[0]], weights=traffic_of_pair, minlength=len(pruner.layers))
    densities = pruner.layer_densities()
    layers = []
    for number, layer in enumerate(pruner.layers):
        read = rates[np.unique(layer.reads[1])]
        written = np.unique(layer.writes[1])
        layers.append(
            LayerReport(
                name=layer.name,
                connections=table.layer_sizes[number],
                density=densities[layer.name],
                on_rate=_mean(read),
                on_rate_spread=float(np.nanstd(read)) if len(read) and not np.isnan(read).all() else float("nan"),
                traffic=float(traffic[number]),
                units=len(written),
                dead=int(dead[written].sum()),
            )
        )
    masked_weights = sum(layer.weights for layer in pruner.layers)
    all_weights = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    live = sum(densities[layer.name] * layer.weights for layer in pruner.layers)
    fan_in_law = getattr(pruner, "actuator", "fan_out") == "fan_in"
    return PruningReport(
        method=pruner.method,
        steps=pruner.steps,
        final=pruner.final,
        density=pruner.density(),
        whole_density=(live + all_weights - masked_weights) / all_weights,
        masked_share=masked_weights / all_weights,
        layers=tuple(layers),
        entropy=_mean(binary_entropy(rates)),
        traffic=float(traffic.sum()),
        dead=int(dead.sum()),
        units=units,
        fit=_fit(pruner, rates, kept, fan_in=fan_in_law),
        fit_degree="fan-in" if fan_in_law else "fan-out",
        churn=pruner.churn,
    )


def _fit(pruner: Pruner, rates: Floats, kept: NDArray[np.bool_], *, fan_in: bool) -> BalanceFit:
    """Fit of the law over the rows it was solved for: units, within each layer where the layer met the density."""
    table, units = pruner.table, pruner.wiring.unit_count
    connections, owners = table.in_pairs if fan_in else table.out_pairs
    scope = table.layer[connections] if pruner.scope == "layer" else np.zeros(len(connections), dtype=np.int64)
    present, rows = np.unique(scope * units + owners, return_inverse=True)
    degree = np.bincount(rows, weights=kept[connections], minlength=len(present))
    minimum = float(getattr(pruner, "minimum", 0))
    return balance_fit(rates[present % units], degree, np.bincount(rows), minimum, groups=present // units)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
