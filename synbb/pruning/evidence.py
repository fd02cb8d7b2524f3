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
from torch import Tensor, nn

from synbb.pruning.observing import is_or_stands_for
from synbb.pruning.pattern import Pattern, eligible
from synbb.pruning.processes import averaged, summed

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
        seed: of the run; random methods draw from (seed, step).
        layers: the masked layers.
        pattern: N:M of linear layers, if any.
    """

    table: ConnectionTable
    step: int
    weights: Floats
    live: np.ndarray
    rates: Floats
    gradients: Floats
    saliency: Floats
    inputs: Floats
    seed: int
    layers: Sequence[TracedLayer] = ()
    pattern: Pattern | None = None

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers that are a function of seed and step alone."""
        return np.random.default_rng([self.seed, self.step])

    def eligible(self, scores: Floats) -> np.ndarray:
        """What an N:M pattern leaves to choose from, by the scores of the choice; all without one."""
        return eligible(self.table, scores, self.layers, self.pattern)

    def relative_weights(self) -> Floats:
        """``weights`` over the root mean square of their layer: consumers differ in scale."""
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
        self._weights, self._kernel = list(weights), kernel
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
        """End an optimiser step; with several processes a collective call.

        A step with gradients that are not finite is left out: a backward pass among its own was meant to be skipped.
        """
        # A layer that one process has no gradient of takes part all the same, or others would wait for it.
        reached = summed(torch.tensor([float(each is not None) for each in self._step])) > 0
        norms, saliency = {}, {}
        for index in torch.nonzero(reached).flatten().tolist():
            gradient, product = self._step[index], self._product[index]
            if gradient is None or product is None:
                gradient = torch.zeros_like(self._weights[index])
                product = torch.zeros(self._sizes[index], device=gradient.device)
            norms[index] = connection_norms(averaged(gradient), kernel=self._kernel).cpu()
            saliency[index] = averaged(product).abs().flatten().double().cpu()
        self.discard()
        if not norms or not all(each.isfinite().all() for each in [*norms.values(), *saliency.values()]):
            return
        for index in norms:
            self._norms[index] += norms[index]
            self._saliency[index] += saliency[index]
        self._steps += 1

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
        self._norms = [each.clone() for each in torch.split(state["norms"].cpu(), self._sizes)]
        self._saliency = [each.clone() for each in torch.split(state["saliency"].cpu(), self._sizes)]
        self.discard()


class InputNorms:
    """Root mean square of every input channel of the masked layers, over batch and positions, training passes only.

    Args:
        model: the network.
        layers: the masked layers.
    """

    def __init__(self, model: nn.Module, layers: Sequence[TracedLayer]) -> None:
        self._sizes = [layer.in_channels for layer in layers]
        self._squares: list[Tensor]
        self._counts: list[int]
        self.clear()
        self.discard()
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
        """End an optimiser step; with several processes a collective call. What is not finite is left out."""
        found = summed(torch.cat([*self._step, torch.tensor(self._seen, dtype=torch.float64)]))
        self.discard()
        if found.isfinite().all():
            *squares, counts = torch.split(found, [*self._sizes, len(self._sizes)])
            self._squares = [before + more for before, more in zip(self._squares, squares, strict=True)]
            self._counts = [before + int(more) for before, more in zip(self._counts, counts.tolist(), strict=True)]

    def discard(self) -> None:
        """Forget the passes since the last :meth:`commit`: their optimiser step did not take place."""
        self._step = [torch.zeros(size, dtype=torch.float64) for size in self._sizes]
        self._seen = [0] * len(self._sizes)

    def clear(self) -> None:
        """Begin a new window."""
        self._squares = [torch.zeros(size, dtype=torch.float64) for size in self._sizes]
        self._counts = [0] * len(self._sizes)

    def read(self) -> list[Floats | None]:
        """Root mean square of each input channel of each layer, None where nothing was seen."""
        return [
            (squares / count).sqrt().numpy() if count else None
            for squares, count in zip(self._squares, self._counts, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The sums of the running window, over all processes."""
        return {"squares": torch.cat(self._squares), "counts": list(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self._squares = [each.clone() for each in torch.split(state["squares"].cpu(), self._sizes)]
        self._counts = list(state["counts"])
        self.discard()

    def _hook(self, index: int, watched: nn.Module, *, linear: bool) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if not is_or_stands_for(module, watched):
                return
            if not (self.watching and module.training and torch.is_grad_enabled()):
                return
            given = inputs[0] if inputs else next(each for each in named.values() if isinstance(each, Tensor))
            values = given.detach().float()
            axis = values.dim() - 1 if linear else 1
            others = [dim for dim in range(values.dim()) if dim != axis]
            self._step[index] += values.square().sum(others).double().cpu()
            self._seen[index] += values.numel() // values.shape[axis]

        return hook
