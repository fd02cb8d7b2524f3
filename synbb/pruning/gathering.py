"""Gathering evidence while a network trains, for the next choice of masks.

On-rates are counted all the time; gradients and input norms are gathered only for methods that ask for them, in the few
optimiser steps before a refresh. What was seen counts once its optimiser step has taken place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError
from synbb.pruning.evidence import Evidence, Gradients, InputNorms, Need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from synbb.pruning.activity import OnRates
    from synbb.pruning.balance import Floats
    from synbb.pruning.connections import ConnectionTable
    from synbb.pruning.masked_weights import MaskedWeights
    from synbb.pruning.pattern import Pattern
    from synbb.pruning.schedule import Schedule
    from synbb.pruning.wiring import TracedLayer


class Gathering:
    """What is seen of a network between two refreshes.

    Args:
        model: the network.
        layers: its masked layers.
        table: their connections.
        weights: their weights and masks.
        activity: on-rates of the units.
        needs: what is gathered besides.
        window: optimiser steps before a refresh in which that is done.
        pattern: of linear layers, if any.
        seed: of random choices.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[TracedLayer],
        table: ConnectionTable,
        weights: MaskedWeights,
        activity: OnRates,
        needs: frozenset[Need],
        *,
        window: int,
        pattern: Pattern | None,
        seed: int,
    ) -> None:
        self._layers, self._table, self._weights, self._activity = layers, table, weights, activity
        self._window, self._pattern, self._seed = window, pattern, seed
        self._gradients = Gradients(weights.weights, kernel=weights.kernel) if "gradients" in needs else None
        self._inputs = InputNorms(model, layers) if "inputs" in needs else None
        self._watching = False

    def watch(self, step: int, schedule: Schedule) -> None:
        """Gather gradients and inputs in the step after ``step``, if a refresh follows within the window."""
        coming = range(step + 1, step + 1 + self._window)
        self._watching = any(schedule.refreshes(each) for each in coming)
        if self._inputs is not None:
            self._inputs.watching = self._watching

    def see(self, index: int, gradient: Tensor) -> None:
        """A backward pass reached the weight of layer number ``index`` with ``gradient``, not yet masked."""
        if self._gradients is not None and self._watching:
            self._gradients.see(index, gradient, self._weights.full(index))

    def commit(self) -> None:
        """An optimiser step took place; with several processes a collective call where it was watched."""
        self._activity.commit()
        if self._gradients is not None and self._watching:
            self._gradients.commit()
        if self._inputs is not None and self._watching:
            self._inputs.commit()

    def discard(self) -> None:
        """Forget what was seen since the last :meth:`commit`: its optimiser step did not take place."""
        self._activity.discard()
        if self._gradients is not None:
            self._gradients.discard()
        if self._inputs is not None:
            self._inputs.discard()

    def clear(self) -> None:
        """Begin a new window of gradients and inputs."""
        if self._gradients is not None:
            self._gradients.clear()
        if self._inputs is not None:
            self._inputs.clear()

    def evidence(self, step: int) -> Evidence:
        """All that was gathered up to ``step``, the number of optimiser steps done.

        Raises:
            SynbbError: steps were done, and nothing was seen of the gradients that the method needs, or of the inputs
                of a layer.
        """
        zeros = np.zeros(self._table.count)
        gradients, saliency, inputs = zeros, zeros, zeros
        # Where a method saw nothing, zeros would make it rank connections by their index.
        if self._gradients is not None:
            if step and not self._gradients.seen:
                raise SynbbError(
                    f"at step {step} no gradient of a masked layer was seen in the last {self._window} steps: do these "
                    "layers train, and is step() called after each optimiser step?"
                )
            gradients, saliency = self._gradients.read()
        if self._inputs is not None:
            inputs = self._input_norms(self._inputs, step)
        return Evidence(
            table=self._table,
            step=step,
            weights=self._weights.norms(),
            live=self._weights.kept(),
            rates=self._activity.rates(),
            gradients=gradients,
            saliency=saliency,
            inputs=inputs,
            seed=self._seed,
            layers=self._layers,
            pattern=self._pattern,
        )

    def _input_norms(self, gathered: InputNorms, step: int) -> Floats:
        norms = gathered.read()
        unseen = [layer.name for layer, each in zip(self._layers, norms, strict=True) if each is None]
        if step and unseen:
            more = f" and {len(unseen) - 1} more" if len(unseen) > 1 else ""
            raise SynbbError(
                f"at step {step} no input of masked layer {unseen[0]!r}{more} was seen in the last {self._window} "
                "steps: run the model itself, in training mode (model.train()), compile it after attaching, and "
                "exclude layers that are not called as modules"
            )
        inputs = np.zeros(self._table.count)
        for members, each in zip(self._table.scopes("layer"), norms, strict=True):
            if each is not None:
                inputs[members] = each[self._table.source[members]]
        return inputs

    def close(self) -> None:
        """Take all hooks off the network."""
        self._activity.close()
        if self._inputs is not None:
            self._inputs.close()

    def state_dict(self) -> dict[str, Any]:
        """On-rates, and the sums of the running window."""
        return {
            "activity": self._activity.state_dict(),
            "gradients": None if self._gradients is None else self._gradients.state_dict(),
            "inputs": None if self._inputs is None else self._inputs.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned; a window that was not gathered then begins now.

        Raises:
            SynbbError: the state belongs to a network with other units, or to another statistic.
        """
        self._activity.load_state_dict(state["activity"])
        if self._gradients is not None and state["gradients"] is not None:
            self._gradients.load_state_dict(state["gradients"])
        if self._inputs is not None and state["inputs"] is not None:
            self._inputs.load_state_dict(state["inputs"])


def neutral(table: ConnectionTable, units: int, *, seed: int) -> Evidence:
    """Evidence of a network of ``units`` units of which nothing is known; any connection may be chosen.

    A pattern leaves some units without connections, others than later: what all units take is then the safe side.
    """
    even = np.ones(table.count)
    return Evidence(
        table=table,
        step=0,
        weights=even,
        live=even > 0,
        rates=np.full(units, 0.5),
        gradients=even,
        saliency=even,
        inputs=even,
        seed=seed,
    )
