"""What a choice of masks may know of every connection: weight, gradient, saliency, input, and the units' on-rates.

Weights and on-rates are always there. Gradients and input norms cost memory and time, so they are gathered only for
methods that ask for them, in the few optimiser steps before a refresh. All is summed over the processes of a
data-parallel run before it is used, so that every process chooses the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.pruning.balance import Floats
    from synbb.pruning.connections import ConnectionTable
    from synbb.pruning.wiring import TracedLayer

Need = Literal["gradients", "inputs"]


@dataclass(frozen=True)
class Evidence:
    """Everything a method may look at when it chooses masks. Arrays over connections are in the order of ``table``.

    Attributes:
        table: the masked connections.
        step: optimiser steps done.
        weights: norm of each connection, latent values where it is cut: |w|, or the root mean square of a kernel slice.
        live: whether each connection is live now.
        rates: on-rate of each unit, nan where nothing was counted.
        gradients: norm of the loss gradient at each connection, cut ones included, mean over the last steps.
        saliency: |sum of w dL/dw| of each connection, latent w where cut, mean over the last steps.
        inputs: root mean square of the values that each connection reads.
        eligible: what an N:M pattern leaves to choose from; all true without one.
        seed: of the run; random methods draw from (seed, step).
    """

    table: ConnectionTable
    step: int
    weights: Floats
    live: np.ndarray
    rates: Floats
    gradients: Floats
    saliency: Floats
    inputs: Floats
    eligible: np.ndarray
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers that are a function of seed and step alone."""
        return np.random.default_rng([self.seed, self.step])

    def relative_weights(self) -> Floats:
        """``weights`` over the root mean square of their layer: consumers differ in scale (METHOD §2)."""
        layers = len(self.table.layer_sizes)
        squares = np.bincount(self.table.layer, weights=self.weights**2, minlength=layers)
        scale = np.sqrt(squares / self.table.layer_sizes)
        return self.weights / np.where(scale > 0, scale, 1.0)[self.table.layer]


def connection_norms(weight: Tensor, *, kernel: bool) -> Tensor:
    """Norm of each connection of a weight, flat: the root mean square over a kernel slice, or absolute values."""
    values = weight.float()
    if kernel and values.dim() > 2:
        values = values.flatten(2).square().mean(2).sqrt()
    return values.abs().flatten().double()


