"""On-rates of units, counted by forward hooks where the trace saw the units' values.

A unit is on where its value is above zero. Positions are counted in integers over batch and space, in training passes
only (training mode, gradients on: re-estimating norm statistics is none), padding and ignored voxels left out. Counts
live here and not in module buffers, which data-parallel training would overwrite. The moving average decays once an
optimiser step and weighs every position the same. The counts of several processes are added at the end of each
counted step, so that every process holds the same averages.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from synbb.pruning.wiring import UnitGroup

Array = np.ndarray[Any, np.dtype[np.float64]]

WORD = 8
"""Bytes of an int64: so many booleans are added in one addition."""

LANE = 255
"""Words whose sum cannot carry from one byte into the next."""


class OnRates:
    """Moving averages of the on-rates of all units of a network.

    Args:
        model: the network; hooks are put on its modules.
        groups: the unit groups of :func:`synbb.pruning.wiring.trace`.
        decay: factor in (0, 1] by which old counts shrink at every counted optimiser step.
        every: count in one optimiser step of this many. Which positions are looked at does not depend on their
            values, so sampling steps leaves the estimate unbiased; it divides the cost.

    Raises:
        SynbbError: decay or every out of range.
    """

    def __init__(self, model: nn.Module, groups: Sequence[UnitGroup], *, decay: float, every: int) -> None:
        if not 0 < decay <= 1:
            raise SynbbError(f"pruning decay {decay} must lie in (0, 1]; 1 never forgets")
        if every < 1:
            raise SynbbError(f"pruning count_every of {every} steps must be at least 1")
        self._groups = list(groups)
        self._decay = decay
        self._every = every
        self._steps = 0
        self._pending: dict[int, Tensor] = {}
        self._positions = np.zeros(len(self._groups), dtype=np.int64)
        self._on = [np.zeros(group.size) for group in self._groups]
        self._total = np.zeros(len(self._groups))
        self._mask: Tensor | None = None
        self._mask_at: dict[tuple[int, ...], tuple[Tensor, int]] = {}
        self._calls: dict[str, int] = {}
        self._handles = [model.register_forward_pre_hook(self._restart)]
        modules = dict(model.named_modules())
        watched: dict[tuple[str, str], list[int]] = {}
        for number, group in enumerate(self._groups):
            if group.observer is not None:
                watched.setdefault((group.observer.module, group.observer.side), []).append(number)
        for (name, side), numbers in watched.items():
            if side == "input":
                self._handles.append(modules[name].register_forward_pre_hook(self._reader(name, numbers)))
            else:
                self._handles.append(modules[name].register_forward_hook(self._writer(name, numbers)))

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
        self._mask, self._mask_at = mask, {}
        try:
            yield
        finally:
            self._mask, self._mask_at = None, {}

    def commit(self) -> None:
        """End an optimiser step: fold what was counted into the moving averages.

        With several processes this is a collective call in every counted step; each process must make it.
        """
        counted = self._steps % self._every == 0
        self._steps += 1
        if not counted:
            return
        on, positions = self._summed()
        self._pending, self._positions = {}, np.zeros(len(self._groups), dtype=np.int64)
        start = 0
        for number, group in enumerate(self._groups):
            if positions[number]:
                self._on[number] = self._on[number] * self._decay + on[start : start + group.size]
                self._total[number] = self._total[number] * self._decay + positions[number]
            start += group.size

    def rates(self) -> Array:
        """On-rate of each unit in [0, 1], shape (units,), nan where nothing was counted; the same in every process."""
        if not self._groups:
            return np.zeros(0)
        on = np.concatenate(self._on)
        total = np.repeat(self._total, [group.size for group in self._groups])
        rates: Array = np.divide(on, total, out=np.full(len(on), np.nan), where=total > 0)
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Averages and step, as tensors; what was counted since the last :meth:`commit` is not in it."""
        return {
            "steps": self._steps,
            "on": [torch.from_numpy(each.copy()) for each in self._on],
            "total": torch.from_numpy(self._total.copy()),
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse a state that does not fit.

        Raises:
            SynbbError: the state belongs to a network with other units.
        """
        sizes = [int(each.numel()) for each in state["on"]]
        if sizes != [group.size for group in self._groups]:
            raise SynbbError(f"pruner state of a network with unit groups of sizes {sizes} does not fit this model")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned.

        Raises:
            SynbbError: the state belongs to a network with other units.
        """
        self.check_state(state)
        self._steps = int(state["steps"])
        self._on = [each.cpu().numpy().astype(np.float64).copy() for each in state["on"]]
        self._total = state["total"].cpu().numpy().astype(np.float64).copy()
        self._pending, self._positions = {}, np.zeros(len(self._groups), dtype=np.int64)

    # ---- inside ----

    def _restart(self, _: nn.Module, __: tuple[Any, ...]) -> None:
        self._calls = {}

    def _reader(self, name: str, numbers: list[int]) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._see(name, numbers, module, inputs[0])

        return hook

    def _writer(self, name: str, numbers: list[int]) -> Any:
        def hook(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
            self._see(name, numbers, module, output)

        return hook

    def _see(self, name: str, numbers: list[int], module: nn.Module, values: Tensor) -> None:
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        if not module.training or not torch.is_grad_enabled() or self._steps % self._every:
            return
        for number in numbers:
            observer = self._groups[number].observer
            assert observer is not None
            if observer.call is None or observer.call == call:
                self._count(number, values, observer.axis, observer.start)

    @torch.no_grad()
    def _count(self, number: int, values: Tensor, axis: int, start: int) -> None:
        size = self._groups[number].size
        if values.shape[axis] != size:
            values = values.narrow(axis, start, size)
        on = values > 0
        positions = values.numel() // size
        if self._mask is not None:
            valid, positions = self._mask_for(self._mask, values.shape, axis)
            on &= valid
        counts = count_true(on, axis)
        known = self._pending.get(number)
        self._pending[number] = counts if known is None else known + counts
        self._positions[number] += positions

    def _mask_for(self, mask: Tensor, shape: torch.Size, axis: int) -> tuple[Tensor, int]:
        """The mask at the positions of a tensor of ``shape``, broadcastable over its channel axis, and its count."""
        space = tuple(size for dim, size in enumerate(shape) if dim not in (0, axis))
        if space not in self._mask_at:
            batch = mask.shape[0]
            given = mask.shape[2:] if mask.dim() > 2 and mask.shape[1] == 1 else mask.shape[1:]
            if len(given) == 0 or batch != shape[0] or axis == 0 or len(space) not in (0, len(given)):
                raise SynbbError(
                    f"valid mask of shape {tuple(mask.shape)} does not fit activations of shape {tuple(shape)}; "
                    "give bool (batch, 1, *space) with the batch axis first"
                )
            known = mask.reshape(batch, 1, *given)
            if not space:  # one value a sample: it counts when any of its positions does
                known = known.flatten(1).any(1, keepdim=True)
            elif tuple(given) != space:
                known = nn.functional.interpolate(known.float(), size=space, mode="area") >= 0.5
            self._mask_at[space] = known.bool(), int(known.bool().sum())
        known, count = self._mask_at[space]
        return known if axis == 1 else known.movedim(1, axis), count

    def _summed(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts of all units and positions of all groups since the last commit, over all processes."""
        device = next((each.device for each in self._pending.values()), torch.device("cpu"))
        parts = [
            self._pending[number] if number in self._pending else torch.zeros(group.size, dtype=torch.int64)
            for number, group in enumerate(self._groups)
        ]
        every = torch.cat([part.to(device) for part in parts] + [torch.from_numpy(self._positions).to(device)])
        if distributed.is_available() and distributed.is_initialized():
            every = every.to("cuda" if distributed.get_backend() == "nccl" else "cpu")
            distributed.all_reduce(every)
        summed = every.cpu().numpy()
        units = len(summed) - len(self._groups)
        return summed[:units], summed[units:]


def count_true(on: Tensor, axis: int) -> Tensor:
    """Number of true elements for each index of ``axis``, exact, int64, shape (size of the axis,).

    torch adds booleans one by one on CPU, 70 to 90 ms for ten million; read as words, eight at a time, they take 2 ms.
    """
    others = [dim for dim in range(on.dim()) if dim != axis]
    length = on.shape[2:].numel() if on.dim() > 2 else 0
    if axis != 1 or on.device.type != "cpu" or length < WORD * LANE or length % WORD:
        return on.sum(dim=others, dtype=torch.int64) if others else on.long()
    words = on.flatten(2).contiguous().view(torch.int64)
    whole = words.shape[2] // LANE * LANE
    blocks = words[..., :whole].view(*words.shape[:2], whole // LANE, LANE).sum(3)
    rest = words[..., whole:].sum(2, keepdim=True)
    return torch.cat([blocks, rest], 2).view(torch.uint8).sum((0, 2), dtype=torch.int64)
