"""On-rates of units, counted by forward hooks where the trace saw the units' values.

What an on-rate is, :mod:`synbb.pruning.statistics` says. Positions are taken over batch and space, in training passes
only (training mode, gradients on: re-estimating norm statistics is none), padding and ignored voxels left out. Sums
live here and not in module buffers, which data-parallel training would overwrite. The moving average decays once an
optimiser step, however many forward passes the step accumulates, and weighs every position the same. The sums of
several processes are added at the end of each counted step, so that every process holds the same averages.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.pruning.observing import Observers, ValidMasks
from synbb.pruning.processes import summed
from synbb.pruning.statistics import SUMS, check_statistic, is_count, rates, statistic_of, sums

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from synbb.pruning.observing import Valid
    from synbb.pruning.statistics import Array
    from synbb.pruning.wiring import UnitGroup


def check_places(groups: Sequence[UnitGroup], used_units: np.ndarray) -> None:
    """Make sure that on-rates of these units, by number, can be counted at all.

    Raises:
        SynbbError: no module reads or returns the values of some; their groups are named.
    """
    used = np.zeros(sum(group.size for group in groups), dtype=bool)
    used[used_units] = True
    hidden = [
        group.name for group in groups if group.observer is None and used[group.first : group.first + group.size].any()
    ]
    if hidden:
        raise SynbbError(
            f"pruning needs on-rates, and no module reads or returns the units of {_names(hidden)}: make their "
            "activation a module (nn.ReLU()), or exclude the layers that write and read them"
        )


class OnRates:
    """Moving averages of the on-rates of all units of a network.

    Args:
        model: the network; hooks are put on its modules.
        groups: the unit groups of :func:`synbb.pruning.wiring.trace`.
        decay: factor in (0, 1] by which old sums shrink at every counted optimiser step.
        every: count in one optimiser step of this many. Which positions are looked at does not depend on their
            values, so sampling steps leaves the estimate unbiased; it divides the cost.
        statistic: ``sign``, ``treves_rolls``, ``above_mean``, or ``auto``, which takes the sign for units that
            transmit nothing when they are off and the Treves-Rolls ratio for others.

    Raises:
        SynbbError: decay or every out of range, or no such statistic.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[UnitGroup],
        *,
        decay: float,
        every: int,
        statistic: str = "sign",
    ) -> None:
        if not 0 < decay <= 1:
            raise SynbbError(f"pruning decay {decay} must lie in (0, 1]; 1 never forgets")
        if every < 1:
            raise SynbbError(f"pruning count_every of {every} steps must be at least 1")
        self.statistic = check_statistic(statistic)
        self._groups = list(groups)
        self._statistics = [statistic_of(group, self.statistic) for group in self._groups]
        self._decay = decay
        self._every = every
        self._steps = 0
        self._sums = [np.zeros((SUMS[s], g.size)) for s, g in zip(self._statistics, self._groups, strict=True)]
        self._total = np.zeros(len(self._groups))
        self._masks = ValidMasks(None, self._groups)
        self.discard()
        self._observers = Observers(
            model,
            self._groups,
            lambda number, values, axis: self._see(number, values, axis),
            lambda module: self._counts(module),
        )

    def close(self) -> None:
        """Take the hooks off the network."""
        self._observers.close()

    @contextmanager
    def valid(self, mask: Valid) -> Iterator[None]:
        """Count only positions where ``mask`` is true within the context.

        Args:
            mask: bool, shape (batch, 1, *space) or (batch, *space), resized to coarser levels by majority; or such
                masks by patterns of module names, as :data:`synbb.pruning.observing.Valid` says.

        Raises:
            SynbbError: a mask is no tensor; or, within the context, does not fit the units that it is for.
        """
        self._masks = ValidMasks(mask, self._groups)
        try:
            yield
        finally:
            self._masks = ValidMasks(None, self._groups)

    def commit(self) -> None:
        """End an optimiser step: fold what was counted since the last one into the moving averages.

        With several processes this is a collective call in every counted step; each process must make it.
        """
        counted = self._steps % self._every == 0
        self._steps += 1
        if not counted:
            return
        found, positions = self._summed()
        self.discard()
        for number, count in enumerate(positions):
            if count:
                self._sums[number] = self._sums[number] * self._decay + found[number]
                self._total[number] = self._total[number] * self._decay + count

    def discard(self) -> None:
        """Forget what was counted since the last :meth:`commit`, for a step that the optimiser skipped.

        No step passes: the next passes are counted, or not, as these were.
        """
        self._pending: dict[int, Tensor] = {}
        self._positions = np.zeros(len(self._groups), dtype=np.int64)
        self._counted: dict[int, Tensor] = {}  # positions of groups under a mask, on its device

    def rates(self) -> Array:
        """On-rate of each unit in [0, 1], shape (units,), nan where nothing was counted; the same in every process."""
        found = [
            rates(statistic, each, np.full(group.size, total))
            for statistic, each, group, total in zip(
                self._statistics, self._sums, self._groups, self._total, strict=True
            )
        ]
        return np.concatenate(found) if found else np.zeros(0)

    def check(self, used_units: np.ndarray) -> None:
        """Make sure that the on-rates of these units are known.

        Args:
            used_units: numbers of units, or bool of shape (units,).

        Raises:
            SynbbError: some are not; their groups are named, with what may be the matter.
        """
        used = np.zeros(sum(group.size for group in self._groups), dtype=bool)
        used[used_units] = True
        unknown = used & np.isnan(self.rates()) if used.any() else used  # most methods need none
        if not unknown.any():
            return
        uncounted: list[str] = []
        infinite: list[str] = []
        for group, total in zip(self._groups, self._total, strict=True):
            if unknown[group.first : group.first + group.size].any():
                (infinite if total else uncounted).append(group.name)
        said = []
        if infinite:
            said.append(f"values of {_names(infinite)} are not finite; lower the learning rate")
        if uncounted:
            said.append(
                f"those of {_names(uncounted)} were never counted: run the model in training mode, with gradients and "
                "positions that are valid, before pruner.step(); activation checkpointing with use_reentrant=False"
            )
        raise SynbbError(f"pruning needs on-rates of units that has none after step {self._steps}: {'; '.join(said)}")

    def state_dict(self) -> dict[str, Any]:
        """Averages and step, as tensors; what was counted since the last :meth:`commit` is not in it."""
        return {
            "steps": self._steps,
            "statistics": list(self._statistics),
            "sums": [torch.from_numpy(each.copy()) for each in self._sums],
            "total": torch.from_numpy(self._total.copy()),
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse a state that does not fit.

        Raises:
            SynbbError: the state belongs to a network with other units, or to another statistic.
        """
        sizes = [int(each.shape[1]) for each in state["sums"]]
        if sizes != [group.size for group in self._groups]:
            raise SynbbError(f"pruner state of a network with unit groups of sizes {sizes} does not fit this model")
        for group, theirs, ours in zip(self._groups, state["statistics"], self._statistics, strict=True):
            if theirs != ours:
                raise SynbbError(
                    f"pruner state with on-rates by statistic {theirs!r} of {group.name} does not fit {ours!r}; "
                    "continue with the statistic that the run began with"
                )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned.

        Raises:
            SynbbError: the state belongs to a network with other units, or to another statistic.
        """
        self.check_state(state)
        self._steps = int(state["steps"])
        self._sums = [each.cpu().numpy().astype(np.float64).copy() for each in state["sums"]]
        self._total = state["total"].cpu().numpy().astype(np.float64).copy()
        self.discard()

    # ---- inside ----

    def _counts(self, module: nn.Module) -> bool:
        """Whether a call is one of a training pass that is counted, and the first one that computes it."""
        # Activation checkpointing calls modules again amid the backward pass, where no valid mask is known any more.
        repeated = torch._C._current_graph_task_id() != -1
        return module.training and torch.is_grad_enabled() and not repeated and self._steps % self._every == 0

    @torch.no_grad()
    def _see(self, number: int, values: Tensor, axis: int) -> None:
        found = self._masks.at(number, values.shape, axis)
        if found is None:
            self._positions[number] += values.numel() // values.shape[axis]
        else:
            _add(self._counted, number, found[1])
        valid = None if found is None else found[0]
        _add(self._pending, number, sums(self._statistics[number], values, axis, valid))

    def _summed(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Sums and positions of every group since the last commit, over all processes."""
        counts = [number for number, statistic in enumerate(self._statistics) if is_count(statistic)]
        moments = [number for number, statistic in enumerate(self._statistics) if not is_count(statistic)]
        # Counts stay integers on their way; both kinds travel as one tensor each.
        of_counts, positions = self._added(counts, torch.int64, self._all_positions())
        of_moments, _ = self._added(moments, torch.float64, torch.zeros(0)) if moments else ([], None)
        found = dict(zip([*counts, *moments], [*of_counts, *of_moments], strict=True))
        return [found[number] for number in range(len(self._groups))], positions

    def _all_positions(self) -> Tensor:
        """Positions of each group, int64, with and without a mask."""
        positions = torch.from_numpy(self._positions)
        if not self._counted:
            return positions
        nothing = torch.zeros_like(next(iter(self._counted.values())))
        counted = torch.stack([self._counted.get(number, nothing) for number in range(len(self._groups))])
        return positions.to(counted.device) + counted

    def _added(self, numbers: list[int], dtype: torch.dtype, more: Tensor) -> tuple[list[np.ndarray], np.ndarray]:
        """The pending sums of groups ``numbers``, and ``more``, added up over all processes."""
        device = next((each.device for each in self._pending.values()), torch.device("cpu"))
        shapes = [self._sums[number].shape for number in numbers]
        parts = [
            self._pending[number].flatten() if number in self._pending else torch.zeros(rows * units, dtype=dtype)
            for number, (rows, units) in zip(numbers, shapes, strict=True)
        ]
        every = torch.cat([each.to(device, dtype) for each in [*parts, more]])
        *found, rest = np.split(summed(every).numpy(), np.cumsum([a * b for a, b in shapes]))
        return [each.reshape(shape) for each, shape in zip(found, shapes, strict=True)], rest


def _add(known: dict[int, Tensor], number: int, more: Tensor) -> None:
    known[number] = known[number] + more if number in known else more


def _names(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
