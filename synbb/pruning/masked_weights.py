"""Masks and latent weights of a network's masked layers.

The parameters hold the masked values, under their usual names, so stock modules that read a weight directly, fused
kernels and users' checkpoints all see the pruned network. What a cut weight was is kept here, untouched by the
optimiser, and comes back when the connection is chosen again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from synbb.pruning.evidence import connection_norms

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from synbb.pruning.connections import ConnectionTable

Connection = Literal["kernel", "weight"]
Revival = Literal["latent", "zero"]


class MaskedWeights:
    """The masked parameters of a network; all connections begin live.

    Args:
        weights: layer name to weight.
        connection: whether a convolution's mask is one value a kernel slice or one a weight.

    Attributes:
        cutting: whether any connection is cut.
        masks: layer name to mask, bool, broadcastable to its weight.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], connection: Connection) -> None:
        self.weights = list(weights.values())
        self.kernel = connection == "kernel"
        self.cutting = False
        self._masks = [
            torch.ones(self._mask_shape(weight), dtype=torch.bool, device=weight.device) for weight in self.weights
        ]
        self._latent = [torch.zeros_like(weight) for weight in self.weights]
        self.masks: dict[str, Tensor] = dict(zip(weights, self._masks, strict=True))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each layer's mask."""
        return {name: tuple(mask.shape) for name, mask in self.masks.items()}

    def weights_a_connection(self, index: int) -> int:
        """How many entries of the table a kernel slice of layer number ``index`` takes."""
        return 1 if self.kernel else self.weights[index][0, 0].numel()

    def kept(self) -> np.ndarray:
        """All masks as one vector, bool, shape (connections,)."""
        return _together(mask.flatten() for mask in self._masks).numpy()

    def live(self) -> int:
        """Number of live connections."""
        return int(_together(mask.sum()[None] for mask in self._masks).sum())

    @torch.no_grad()
    def full(self, index: int) -> Tensor:
        """Weight of a layer with latent values where it is cut."""
        return torch.where(self._masks[index], self.weights[index], self._latent[index])

    def norms(self) -> np.ndarray:
        """Norm of each connection, latent values included, shape (connections,)."""
        every = (connection_norms(self.full(index), kernel=self.kernel) for index in range(len(self.weights)))
        return _together(every).numpy()

    @torch.no_grad()
    def choose(self, kept: np.ndarray, table: ConnectionTable, *, revives: Revival) -> None:
        """Make ``kept`` (bool, shape (connections,)) the live connections.

        Args:
            kept: what is live from now on.
            table: the connections.
            revives: whether one that comes back has its latent value or zero.
        """
        chosen = torch.from_numpy(kept).to(self._masks[0].device).split(list(table.layer_sizes))
        for index, flat in enumerate(chosen):
            full, mask = self.full(index), self._masks[index]
            if revives == "zero":
                full = torch.where(mask, full, 0)
            mask.copy_(flat.reshape(mask.shape))
            self.weights[index].copy_(torch.where(mask, full, 0))
            self._latent[index].copy_(torch.where(mask, 0, full))
        self.cutting = not bool(kept.all())

    @torch.no_grad()
    def reapply(self) -> None:
        """Set cut weights to zero, whatever an optimiser did to them."""
        if self.cutting:
            for weight, mask in zip(self.weights, self._masks, strict=True):
                weight.masked_fill_(~mask, 0)

    def masked_gradient(self, index: int, gradient: Tensor) -> Tensor | None:
        """Gradient of a layer's weight with zeros where it is cut; None where nothing is.

        Zeros keep momentum and second moments of cut weights at zero and out of gradient clipping.
        """
        return torch.where(self._masks[index], gradient, 0) if self.cutting else None

    @torch.no_grad()
    def clear_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Set an optimiser's moments of cut weights to zero, so that none of them starts again with a stale push."""
        for weight, mask in zip(self.weights, self._masks, strict=True):
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(~mask, 0)

    @torch.no_grad()
    def restore(self) -> None:
        """Make every connection live again, cut ones with their latent values."""
        for index, (mask, latent) in enumerate(zip(self._masks, self._latent, strict=True)):
            self.weights[index].copy_(self.full(index))
            mask.fill_(True)
            latent.zero_()
        self.cutting = False

    @torch.no_grad()
    def begin_with(self, masks: Mapping[str, Tensor], latent: Mapping[str, Tensor] | None) -> None:
        """Take masks, checked ones, and latent values where they are given, from elsewhere; cut weights become zero."""
        for index, (name, mask) in enumerate(self.masks.items()):
            mask.copy_(masks[name])
            if latent is not None:
                self._latent[index].copy_(torch.where(mask, 0, latent[name].to(self._latent[index])))
        self.cutting = not all(bool(mask.all()) for mask in self._masks)
        self.reapply()

    def state_dict(self) -> dict[str, Any]:
        """Copies of masks and latent values by layer."""
        return {
            "masks": _copies(self.masks, self._masks),
            "latent": _copies(self.masks, self._latent),
        }

    def _mask_shape(self, weight: Tensor) -> tuple[int, ...]:
        if self.kernel:
            return (*weight.shape[:2], *[1] * (weight.dim() - 2))
        return tuple(weight.shape)


def _together(parts: Iterable[Tensor]) -> Tensor:
    """Parts one after another, on the CPU; from a GPU they come in one journey."""
    first, *rest = parts
    return torch.cat([first, *(each.to(first.device) for each in rest)]).cpu()


def _copies(names: Mapping[str, object], tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in zip(names, tensors, strict=True)}