class Gradients:
    """Sums of dense gradients at each connection over some optimiser steps.

    Args:
        weights: the masked parameters.
        kernel: whether a connection is a kernel slice.
    """

    def __init__(self, weights: Sequence[Tensor], *, kernel: bool) -> None:
        self._kernel = kernel
        self._step: list[Tensor | None] = [None] * len(weights)
        self._product: list[Tensor | None] = [None] * len(weights)
        sizes = [connection_norms(weight, kernel=kernel).numel() for weight in weights]
        self._sizes = sizes
        self.clear()

    def see(self, index: int, gradient: Tensor, full: Tensor) -> None:
        """One backward pass reached weight ``index`` with ``gradient``; ``full`` holds latent values where cut."""
        product = (gradient * full).float()
        if self._kernel and product.dim() > 2:
            product = product.flatten(2).sum(2)
        known, before = self._step[index], self._product[index]
        self._step[index] = gradient.detach().clone() if known is None else known + gradient
        self._product[index] = product if before is None else before + product

    def discard(self) -> None:
        """Forget the backward passes since the last :meth:`commit`: their optimiser step did not take place."""
        self._step, self._product = [None] * len(self._sizes), [None] * len(self._sizes)

    def commit(self) -> None:
        """End an optimiser step; with several processes a collective call."""
        if all(each is None for each in self._step):
            return
        for index, (gradient, product) in enumerate(zip(self._step, self._product, strict=True)):
            if gradient is not None and product is not None:
                self._norms[index] += connection_norms(_mean(gradient), kernel=self._kernel).cpu()
                self._saliency[index] += _mean(product).abs().flatten().double().cpu()
        self._steps += 1
        self.discard()

    def clear(self) -> None:
        """Begin a new window."""
        self._norms = [torch.zeros(size, dtype=torch.float64) for size in self._sizes]
        self._saliency = [torch.zeros(size, dtype=torch.float64) for size in self._sizes]
        self._steps = 0

    @property
    def seen(self) -> bool:
        """Whether the window holds an optimiser step."""
        return self._steps > 0

    def read(self) -> tuple[Floats, Floats]:
        """Mean norm of the gradient and mean saliency of each connection; zeros when no step was seen."""
        steps = max(self._steps, 1)
        return torch.cat(self._norms).numpy() / steps, torch.cat(self._saliency).numpy() / steps

    def state_dict(self) -> dict[str, Any]:
        """The sums of the running window."""
        return {"steps": self._steps, "norms": torch.cat(self._norms), "saliency": torch.cat(self._saliency)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self._steps = int(state["steps"])
        self._norms = [each.clone() for each in torch.split(state["norms"], self._sizes)]
        self._saliency = [each.clone() for each in torch.split(state["saliency"], self._sizes)]


class InputNorms:
    """Root mean square of every input channel of the masked layers, over batch and positions, training passes only.

    Args:
        model: the network.
        layers: the masked layers.
    """

    def __init__(self, model: nn.Module, layers: Sequence[TracedLayer]) -> None:
        self._squares = [torch.zeros(layer.in_channels, dtype=torch.float64) for layer in layers]
        self._counts = [0] * len(layers)
        self.commit()
        self.watching = False
        modules = dict(model.named_modules())
        self._handles = [
            modules[layer.name].register_forward_pre_hook(
                self._hook(index, modules[layer.name], linear=layer.kind == "linear"), with_kwargs=True
            )
            for index, layer in enumerate(layers)
        ]

    def close(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()

    def commit(self) -> None:
        """End an optimiser step."""
        self._settled = [each.clone() for each in self._squares], list(self._counts)

    def discard(self) -> None:
        """Forget the passes since the last :meth:`commit`: their optimiser step did not take place."""
        squares, counts = self._settled
        self._squares, self._counts = [each.clone() for each in squares], list(counts)

    def clear(self) -> None:
        """Begin a new window."""
        self._squares = [torch.zeros_like(each) for each in self._squares]
        self._counts = [0] * len(self._counts)
        self.commit()

    def read(self) -> list[Floats | None]:
        """Root mean square of each input channel of each layer, None where nothing was seen; a collective call."""
        found: list[Floats | None] = []
        for squares, count in zip(self._squares, self._counts, strict=True):
            both = _sum(torch.cat([squares, torch.tensor([float(count)], dtype=torch.float64)]))
            found.append((both[:-1] / both[-1]).sqrt().numpy() if both[-1] else None)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The sums of the running window."""
        squares, counts = self._settled
        return {"squares": torch.cat(squares), "counts": list(counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self._squares = [each.clone() for each in torch.split(state["squares"], [len(s) for s in self._squares])]
        self._counts = list(state["counts"])
        self.commit()

    def _hook(self, index: int, watched: nn.Module, *, linear: bool) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if module is not watched:  # a copy of the network has copies of its hooks
                return
            if not (self.watching and module.training and torch.is_grad_enabled()):
                return
            given = inputs[0] if inputs else next(each for each in named.values() if isinstance(each, Tensor))
            values = given.detach().float()
            axis = values.dim() - 1 if linear else 1
            others = [dim for dim in range(values.dim()) if dim != axis]
            self._squares[index] += values.square().sum(others).double().cpu()
            self._counts[index] += values.numel() // values.shape[axis]

        return hook


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _sum(values: Tensor) -> Tensor:
    """``values`` summed over the processes, on the CPU."""
    if _processes() == 1:
        return values.cpu()
    moved = values.to("cuda" if distributed.get_backend() == "nccl" else "cpu").clone()
    distributed.all_reduce(moved)
    return moved.cpu()


def _mean(values: Tensor) -> Tensor:
    """``values`` averaged over the processes, as data-parallel training averages gradients."""
    return values if _processes() == 1 else _sum(values.float()) / _processes()
