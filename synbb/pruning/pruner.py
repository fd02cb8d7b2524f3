"""What a training loop holds: attach to a model, call ``step()`` after the optimiser's.

Masks and latent weights live in :mod:`synbb.pruning.masked_weights`, the model's parameters hold the masked values;
:mod:`synbb.pruning.gathering` sees what a choice may look at. :class:`Pruner` knows when masks change; its subclasses
know which connections survive: the rule (:mod:`synbb.pruning.broadcast`), its controls, its rivals, and whole units.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.pruning.activity import OnRates, check_places
from synbb.pruning.allocation import Allocation, Currency, connection_costs, erk_proportions, shares_in_proportion
from synbb.pruning.connections import Actuator, Budget, ConnectionTable, Scope
from synbb.pruning.evidence import Evidence, Need
from synbb.pruning.feedback import LayerFeedback
from synbb.pruning.gathering import Gathering, neutral
from synbb.pruning.holding import check_weights, hold, release
from synbb.pruning.layer_choice import masked_layers
from synbb.pruning.masked_weights import Connection, MaskedWeights, Revival
from synbb.pruning.masks import apply_masks, check_masks
from synbb.pruning.optimizer_steps import OptimizerSteps
from synbb.pruning.options import check_number, one_of
from synbb.pruning.pattern import check_pattern, most_shares, read_pattern
from synbb.pruning.processes import check_same
from synbb.pruning.schedule import CubicSchedule, FromStart, Schedule
from synbb.pruning.tracing import trace
from synbb.pruning.wiring import TracedLayer, Wiring

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch.utils.hooks import RemovableHandle

    from synbb.pruning.balance import Floats
    from synbb.pruning.observing import Valid


class Pruner(ABC):
    """Masks connections of a network while it trains. Subclasses say which connections survive.

    Steps are optimiser steps that took place: where mixed precision skips one, ``step()`` notices (given the
    optimiser) and changes nothing. With gradient accumulation, call it once after each optimiser step.

    Args:
        density: share of the budget that is left at the end, in (0, 1]; by default the share of the masked layers'
            connections that is live.
        warmup: optimiser steps before the first cut.
        ramp: optimiser steps over which the budget falls, cubically.
        refresh: optimiser steps between two choices of masks.
        schedule: a budget over steps of one's own, instead of the cubic ramp; its last density must be ``density``.
        connection: what one connection of a convolution is: a whole kernel slice from an input to an output channel,
            or a single weight. In linear layers the two are the same.
        budget: what is counted: connections (``density``), ``traffic`` (on-rate of the unit a connection leaves,
            summed) or multiply-accumulates (``macs``), each as a share of its dense value.
        scope: meet the budget in every layer, or over the network.
        allocation: how a budget met in every layer is divided: ``uniform``, ``erk``, or moved by the ``loss``.
        pattern: ``"N:M"``: linear layers keep at most N of M consecutive inputs of each output.
        layers: patterns (``*`` matches anything) of the layers to mask, instead of the default: all but the first
            layers (they read the network's input alone) and the head (its output leaves the network with no activation
            between). Transposed convolutions are masked by default.
        exclude: patterns of layer names to leave unmasked.
        per_consumer: patterns of layers whose input channels count as units of their own; for what cannot be traced,
            and for channels without an activation, such as attention's values.
        statistic: how on-rates are measured: ``sign``, ``treves_rolls``, ``above_mean`` or ``auto``.
        gate: standard deviation of on-rates within layers below which methods that read them do not cut yet.
        decay: factor by which old activity counts shrink at each counted optimiser step.
        count_every: count activity in one optimiser step of this many.
        window: optimiser steps before a refresh in which gradients and input norms are gathered, where needed.
        seed: of random choices.
    """

    method: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    reads_rates: ClassVar[bool] = False
    revives: Revival = "latent"
    actuator: Actuator | None = None
    minimum: int = 0
    tau: float | None = None

    def __init__(
        self,
        density: float,
        *,
        warmup: int = 0,
        ramp: int = 0,
        refresh: int = 50,
        schedule: Schedule | None = None,
        connection: Connection = "kernel",
        budget: Currency = "density",
        scope: Scope = "layer",
        allocation: Allocation = "uniform",
        pattern: str | None = None,
        layers: Sequence[str] = (),
        exclude: Sequence[str] = (),
        per_consumer: Sequence[str] = (),
        statistic: str = "sign",
        gate: float = 0.0,
        decay: float = 0.9,
        count_every: int = 4,
        window: int = 4,
        seed: int = 0,
    ) -> None:
        if schedule is not None and not isinstance(schedule, Schedule):
            raise SynbbError(
                f"pruning schedule {schedule!r} is none: give synbb.pruning.Waypoints(((step, density), ...), refresh)"
            )
        self.schedule = schedule if schedule is not None else self._schedule(density, warmup, ramp, refresh)
        if self.schedule.density != density:
            raise SynbbError(
                f"pruning density {density} contradicts the schedule, which ends at {self.schedule.density}: make them "
                "equal"
            )
        one_of("connection", connection, ("kernel", "weight"))
        one_of("budget", budget, ("density", "traffic", "macs"))
        one_of("scope", scope, ("layer", "network"))
        one_of("allocation", allocation, ("uniform", "erk", "loss"))
        if allocation != "uniform" and scope == "network":
            raise SynbbError(
                f"pruning allocation {allocation!r} divides a budget between layers, and scope 'network' does so "
                "itself: use scope 'layer', or allocation 'uniform'"
            )
        for option, value in (("gate", gate), ("decay", decay)):
            check_number(option, value)
        for option, value in (("seed", seed), ("window", window), ("count_every", count_every)):
            check_number(option, value, whole=True)
        if not 0 <= gate < 0.5:  # values in [0, 1] have no larger standard deviation
            raise SynbbError(f"pruning gate {gate} must lie in [0, 0.5): a standard deviation of on-rates, 0 for none")
        if seed < 0:
            raise SynbbError(f"pruning seed {seed} must be at least 0")
        if window < 1:
            raise SynbbError(f"pruning window of {window} steps must be at least 1")
        self.connection = connection
        self.currency = budget
        self.scope = scope
        self.allocation = allocation
        self.pattern = read_pattern(pattern)
        for option, names in (("layers", layers), ("exclude", exclude), ("per_consumer", per_consumer)):
            if isinstance(names, str) or not isinstance(names, (list, tuple)):
                raise SynbbError(f"pruning {option} {names!r} must be a list of patterns: [{names!r}]")
        self.only, self.exclude, self.per_consumer = tuple(layers), tuple(exclude), tuple(per_consumer)
        self.statistic, self.gate, self.seed = statistic, gate, seed
        self._decay, self._count_every, self._window = decay, count_every, window
        self._attached = self._detached = False

    def _schedule(self, density: float, warmup: int, ramp: int, refresh: int) -> Schedule:
        return CubicSchedule(density, warmup, ramp, refresh)

    @abstractmethod
    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """Choose the connections to keep; a pure function of its arguments and of what ``observe`` has learnt.

        Args:
            share: of the budget that may be kept.
            evidence: what is known of connections and units.

        Returns:
            bool, shape (connections,).
        """

    def observe(self, evidence: Evidence) -> None:
        """Check the on-rates that are needed, and move budget between layers where the loss is to do so.

        Raises:
            SynbbError: units whose on-rates were never counted, or are not finite.
        """
        self.activity.check(self.judged())
        if self.allocation == "loss":
            self._feedback.observe(evidence)

    def rates_decided(self, evidence: Evidence) -> Floats:
        """On-rates that :meth:`choose` goes by."""
        return evidence.rates

    def after_refresh(self) -> None:  # noqa: B027  most methods leave the network alone
        """Act on the network once masks were chosen."""

    def budget(self, share: float, evidence: Evidence) -> Budget:
        """What may be kept of each scope."""
        costs = connection_costs(self.currency, self.table, self.layers, evidence.rates)
        if self.scope == "network":
            return Budget(self.scope, np.array([share]), costs)
        sizes: Floats = np.array(self.table.layer_sizes, dtype=np.float64)
        if self.allocation == "uniform":
            return Budget(self.scope, np.full(len(sizes), share), costs)
        if costs is not None:
            sizes = np.bincount(self.table.layer, weights=costs, minlength=len(sizes)).astype(np.float64)
        proportions = self._erk if self.allocation == "erk" else self._feedback.proportions
        most = 1.0 if self.pattern is None else most_shares(self.pattern, self.layers)
        return Budget(self.scope, shares_in_proportion(proportions, sizes, share, self.least_shares(), most), costs)

    def needed(self) -> frozenset[Need]:
        """What must be gathered beside weights and on-rates."""
        by_loss: frozenset[Need] = frozenset({"gradients"}) if self.allocation == "loss" else frozenset()
        return self.needs | by_loss

    def least_shares(self) -> Floats | float:
        """Smallest share of each layer that the method can do with."""
        return 0.0

    def judged(self) -> np.ndarray:
        """Numbers of the units whose on-rates the method cannot do without."""
        return np.zeros(0, dtype=np.int64)

    # ---- life ----

    def attach(
        self,
        model: nn.Module,
        example_inputs: Tensor | Sequence[Any],
        *,
        optimizer: torch.optim.Optimizer | None = None,
        channel_axis: int = 1,
    ) -> Self:
        """Find the units and connections of ``model`` and start watching it.

        All connections begin live, except for methods that are sparse from the first step.

        Args:
            model: any network whose weight layers are linear or convolutional.
            example_inputs: a tensor, or the positional arguments, for one forward pass (shapes matter, values do not).
            optimizer: its moments are cleared where connections are cut, so that a connection that comes back starts
                without a stale push; and steps that it skipped are not counted.
            channel_axis: the channel axis of the inputs.

        Raises:
            SynbbError: nothing can be masked, a pattern fits no layer, wiring that cannot be traced, a budget that
                is out of reach, an optimiser of other weights, a model that another pruner masks, or masks that are
                made at once from weights that differ between the processes.
        """
        if self._attached:
            raise SynbbError("this pruner is attached already; make a new one for another model")
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise SynbbError(f"optimizer must be one of torch.optim, not {type(optimizer).__name__}")
        if not isinstance(example_inputs, (Tensor, list, tuple)):
            raise SynbbError(
                "example_inputs must be a tensor or a sequence of the model's arguments, not "
                f"{type(example_inputs).__name__}"
            )
        if optimizer is None:
            warnings.warn(
                "synbb: attach() without optimizer= cannot clear the moments of cut weights (a connection that grows "
                "back starts with the moments it was cut with) nor see whether an optimiser step was skipped",
                stacklevel=2,
            )
        self._optimizer = optimizer
        self.wiring: Wiring = trace(
            model,
            example_inputs,
            channel_axis=channel_axis,
            per_consumer=self.per_consumer,
        )
        if self.wiring.untraced:
            warnings.warn(
                f"synbb: units are also read through {', '.join(self.wiring.untraced)}, whose weights cannot be masked "
                "and are not counted in their degrees",
                stacklevel=2,
            )
        self.model = model
        modules = dict(model.named_modules())
        self.layers: list[TracedLayer] = masked_layers(self.wiring.layers, self.only, self.exclude)
        weights = {layer.name: _parameter(modules[layer.name]) for layer in self.layers}
        check_weights(weights, optimizer)
        self.weights = MaskedWeights(weights, self.connection)
        shapes = [weight.shape for weight in weights.values()]
        repeats = [self.weights.weights_a_connection(index) for index in range(len(weights))]
        self.table = ConnectionTable.build(self.layers, shapes, repeats)
        self._erk = erk_proportions(self.layers, shapes)
        self._feedback = LayerFeedback(len(self.layers))
        self._steps = 0
        self.churn = 0.0
        self.decided_rates = np.full(self.wiring.unit_count, np.nan)  # on-rates that the masks were made from
        self._check_reach()
        if self.schedule.least < 1:
            check_places(self.wiring.groups, self.judged())
        self.activity = OnRates(
            model, self.wiring.groups, decay=self._decay, every=self._count_every, statistic=self.statistic
        )
        self._gathering = Gathering(
            model,
            self.layers,
            self.table,
            self.weights,
            self.activity,
            self.needed(),
            window=self._window,
            pattern=self.pattern,
            seed=self.seed,
        )
        self._gathering.watch(self._steps, self.schedule)
        self._hooks: dict[int, RemovableHandle] = {}
        self._hook_gradients()
        self._optimizer_steps = OptimizerSteps(optimizer)
        self._followers: list[nn.Module] = []
        self._attached = True
        hold(weights.values(), self)
        if self.schedule.refreshes(0):
            check_same(self.weights.weights)
            self._refresh(self.schedule.target(0))
        return self

    def detach(self) -> None:
        """Take all hooks off the model; its weights stay as they are, masked, but nothing keeps them so any more."""
        self._check_attached()
        self._gathering.close()
        self._optimizer_steps.close()
        for hook in self._hooks.values():
            hook.remove()
        release(self.weights.weights, self)
        self._detached = True

    def step(self) -> bool:
        """Call once after each optimiser step; True when the masks were chosen anew.

        Raises:
            SynbbError: the pruner holds no model, or on-rates that the method needs are unknown.
        """
        self._check_attached()
        if self._detached:
            raise SynbbError("this pruner was detached; make a new one, and begin_with() its masks to go on with them")
        if not self._optimizer_steps.took_place():
            # Mixed precision skipped the step, or there was none: what was seen since the last one is forgotten.
            self._gathering.discard()
            return False
        self._steps += 1
        self._gathering.commit()
        due = self.schedule.refreshes(self._steps)
        refreshed = due and self._gate_open()
        if refreshed:
            self._refresh(self.schedule.target(self._steps))
        else:
            self.weights.reapply()
        if due:
            self._gathering.clear()  # what was seen before a refresh that the gate refused is old at the next one
        self._hook_gradients()
        self._gathering.watch(self._steps, self.schedule)
        return refreshed

    @contextmanager
    def valid(self, mask: Valid) -> Iterator[None]:
        """Leave positions out of the on-rates where ``mask`` is false, within the context.

        Args:
            mask: bool, shape (batch, 1, *space) or (batch, *space), resized to coarser levels by majority; or such
                masks by patterns of the modules at which units are seen, ``{"decoder*": tokens, "*": frames}`` say: the
                first pattern that fits counts, and all positions do where it says None or none fits.

        Raises:
            SynbbError: a mask is no tensor, or does not fit the units that it is for.
        """
        self._check_attached()
        with self.activity.valid(mask):
            yield

    def follow(self, average: nn.Module) -> None:
        """Keep an averaged copy of the model (``torch.optim.swa_utils.AveragedModel``, say) under the same masks.

        Update the average after ``step()``.

        Raises:
            SynbbError: it lacks a masked layer.
        """
        self._check_attached()
        apply_masks(average, self.masks)
        self._followers.append(average)

    def begin_with(self, masks: Mapping[str, Tensor], latent: Mapping[str, Tensor] | None = None) -> None:
        """Start from masks of an earlier run, before the first step; later refreshes may change them.

        Args:
            masks: layer name to mask.
            latent: what cut weights were; zeros by default, so that only growth by gradient brings them back.

        Raises:
            SynbbError: masks of another architecture.
        """
        self._check_attached()
        check_masks(masks, self.weights.shapes, "masks")  # before anything is changed
        self.weights.restore()  # attach() has cut already where a method is sparse from the start
        self.weights.begin_with(masks, latent)
        self._mask_followers()

    # ---- what it tells ----

    @property
    def attached(self) -> bool:
        """Whether the pruner has held a model."""
        return self._attached

    @property
    def steps(self) -> int:
        """Optimiser steps that took place."""
        self._check_attached()
        return self._steps

    @property
    def final(self) -> bool:
        """Whether the masks will not change any more."""
        self._check_attached()
        return self.schedule.is_final(self._steps)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Mask of each masked layer, bool, broadcastable to its weight."""
        self._check_attached()
        return dict(self.weights.masks)

    def density(self) -> float:
        """Realised share of live connections over the masked layers."""
        self._check_attached()
        return self.weights.live() / self.table.count

    def layer_densities(self) -> dict[str, float]:
        """Realised share of live connections of each masked layer."""
        return {name: int(mask.sum()) / mask.numel() for name, mask in self.masks.items()}

    def kept(self) -> np.ndarray:
        """All masks as one vector in the order of :attr:`table`, bool, shape (connections,)."""
        self._check_attached()
        return self.weights.kept()

    def spread(self) -> float:
        """Standard deviation of the on-rates within unit groups, averaged over units; 0 where nothing is known."""
        self._check_attached()
        rates = self.activity.rates()
        squares, known = 0.0, 0
        for group in self.wiring.groups:
            own = rates[group.first : group.first + group.size]
            if len(own) > 1 and not np.isnan(own).any():
                squares += float(np.var(own)) * len(own)
                known += len(own)
        return float(np.sqrt(squares / known)) if known else 0.0

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: step, masks, latent weights, activity, feedback."""
        self._check_attached()
        return {
            "method": self.method,
            "density": float(self.schedule.density),
            "steps": self._steps,
            "churn": self.churn,
            "decided_rates": torch.from_numpy(self.decided_rates.copy()),
            **self.weights.state_dict(),
            **self._gathering.state_dict(),
            "own": self.own_state(),
        }

    def own_state(self) -> dict[str, Any]:
        """What a method has learnt, as plain values."""
        return {"feedback": self._feedback.state_dict()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`own_state` returned."""
        self._feedback.load_state_dict(state["feedback"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned and mask the model's weights.

        Raises:
            SynbbError: the state is none, or of another method, density or other layers.
        """
        self._check_attached()
        if "method" not in state or "masks" not in state:
            raise SynbbError("this is no state of a pruner: give what its state_dict() returned")
        if state["method"] != self.method:
            raise SynbbError(f"pruner state of method {state['method']!r} does not fit method {self.method!r}")
        density = state.get("density", self.schedule.density)  # states of before 2026-11-28 do not say
        if density != self.schedule.density:
            raise SynbbError(f"pruner state of density {density} does not fit density {self.schedule.density}")
        check_masks(state["masks"], self.weights.shapes, "pruner state")
        self.activity.check_state(state["activity"])  # before anything is changed
        self._steps, self.churn = int(state["steps"]), float(state["churn"])
        self.decided_rates = state["decided_rates"].cpu().numpy().copy()
        self.weights.begin_with(state["masks"], state["latent"])
        self._gathering.load_state_dict(state)
        self.load_own_state(state["own"])
        self._gathering.watch(self._steps, self.schedule)

    # ---- inside ----

    def _check_attached(self) -> None:
        if not self._attached:
            raise SynbbError("attach the pruner to a model first: pruner.attach(model, example_inputs, optimizer=...)")

    def _check_reach(self) -> None:
        """A budget that minimum degrees or a pattern make impossible is an error now and not while training."""
        if self.pattern is not None:
            check_pattern(self.pattern, self.layers, self.schedule.density if self.tau is None else None)
        unknown = neutral(self.table, self.wiring.unit_count, seed=self.seed)
        try:
            self.choose(self.schedule.least, unknown)
        except SynbbError as error:
            tight = self._layers_out_of_reach(unknown)
            if not tight:
                raise
            more = f" and {len(tight) - 1} more layers" if len(tight) > 1 else ""
            raise SynbbError(f"layer {tight[0]!r}{more}: {error}, or exclude such layers") from None

    def _layers_out_of_reach(self, unknown: Evidence) -> list[str]:
        """Layers whose share of the budget is below what the method takes of them."""
        if self.scope != "layer":
            return []
        sizes: Floats = np.array(self.table.layer_sizes, dtype=np.float64)
        shares = self.budget(self.schedule.least, unknown).shares
        short = np.round(shares * sizes) + 0.5 < np.broadcast_to(self.least_shares(), sizes.shape) * sizes
        return [layer.name for layer, lacks in zip(self.layers, short, strict=True) if lacks]

    def _gate_open(self) -> bool:
        """Whether on-rates have spread enough to say something; nothing is cut by activity at step 0."""
        acted = not np.isnan(self.decided_rates).all()  # once masks follow on-rates, they go on doing so
        if not self.reads_rates or not self.gate or acted or self.spread() >= self.gate:
            return True
        if self._steps >= self.schedule.end:
            warnings.warn(
                f"synbb: on-rates differ by {self.spread():.3f} within layers, below the gate of {self.gate}, at the "
                "last step at which masks change: they are made all the same; train longer or lower pruning.gate",
                stacklevel=3,
            )
            return True
        return False

    def _hook_gradients(self) -> None:
        """Of every weight that trains; one that was frozen when the pruner was attached may do so later."""
        for index, weight in enumerate(self.weights.weights):
            if weight.requires_grad and index not in self._hooks:
                self._hooks[index] = weight.register_hook(self._gradient_hook(index))

    def _gradient_hook(self, index: int) -> Any:
        def hook(gradient: Tensor) -> Tensor | None:
            with torch.no_grad():
                self._gathering.see(index, gradient)
            return self.weights.masked_gradient(index, gradient)  # differentiable, for gradients of gradients

        return hook

    def _mask_followers(self) -> None:
        for average in self._followers:
            apply_masks(average, self.masks)

    def _refresh(self, share: float) -> None:
        evidence = self._gathering.evidence(self._steps)
        if self._steps:  # before the first step there is nothing to learn from
            self.observe(evidence)
        before, kept = evidence.live, self.choose(share, evidence)
        self.decided_rates = self.rates_decided(evidence)
        self.weights.choose(kept, self.table, revives=self.revives)
        if self._optimizer is not None:
            self.weights.clear_moments(self._optimizer)
        self._mask_followers()
        # Of the connections live before, the share that was exchanged for others (beyond what the ramp cuts).
        self.churn = int(np.count_nonzero(kept & ~before)) / max(int(np.count_nonzero(before)), 1)
        self.after_refresh()


class SparseFromStart(Pruner):
    """A pruner whose budget holds from the first step; ``ramp`` is how long its masks keep changing."""

    needs_a_step: ClassVar[bool] = False  # whether gradients of the initial weights decide the first masks

    def _schedule(self, density: float, warmup: int, ramp: int, refresh: int) -> Schedule:
        return FromStart(density, last=warmup + ramp, refresh=refresh, first=int(self.needs_a_step))


def _parameter(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight
