"""Attention as four linear layers, so that each can be pruned: ``nn.MultiheadAttention`` hides its weights in one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2).

    Args:
        width: features of what is read and returned.
        heads: that ``width`` is divided between.
        dropout: of attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, inputs: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each position of ``inputs`` gathers from ``memory``.

        Args:
            inputs: (N, U, width).
            memory: (N, S, width); ``inputs`` themselves for self-attention.
            mask: broadcastable to (N, heads, U, S); bool, what may be looked at, or float, added to the scores.

        Returns:
            (N, U, width).
        """
        query, key, value = (
            self._split(self.query(inputs)),
            self._split(self.key(memory)),
            self._split(self.value(memory)),
        )
        dropout = self.dropout if self.training else 0.0
        if mask is not None and mask.is_floating_point():
            mask = mask.to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        gathered: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return gathered

    def _split(self, features: Tensor) -> Tensor:
        """(N, S, width) to (N, heads, S, width / heads)."""
        divided: Tensor = features.unflatten(2, (self.heads, -1))
        return divided.transpose(1, 2)


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Positions (length, width) as sines and cosines of wavelengths from 2 pi to 10,000 x 2 pi (ibid., section 3.5)."""
    position = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(
        torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-torch.log(torch.tensor(1e4)) / width)
    )
    angles = position * rate
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


def distance_bias(length: int, heads: int, device: torch.device) -> Tensor:
    """What attention's scores lose with distance, (1, heads, length, length), for each head at a slope of its own.

    Attention with linear biases (Press et al. 2022), here in both directions: slopes fall from 2^(-8 / heads) to 2^-8.
    """
    slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1, device=device, dtype=torch.float32))
    place = torch.arange(length, device=device, dtype=torch.float32)
    bias: Tensor = -slopes[:, None, None] * (place[:, None] - place).abs()
    return bias[None]
