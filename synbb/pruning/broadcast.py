"""Budgeted Broadcast: each unit keeps as many connections as the selectivity-audience balance grants it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from synbb.errors import SynbbError
from synbb.pruning.actuators import keep_balanced
from synbb.pruning.balance import Balance, Floats, Law, LocalBudget, log_odds
from synbb.pruning.connections import ACTUATORS, Actuator
from synbb.pruning.feedback import BetaFeedback
from synbb.pruning.options import check_number, one_of
from synbb.pruning.pruner import Pruner
from synbb.pruning.ranking import ranks, strongest
from synbb.pruning.schedule import FromStart, exchanged

if TYPE_CHECKING:
    from synbb.pruning.connections import Budget
    from synbb.pruning.evidence import Evidence, Need
    from synbb.pruning.schedule import Schedule

DEFAULT_BETA = 1 / 0.15
"""Moves the relative degree by 0.15 for each unit of log-odds."""

SCALED_BETA = DEFAULT_BETA * 0.2
"""beta times the share of the budget with ``beta="scaled"``: the default at a density of 0.2, where it was found."""

Beta = float | Literal["scaled", "auto"]

Regrowth = Literal["natural", "gradient", "random"]


class BudgetedBroadcast(Pruner):
    """Budgeted Broadcast: the selectivity-audience balance log((1 - a) / a) = beta k.

    Within a unit, connections are ranked by their norm over the RMS norm of the layer they enter, chosen anew from all
    latent weights at each refresh, so that a unit whose on-rate fell wins audience back.

    Args:
        density: share of the budget that is left at the end.
        actuator: ``fan_out`` (a busy unit speaks to few), ``fan_in`` (a busy unit listens to few), ``both`` (the
            intersection of the two choices) or ``matched`` (both degrees met, by deferred acceptance).
        beta: log-odds that one unit of relative degree is worth; the default moves the relative degree by 0.15 for
            each unit of log-odds. ``"scaled"`` divides a constant by the share of the budget: beta is the multiplier of
            the budget in the derivation and grows as the budget shrinks, and a unit of log-odds then moves a degree in
            proportion to the mean degree. ``"auto"`` starts there and lets the loss move the constant.
        minimum: least number of connections of a unit within a scope; where a connection counts for several units (both
            actuators at once, or a channel that sums units) it is aimed at and not promised.
        act: ``"law"`` shapes all degrees at every refresh; ``"over_budget"`` acts only on units whose relative traffic
            a_i k_i / K_i exceeds a local budget tau, which is solved for the density.
        tau: the local budget itself, in (0, 1], instead of a density (leave that at 1): connections live are then what
            the units' own budgets leave.
        from_start: hold the budget from the first step on, as SET and RigL do: equal degrees until on-rates have
            spread, the law's degrees at each refresh from then on.
        regrowth: ``natural`` ranks all latent weights anew; ``gradient`` lets the largest gradients take the place of
            the weakest ``drop`` of what is kept, from zero, as RigL does; ``random`` any cut ones, as SET does.
        drop: share of the connections to keep that growth decides at the first refresh, other than with
            ``regrowth="natural"``; it falls to 0 at the last refresh by a cosine.
        threshold_shift: extension, off at 0: at each refresh, units whose traffic is above their layer's mean get their
            norm's bias lowered by this times its gain (intrinsic plasticity).
        gate: as in :class:`Pruner`, on by default here.
        options: the others of :class:`Pruner`.
    """

    method = "bb"
    reads_rates = True
    actuator: Actuator

    def __init__(
        self,
        density: float = 1.0,
        *,
        actuator: Actuator = "fan_in",
        beta: Beta = DEFAULT_BETA,
        minimum: int = 1,
        act: Literal["law", "over_budget"] = "law",
        tau: float | None = None,
        from_start: bool = False,
        regrowth: Regrowth = "natural",
        drop: float = 0.3,
        threshold_shift: float = 0.0,
        gate: float = 0.03,
        **options: Any,
    ) -> None:
        if tau is not None and not 0 < tau <= 1:
            raise SynbbError(f"pruning tau {tau} must lie in (0, 1]: on-rate times relative degree")
        if tau is not None and density != 1:
            raise SynbbError(
                f"pruning density {density} contradicts tau {tau}: a local budget settles the density itself; leave "
                "density at 1, or leave tau out and use act 'over_budget' to have it solved"
            )
        if from_start and (tau is not None or options.get("schedule") is not None):
            other = "tau" if tau is not None else "a schedule"
            raise SynbbError(f"pruning from_start contradicts {other}: it holds one density from the first step on")
        self.from_start = from_start
        # A local budget falls over the ramp as a density does, from one that bounds nothing.
        super().__init__(density if tau is None else tau, gate=gate, **options)
        if from_start and self.schedule.end == 0:
            warnings.warn(
                "synbb: from_start with a ramp of 0 makes masks once, before any on-rate is known: the law never acts; "
                "give ramp the steps over which masks are to follow it",
                stacklevel=2,
            )
        one_of("actuator", actuator, ACTUATORS)
        if actuator == "matched" and (tau is not None or options.get("budget", "density") != "density"):
            other = "tau" if tau is not None else f"budget {options['budget']!r}"
            raise SynbbError(f"pruning actuator 'matched' contradicts {other}: it matches counted connections")
        one_of("act", act, ("law", "over_budget"))
        one_of("regrowth", regrowth, ("natural", "gradient", "random"))
        for option, value in (("drop", drop), ("threshold_shift", threshold_shift)):
            check_number(option, value)
        check_number("minimum", minimum, whole=True)
        if isinstance(beta, str):
            one_of("beta", beta, ("scaled", "auto"))
        else:
            check_number("beta", beta)
            if not beta > 0:
                raise SynbbError(f"pruning beta {beta} must be positive")
        if minimum < 0:
            raise SynbbError(f"pruning minimum of {minimum} connections must not be negative")
        if not 0 <= drop <= 1:
            raise SynbbError(f"pruning drop {drop} must lie in [0, 1]")
        if threshold_shift < 0:
            raise SynbbError(f"pruning threshold_shift {threshold_shift} must not be negative; 0 switches it off")
        self.actuator, self.minimum, self.act, self.tau = actuator, minimum, act, tau
        self.regrowth, self.drop, self.threshold_shift = regrowth, drop, threshold_shift
        self._beta = BetaFeedback(SCALED_BETA if isinstance(beta, str) else float(beta))
        self._beta_scales, self._beta_moves = isinstance(beta, str), beta == "auto"
        self.revives = "latent" if regrowth == "natural" else "zero"

    def _schedule(self, density: float, warmup: int, ramp: int, refresh: int) -> Schedule:
        if self.from_start:
            return FromStart(density, last=warmup + ramp, refresh=refresh)
        return super()._schedule(density, warmup, ramp, refresh)

    @property
    def beta(self) -> float:
        """Strength of the law, as it is now."""
        return self._beta_at(self._beta.beta, self.schedule.target(self.steps))

    @property
    def local(self) -> bool:
        """Whether each unit has a budget of its own instead of a degree by the law."""
        return self.act == "over_budget" or self.tau is not None

    def rates_for_law(self, evidence: Evidence) -> Floats:
        """On-rates that the law, or a local budget, is applied to; controls change them."""
        return evidence.rates

    def odds_for_law(self, evidence: Evidence) -> Floats:
        """log((1 - a) / a) of each unit, which local budgets do not look at; controls change them."""
        return log_odds(self.rates_for_law(evidence))

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        """Rows keep what the law grants them; see :func:`synbb.pruning.actuators.keep_balanced`."""
        return self._keep(share, evidence, self._beta_at(self._beta.beta, share))

    def observe(self, evidence: Evidence) -> None:
        """Move beta, too, where the loss is to do so."""
        super().observe(evidence)
        if self._beta_moves:
            share = self.schedule.target(self.steps)
            self._beta.observe(evidence, lambda beta: self._keep(share, evidence, self._beta_at(beta, share)))

    def needed(self) -> frozenset[Need]:
        """Gradients, where they regrow connections or move beta."""
        by_gradient: frozenset[Need] = frozenset({"gradients"})
        return super().needed() | (by_gradient if self._beta_moves or self.regrowth == "gradient" else frozenset())

    def least_shares(self) -> Floats | float:
        """What minimum degrees take of each layer."""
        least: Floats = np.zeros(len(self.layers))
        for connections, units in self.table.pairs(self.actuator):
            rows = np.unique(self.table.layer[connections] * self.wiring.unit_count + units)
            counts = np.bincount(rows // self.wiring.unit_count, minlength=len(least))
            least = np.maximum(least, counts * float(self.minimum))
        shares: Floats = np.minimum(least / np.array(self.table.layer_sizes), 1.0)
        return shares

    def own_state(self) -> dict[str, Any]:
        """Feedback of layers and beta."""
        return {**super().own_state(), "beta": self._beta.state_dict()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`own_state` returned."""
        super().load_own_state(state)
        self._beta.load_state_dict(state["beta"])

    def _keep(self, share: float, evidence: Evidence, beta: float) -> np.ndarray:
        budget = self.budget(share, evidence)
        if self.local:
            law: Law = LocalBudget(self.rates_for_law(evidence))
        else:
            law = Balance(self.odds_for_law(evidence), beta)
        scores = self._scores(evidence, budget)
        return keep_balanced(
            self.table,
            scores,
            law,
            budget,
            actuator=self.actuator,
            minimum=self.minimum,
            eligible=evidence.eligible(scores),
            parameter=share if self.tau is not None else None,
        )

    def _beta_at(self, beta: float, share: float) -> float:
        return beta / share if self._beta_scales else beta

    def _scores(self, evidence: Evidence, budget: Budget) -> Floats:
        relative = evidence.relative_weights()
        if self.regrowth == "natural" or (self.regrowth == "gradient" and not evidence.gradients.any()):
            return relative
        # Two tiers: live connections that stay in place, by weight, and below zero all others in order of growth.
        growth = ranks(evidence.gradients) if self.regrowth == "gradient" else evidence.rng.random(self.table.count)
        scores = growth - 1.0
        if evidence.live.all() and self.from_start:
            return scores
        staying = 1.0 - exchanged(self.drop, evidence.step, self.schedule.end)
        for members, share in budget.parts(self.table):
            live = members[evidence.live[members]]
            count = round(staying * min(len(live), share * len(members)))
            stay = strongest(live, relative, count)
            scores[stay] = relative[stay]
        return scores

    def judged(self) -> np.ndarray:
        """Units whose on-rates decide degrees."""
        return np.unique(np.concatenate([units for _, units in self.table.pairs(self.actuator)]))

    def after_refresh(self) -> None:
        """Move thresholds, where that is asked for."""
        if self.threshold_shift:
            self._shift_thresholds()

    @torch.no_grad()
    def _shift_thresholds(self) -> None:
        rates, kept = self.activity.rates(), self.kept()
        live = self.table.fan_out(kept, self.wiring.unit_count)
        modules = dict(self.model.named_modules())
        for group in self.wiring.groups:
            if group.norm is None:
                continue
            own = slice(group.first, group.first + group.size)
            traffic = np.nan_to_num(rates[own]) * live[own]
            over = torch.from_numpy(traffic > traffic.mean())
            norm = modules[group.norm]
            shift = self.threshold_shift * norm.weight.abs() * over.to(norm.weight)
            norm.bias.sub_(shift)


class ClosedLoop(BudgetedBroadcast):
    """Budgeted Broadcast with one number to give: the loss moves budget between layers and sets beta."""

    method = "bb-auto"

    def __init__(self, density: float, **options: Any) -> None:
        super().__init__(density, **{"allocation": "loss", "beta": "auto", **options})
