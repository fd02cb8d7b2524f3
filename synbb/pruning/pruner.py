"""What a training loop holds: attach to a model, call ``step()`` after the optimiser's.

The pruner owns mask and latent weights. The model's parameters hold the masked values, under their usual names, so
stock modules that read a weight directly, fused kernels and users' checkpoints all see the pruned network. What a cut
weight was is kept here, untouched by the optimiser, and comes back when the connection is chosen again.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.pruning.activity import OnRates
from synbb.pruning.actuators import Actuator, ConnectionTable, Scope, keep_balanced, keep_strongest
from synbb.pruning.schedule import CubicSchedule
from synbb.pruning.wiring import TracedLayer, Wiring, trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.utils.hooks import RemovableHandle

Connection = Literal["kernel", "weight"]


class Pruner(ABC):
    """Masks connections of a network while it trains. Subclasses say which connections survive.

    Args:
        density: share of the masked layers' connections that is live at the end, in (0, 1].
        warmup: optimiser steps before the first cut.
        ramp: optimiser steps over which the density falls, cubically.
        refresh: optimiser steps between two choices of masks.
        connection: what one connection of a convolution is: a whole kernel slice from an input to an output channel,
            or a single weight. In linear layers the two are the same.
        scope: meet the density in every layer, or over the network.
        exclude: patterns (``*`` matches anything) of layer names to leave unmasked, beside the first layers (they
            read the network's input alone) and the head (its output leaves the network with no activation between).
        decay: factor by which old activity counts shrink at each counted optimiser step.
        count_every: count activity in one optimiser step of this many.
    """

    method: ClassVar[str]

    def __init__(
        self,
        density: float,
        *,
        warmup: int,
        ramp: int,
        refresh: int = 50,
        connection: Connection = "kernel",
        scope: Scope = "layer",
        exclude: Sequence[str] = (),
        decay: float = 0.9,
        count_every: int = 4,
    ) -> None:
        self.schedule = CubicSchedule(density, warmup, ramp, refresh)
        _one_of("connection", connection, ("kernel", "weight"))
        _one_of("scope", scope, ("layer", "network"))
        self.connection = connection
        self.scope = scope
        self.exclude = tuple(exclude)
        self._decay = decay
        self._count_every = count_every
        self._attached = False

    @abstractmethod
    def keep(self, density: float, weights: np.ndarray) -> np.ndarray:
        """Choose the connections to keep.

        Args:
            density: share to keep in each scope.
            weights: norm of every masked connection in the order of :attr:`table`, latent values where cut.

        Returns:
            bool, shape (connections,).
        """

    # ---- life ----

    def attach(
        self,
        model: nn.Module,
        example_inputs: Tensor | Sequence[Any],
        *,
        optimizer: torch.optim.Optimizer | None = None,
        channel_axis: int = 1,
    ) -> Self:
        """Find the units and connections of ``model`` and start watching it; all connections begin live.

        Args:
            model: any network whose weight layers are linear or convolutional.
            example_inputs: a tensor, or the positional arguments, for one forward pass (shapes matter, values do not).
            optimizer: its moments are cleared where connections are cut, so that a connection that comes back starts
                without a stale push.
            channel_axis: the channel axis of the inputs.

        Raises:
            SynbbError: nothing can be masked, an ``exclude`` pattern fits no layer, or the density is out of reach.
        """
        if self._attached:
            raise SynbbError("this pruner is attached already; make a new one for another model")
        if optimizer is None:
            warnings.warn(
                "synbb: attach() without optimizer= cannot clear the moments of cut weights; a connection that "
                "grows back starts with the moments it was cut with",
                stacklevel=2,
            )
        self._optimizer = optimizer
        self.wiring: Wiring = trace(model, example_inputs, channel_axis=channel_axis)
        if self.wiring.untraced:
            warnings.warn(
                f"synbb: units could not be followed through {', '.join(self.wiring.untraced)}; what reads them behind "
                "that is not counted in their fan-out",
                stacklevel=2,
            )
        modules = dict(model.named_modules())
        self.layers: list[TracedLayer] = self._masked_layers()
        self._weights = [_parameter(modules[layer.name]) for layer in self.layers]
        repeats = [self._per_slice(weight) for weight in self._weights]
        self.table = ConnectionTable.build(self.layers, [weight.shape for weight in self._weights], repeats)
        self._masks = [torch.ones(self._mask_shape(w), dtype=torch.bool, device=w.device) for w in self._weights]
        self._latent = [torch.zeros_like(weight) for weight in self._weights]
        self._cutting = False
        self._steps = 0
        self.churn = 0.0
        self.activity = OnRates(model, self.wiring.groups, decay=self._decay, every=self._count_every)
        self._hooks: list[RemovableHandle] = []
        try:
            if self.schedule.density < 1:
                # A density that minimum degrees make impossible is an error now and not at the end of the ramp.
                self.keep(self.schedule.density, np.ones(self.table.count))
        except SynbbError:
            self.activity.close()
            raise
        for index, weight in enumerate(self._weights):
            if weight.requires_grad:
                self._hooks.append(weight.register_hook(self._gradient_hook(index)))
        self._attached = True
        return self

    def detach(self) -> None:
        """Take all hooks off the model; its weights stay as they are, masked."""
        self.activity.close()
        for hook in self._hooks:
            hook.remove()

    def step(self) -> bool:
        """Call once after each optimiser step that took place; True when the masks were chosen anew.

        Raises:
            SynbbError: the pruner holds no model yet.
        """
        if not self._attached:
            raise SynbbError("attach the pruner to a model first: pruner.attach(model, example_inputs, optimizer=...)")
        self._steps += 1
        self.activity.commit()
        refreshed = self.schedule.refreshes(self._steps)
        if refreshed:
            self._refresh(self.schedule.target(self._steps))
        else:
            self._reapply()
        return refreshed

    @contextmanager
    def valid(self, mask: Tensor | None) -> Iterator[None]:
        """Leave positions out of the on-rates where ``mask`` (bool, batch first) is false, within the context."""
        with self.activity.valid(mask):
            yield

    # ---- what it tells ----

    @property
    def steps(self) -> int:
        """Optimiser steps seen."""
        return self._steps

    @property
    def final(self) -> bool:
        """Whether the masks will not change any more."""
        return self.schedule.is_final(self._steps)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Mask of each masked layer, bool, broadcastable to its weight."""
        return {layer.name: mask for layer, mask in zip(self.layers, self._masks, strict=True)}

    def density(self) -> float:
        """Realised share of live connections over the masked layers."""
        return sum(int(mask.sum()) for mask in self._masks) / self.table.count

    def layer_densities(self) -> dict[str, float]:
        """Realised share of live connections of each masked layer."""
        return {name: int(mask.sum()) / mask.numel() for name, mask in self.masks.items()}

    def kept(self) -> np.ndarray:
        """All masks as one vector in the order of :attr:`table`, bool, shape (connections,)."""
        return np.concatenate([mask.cpu().numpy().ravel() for mask in self._masks])

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: step, masks, latent weights, activity."""
        return {
            "method": self.method,
            "steps": self._steps,
            "churn": self.churn,
            "masks": {layer.name: m.detach().cpu().clone() for layer, m in zip(self.layers, self._masks, strict=True)},
            "latent": {
                layer.name: t.detach().cpu().clone() for layer, t in zip(self.layers, self._latent, strict=True)
            },
            "activity": self.activity.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned and mask the model's weights.

        Raises:
            SynbbError: the state is of another method or of other layers.
        """
        if state["method"] != self.method:
            raise SynbbError(f"pruner state of method {state['method']!r} does not fit method {self.method!r}")
        ours = {layer.name: tuple(mask.shape) for layer, mask in zip(self.layers, self._masks, strict=True)}
        theirs = {name: tuple(mask.shape) for name, mask in state["masks"].items()}
        if ours != theirs:
            differing = sorted(set(ours.items()) ^ set(theirs.items()))
            raise SynbbError(f"pruner state does not fit the model: {differing[0][0]} has another mask or none")
        self.activity.check_state(state["activity"])  # before anything is changed
        self._steps, self.churn = int(state["steps"]), float(state["churn"])
        for index, layer in enumerate(self.layers):
            self._masks[index].copy_(state["masks"][layer.name])
            self._latent[index].copy_(state["latent"][layer.name])
        self.activity.load_state_dict(state["activity"])
        self._cutting = not all(bool(mask.all()) for mask in self._masks)
        self._reapply()

    # ---- inside ----

    def _masked_layers(self) -> list[TracedLayer]:
        layers = [layer for layer in self.wiring.layers if not layer.reads_input_only and not layer.writes_output]
        for pattern in self.exclude:
            if not any(fnmatchcase(layer.name, pattern) for layer in self.wiring.layers):
                names = ", ".join(layer.name for layer in self.wiring.layers)
                raise SynbbError(f"pruning.exclude: {pattern!r} fits no layer; there are {names}")
        layers = [layer for layer in layers if not any(fnmatchcase(layer.name, p) for p in self.exclude)]
        if not layers:
            raise SynbbError("no layer is left to prune after the first, the head and pruning.exclude")
        return layers

    def _per_slice(self, weight: Tensor) -> int:
        return weight[0, 0].numel() if self.connection == "weight" else 1

    def _mask_shape(self, weight: Tensor) -> tuple[int, ...]:
        if self.connection == "weight":
            return tuple(weight.shape)
        return (*weight.shape[:2], *[1] * (weight.dim() - 2))

    def _gradient_hook(self, index: int) -> Any:
        # A zero gradient keeps momentum and second moments of cut weights at zero and out of gradient clipping.
        def hook(gradient: Tensor) -> Tensor | None:
            return torch.where(self._masks[index], gradient, 0) if self._cutting else None

        return hook

    @torch.no_grad()
    def _full(self, index: int) -> Tensor:
        return torch.where(self._masks[index], self._weights[index], self._latent[index])

    @torch.no_grad()
    def _norms(self) -> np.ndarray:
        """Norm of each connection, latent values included; the root mean square over a kernel slice's weights."""
        norms = []
        for index in range(len(self.layers)):
            full = self._full(index).float()
            if self.connection == "kernel":
                full = full.flatten(2).square().mean(2).sqrt() if full.dim() > 2 else full.abs()
            norms.append(full.abs().flatten().double().cpu().numpy())
        return np.concatenate(norms)

    @torch.no_grad()
    def _refresh(self, density: float) -> None:
        before = self.kept()
        kept = self.keep(density, self._norms())
        for index, flat in enumerate(self.table.split(kept)):
            full = self._full(index)
            mask = self._masks[index]
            mask.copy_(torch.from_numpy(flat).reshape(mask.shape))
            self._weights[index].copy_(torch.where(mask, full, 0))
            self._latent[index].copy_(torch.where(mask, 0, full))
        self._cutting = not bool(kept.all())
        self._clear_moments()
        # Of the connections live before, the share that was exchanged for others (beyond what the ramp cuts).
        self.churn = int(np.count_nonzero(kept & ~before)) / max(int(np.count_nonzero(before)), 1)

    @torch.no_grad()
    def _reapply(self) -> None:
        if self._cutting:
            for weight, mask in zip(self._weights, self._masks, strict=True):
                weight.masked_fill_(~mask, 0)

    @torch.no_grad()
    def _clear_moments(self) -> None:
        if self._optimizer is None:
            return
        for weight, mask in zip(self._weights, self._masks, strict=True):
            for value in self._optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(~mask, 0)


class BudgetedBroadcast(Pruner):
    """Budgeted Broadcast: the selectivity-audience balance log((1 - a) / a) = beta k (METHOD §2).

    Within a unit, connections are ranked by their norm over the RMS norm of the layer they enter, chosen anew from all
    latent weights at each refresh, so that a unit whose on-rate fell wins audience back.

    Args:
        density: share of the masked layers' connections that is live at the end.
        actuator: ``fan_out`` (a busy unit speaks to few), ``fan_in`` (a busy unit listens to few) or ``both``.
        beta: log-odds that one unit of relative degree is worth; the default moves the relative degree by 0.15 for
            each unit of log-odds.
        minimum: least number of connections of a unit within a scope; where a connection counts for several units (both
            actuators at once, or a channel that sums units) it is aimed at and not promised.
        options: those of :class:`Pruner`.
    """

    method = "bb"

    def __init__(
        self, density: float, *, actuator: Actuator = "fan_in", beta: float = 1 / 0.15, minimum: int = 1, **options: Any
    ) -> None:
        super().__init__(density, **options)
        _one_of("actuator", actuator, ("fan_out", "fan_in", "both"))
        if not beta > 0:
            raise SynbbError(f"pruning beta {beta} must be positive")
        if minimum < 0:
            raise SynbbError(f"pruning minimum of {minimum} connections must not be negative")
        self.actuator, self.beta, self.minimum = actuator, beta, minimum

    def keep(self, density: float, weights: np.ndarray) -> np.ndarray:
        """Rows keep what the law grants them; see :func:`synbb.pruning.actuators.keep_balanced`."""
        # The scale of a layer: the root mean square of its connections' norms.
        squares = np.bincount(self.table.layer, weights=weights**2, minlength=len(self.layers))
        scale = np.sqrt(np.divide(squares, self.table.layer_sizes))
        scores = weights / np.where(scale > 0, scale, 1.0)[self.table.layer]
        return keep_balanced(
            self.table,
            scores,
            self.activity.rates(),
            density=density,
            actuator=self.actuator,
            scope=self.scope,
            beta=self.beta,
            minimum=self.minimum,
        )


class Magnitude(Pruner):
    """Gradual magnitude pruning (Zhu and Gupta 2017): the largest norms stay, in each layer or over the network."""

    method = "magnitude"

    def keep(self, density: float, weights: np.ndarray) -> np.ndarray:
        """The largest weights; see :func:`synbb.pruning.actuators.keep_strongest`."""
        return keep_strongest(self.table, weights, density=density, scope=self.scope)


class RandomMask(Pruner):
    """A fixed random order of the connections, a serious rival: which survive owes nothing to weight or activity."""

    method = "random"

    def __init__(self, density: float, *, seed: int = 0, **options: Any) -> None:
        super().__init__(density, **options)
        self.seed = seed

    def keep(self, density: float, weights: np.ndarray) -> np.ndarray:
        """The first connections of the random order, so that masks are nested over the ramp."""
        order = np.random.default_rng(self.seed).random(len(weights))
        return keep_strongest(self.table, order, density=density, scope=self.scope)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SynbbError(f"pruning {name} {value!r} is not one of {', '.join(allowed)}")


def _parameter(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight
