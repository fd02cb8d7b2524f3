"""Controls: Budgeted Broadcast with one ingredient taken away, to tell what makes the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError
from synbb.pruning.broadcast import BudgetedBroadcast

if TYPE_CHECKING:
    from synbb.pruning.balance import Floats
    from synbb.pruning.evidence import Evidence


class OddsChanged(BudgetedBroadcast):
    """A control that changes the log-odds of units. Budgets of single units look at on-rates: it would be the rule."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.local:
            given = f"act {self.act!r}" if self.tau is None else f"tau {self.tau}"
            raise SynbbError(
                f"pruning method {self.method!r} contradicts {given}: a local budget of a unit is set by its on-rate, "
                "and this control changes log-odds alone, so that it would not differ from 'bb'; leave that option "
                "out, or take 'permuted' or 'frozen-rates'"
            )


class UniformDegrees(OddsChanged):
    """Every unit of a scope gets the same relative degree: the actuator without the law."""

    method = "uniform-degrees"

    def odds_for_law(self, evidence: Evidence) -> Floats:
        """Nobody differs."""
        return np.zeros(len(evidence.rates))


class PermutedRates(BudgetedBroadcast):
    """On-rates exchanged among the units of a group, alike at every refresh: the degrees without their owners."""

    method = "permuted"

    def rates_for_law(self, evidence: Evidence) -> Floats:
        """Those of other units."""
        rng = np.random.default_rng(self.seed)
        rates = evidence.rates.copy()
        for group in self.wiring.groups:
            own = slice(group.first, group.first + group.size)
            rates[own] = rng.permutation(rates[own])
        return rates


class InvertedRates(OddsChanged):
    """1 - a for a: the busier a unit, the larger its audience. The law with the wrong sign."""

    method = "inverted"

    def odds_for_law(self, evidence: Evidence) -> Floats:
        """The sign is turned."""
        return -super().odds_for_law(evidence)


class FrozenRates(BudgetedBroadcast):
    """On-rates as they were at the first refresh, ever after."""

    method = "frozen-rates"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._frozen: Floats | None = None

    def observe(self, evidence: Evidence) -> None:
        """Remember the first on-rates."""
        if self._frozen is None:
            self._frozen = evidence.rates.copy()
        super().observe(evidence)

    def rates_for_law(self, evidence: Evidence) -> Floats:
        """Those of the first refresh."""
        return evidence.rates if self._frozen is None else self._frozen

    def own_state(self) -> dict[str, Any]:
        """With the remembered on-rates."""
        return {**super().own_state(), "frozen": None if self._frozen is None else self._frozen.tolist()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`own_state` returned."""
        super().load_own_state(state)
        self._frozen = None if state["frozen"] is None else np.array(state["frozen"])


class TwoThresholds(OddsChanged):
    """The rule of the authors' public notebooks: few connections above one on-rate, many below another.

    Args:
        arguments: those of :class:`BudgetedBroadcast`.
        few_above: on-rate above which a unit gets few.
        many_below: on-rate below which it gets many.
        options: those of :class:`BudgetedBroadcast`.
    """

    method = "two-thresholds"

    def __init__(self, *arguments: Any, few_above: float = 0.7, many_below: float = 0.3, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not 0 <= many_below <= few_above <= 1:
            raise SynbbError(
                f"pruning many_below {many_below} and few_above {few_above} must be on-rates, many_below the smaller"
            )
        self.few_above, self.many_below = few_above, many_below

    def odds_for_law(self, evidence: Evidence) -> Floats:
        """One step of log-odds up or down, or none."""
        rates = np.nan_to_num(self.rates_for_law(evidence), nan=0.5)
        return (rates < self.many_below).astype(np.float64) - (rates > self.few_above)
