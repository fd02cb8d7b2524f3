"""The closed loop: budget moves between layers by how the loss responds, and beta is set the same way.

Both read the saliency |w dL/dw| of every connection, the first-order change of the loss when it is cut (Molchanov et
al. 2017), averaged over the optimiser steps before a refresh. This part is ours; the source of the rule names it as
future work.

*Between layers.* A budget is well divided when giving up one more connection hurts the loss alike everywhere. The loop
compares the mean saliency of each layer's weakest live connections, those it would lose next, and multiplies the
layers' proportions by a power of it, so that budget flows to where giving up hurts more.

*Beta.* Among the present beta, a smaller and a larger one, that is taken whose mask keeps most of all saliency; a
change must gain more than a margin, so that noise alone does not move it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.pruning.ranking import strongest

if TYPE_CHECKING:
    from collections.abc import Callable

    from synbb.pruning.balance import Floats
    from synbb.pruning.evidence import Evidence

GAIN = 0.25
"""Power of the relative marginal saliency by which a layer's proportion is multiplied at each refresh."""

REACH = 4.0
"""A layer's proportion stays within this factor of an even one."""

MARGIN_SHARE = 0.25
"""Share of a layer's live connections, its weakest, that count as its margin."""

BETA_STEP = 1.5
BETA_RANGE = (0.25, 16.0)  # times the share of the budget
BETA_MARGIN = 0.01
"""Relative gain of kept saliency that a change of beta must bring."""


class LayerFeedback:
    """Proportions of the layers, moved by :meth:`observe`."""

    def __init__(self, layers: int) -> None:
        self.proportions: Floats = np.ones(layers)

    def observe(self, evidence: Evidence) -> None:
        """Learn from the saliency at a refresh; nothing changes where none was seen."""
        margins = np.array([self._margin(evidence, members) for members in evidence.table.scopes("layer")])
        known = margins > 0
        if known.sum() < 2:  # one layer alone has nobody to give to
            return
        middle = np.exp(np.log(margins[known]).mean())
        factors = np.where(known, (np.where(known, margins, 1.0) / middle) ** GAIN, 1.0)
        self.proportions = np.clip(self.proportions * factors, 1 / REACH, REACH)

    @staticmethod
    def _margin(evidence: Evidence, members: np.ndarray) -> float:
        """Mean saliency of a layer's weakest live connections, by weight."""
        live = members[evidence.live[members]]
        count = max(round(MARGIN_SHARE * len(live)), 1)
        weakest = strongest(live, -evidence.weights, count)
        return float(evidence.saliency[weakest].mean()) if len(weakest) else 0.0

    def state_dict(self) -> dict[str, Any]:
        """The proportions."""
        return {"proportions": self.proportions.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.proportions = np.array(state["proportions"])


class BetaFeedback:
    """Beta times the share of the budget, moved by :meth:`observe`; a fixed beta is simply held."""

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def observe(self, evidence: Evidence, keep: Callable[[float], np.ndarray]) -> None:
        """Try neighbours of beta.

        Args:
            evidence: at a refresh.
            keep: the mask that a beta would give.
        """
        if not evidence.saliency.any():
            return
        held = float(evidence.saliency[keep(self.beta)].sum())
        best, most = self.beta, held * (1 + BETA_MARGIN)
        for candidate in np.clip([self.beta / BETA_STEP, self.beta * BETA_STEP], *BETA_RANGE).tolist():
            kept = float(evidence.saliency[keep(candidate)].sum())
            if kept > most:
                best, most = candidate, kept
        self.beta = best

    def state_dict(self) -> dict[str, Any]:
        """Beta."""
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.beta = float(state["beta"])
