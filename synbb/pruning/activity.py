"""On-rates of units, counted by forward hooks where a consumer reads them.

A unit is on where its value is above zero. Positions are counted in integers over batch and space, in training
passes only (training mode, gradients on), padding and ignored voxels left out; counts live here and not in module buffers, which data-parallel training
would overwrite. The moving average decays once an optimiser step and weighs every position the same, so the sums of
several processes add up exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.pruning.wiring import UnitGroup


class OnRates:
    """Moving averages of the on-rates of all units of a network.

    Args:
        model: the network; hooks are put on its modules.
        groups: the unit groups of :func:`synbb.pruning.wiring.trace`.
        decay: factor by which old counts shrink at every counted optimiser step.
        every: count in one optimiser step of this many. Which positions are looked at does not depend on their
            values, so sampling steps leaves the estimate unbiased; it divides the cost.
    """

    def __init__(self, model: nn.Module, groups: Sequence[UnitGroup], *, decay: float, every: int) -> None:
        self._groups = list(groups)
        self._decay = decay
        self._every = every
        self._steps = 0
        self._device_counts: dict[int, Tensor] = {}
        self._positions = [0 for _ in self._groups]
        self._on: list[np.ndarray] = [np.zeros(group.size) for group in self._groups]
        self._total = np.zeros(len(self._groups))
        self._valid: Tensor | None = None
        self._valid_at: dict[tuple[int, ...], Tensor] = {}
        modules = dict(model.named_modules())
        self._handles = []
        for number, group in enumerate(self._groups):
            if group.observer is None:
                continue
            module = modules[group.observer.module]
            if group.observer.side == "input":
                self._handles.append(module.register_forward_pre_hook(self._reader(number)))
            else:
                self._handles.append(module.register_forward_hook(self._writer(number)))

    def close(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def valid(self, mask: Tensor | None) -> Iterator[None]:
        """Count only positions where ``mask`` is true within the context.

        Args:
            mask: bool, shape (batch, 1, *space) or (batch, *space); resized to coarser levels by majority.
        """
        self._valid, self._valid_at = mask, {}
        try:
            yield
        finally:
            self._valid, self._valid_at = None, {}

    def commit(self) -> None:
        """End an optimiser step: fold what was counted into the moving averages."""
        self._steps += 1
        if not self._device_counts:
            return
        for number, counts in self._device_counts.items():
            self._on[number] = self._on[number] * self._decay + counts.cpu().numpy()
            self._total[number] = self._total[number] * self._decay + self._positions[number]
            self._positions[number] = 0
        self._device_counts = {}

    def rates(self) -> np.ndarray:
        """On-rate of each unit in [0, 1], shape (units,), nan where nothing was counted.

        Sums over all processes when ``torch.distributed`` is initialised, so that every rank sees the same rates.
        """
        on = np.concatenate([*self._on, self._total])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            summed = torch.from_numpy(on).to(device)
            torch.distributed.all_reduce(summed)
            on = summed.cpu().numpy()
        units = sum(group.size for group in self._groups)
        total = np.repeat(on[units:], [group.size for group in self._groups])
        return np.divide(on[:units], total, out=np.full(units, np.nan), where=total > 0)

    def state_dict(self) -> dict[str, Any]:
        """Counts and step, as tensors."""
        return {
            "steps": self._steps,
            "on": [torch.from_numpy(each.copy()) for each in self._on],
            "total": torch.from_numpy(self._total.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned.

        Raises:
            SynbbError: the state belongs to a network with other units.
        """
        sizes = [int(each.numel()) for each in state["on"]]
        if sizes != [group.size for group in self._groups]:
            raise SynbbError(f"on-rates of a network with unit groups {sizes} do not fit this one")
        self._steps = int(state["steps"])
        self._on = [each.numpy().astype(np.float64).copy() for each in state["on"]]
        self._total = state["total"].numpy().astype(np.float64).copy()
        self._device_counts, self._positions = {}, [0 for _ in self._groups]

    # ---- hooks ----

    def _reader(self, number: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if self._counts_now(module):
                self._count(number, inputs[0])

        return hook

    def _writer(self, number: int) -> Any:
        def hook(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
            if self._counts_now(module):
                self._count(number, output)

        return hook

    def _counts_now(self, module: nn.Module) -> bool:
        # Passes without gradients in training mode re-estimate norm statistics; they are no training.
        return module.training and torch.is_grad_enabled() and self._steps % self._every == 0

    @torch.no_grad()
    def _count(self, number: int, values: Tensor) -> None:
        group = self._groups[number]
        assert group.observer is not None
        axis = group.observer.axis
        if values.shape[axis] != group.size:
            values = values.narrow(axis, group.observer.start, group.size)
        on = values > 0
        positions = values.numel() // group.size
        if self._valid is not None:
            valid = self._valid_for(values.shape, axis)
            on &= valid
            positions = int(valid.sum())
        counts = on.sum(dim=[d for d in range(values.dim()) if d != axis], dtype=torch.int64)
        known = self._device_counts.get(number)
        self._device_counts[number] = counts if known is None else known + counts
        self._positions[number] += positions

    def _valid_for(self, shape: torch.Size, axis: int) -> Tensor:
        """The valid mask at the positions of a tensor of ``shape``, broadcastable over its channel axis."""
        assert self._valid is not None
        space = tuple(s for d, s in enumerate(shape) if d not in (0, axis))
        if space not in self._valid_at:
            mask = self._valid.reshape(self._valid.shape[0], 1, *self._valid.shape[-len(space) :])
            if tuple(mask.shape[2:]) != space:
                mask = nn.functional.interpolate(mask.float(), size=space, mode="area") >= 0.5
            self._valid_at[space] = mask.bool()
        mask = self._valid_at[space]
        return mask if axis == 1 else mask.movedim(1, axis)
