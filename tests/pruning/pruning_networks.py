"""Small networks that the pruning tests share, one for each way in which a unit can reach its consumers."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from synbb.pruning import Pruner


class Chain(nn.Module):
    """input → first → units → second → units → third → units → head, with separate activation modules."""

    def __init__(self, width: int = 8, norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.third = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 1, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(3))
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm, act in zip((self.first, self.second, self.third), self.norms, self.acts, strict=True):
            x = act(norm(layer(x)))
        return self.head(x)


class Skip(nn.Module):
    """A U of one step: the units of ``down`` reach ``up`` by concatenation, behind the transposed layer's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.back = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.up = nn.Conv2d(9, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        here = F.relu(self.down(F.relu(self.first(x))))
        below = F.relu(self.deep(here))
        return self.head(F.relu(self.up(torch.cat([self.back(below), here], dim=1))))


class Residual(nn.Module):
    """One activation module reused everywhere, as in torchvision's blocks; sums of units, and of a layer and units."""

    def __init__(self, act: nn.Module | None = None, width: int = 4) -> None:
        super().__init__()
        self.act = act if act is not None else nn.ReLU()
        self.first = nn.Conv2d(1, width, 1)
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.three = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.first(x))
        b = self.act(self.two(self.act(self.one(a))) + a)
        c = self.act(self.three(b)) + b  # a sum of units: its readers see two at each channel
        return self.head(c)


class SumOfUnits(nn.Module):
    """``reader`` reads channels that each sum a unit of ``left`` and one of ``right``."""

    def __init__(self, width: int = 4, out: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 1)
        self.left = nn.Conv1d(width, width, 1)
        self.right = nn.Conv1d(width, width, 1)
        self.reader = nn.Conv1d(width, out, 1)
        self.head = nn.Conv1d(out, 1, 1)
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.acts[0](self.first(x))
        x = self.acts[1](self.left(x)) + self.acts[2](self.right(x))
        return self.head(self.acts[3](self.reader(x)))


class Between(nn.Module):
    """input → first → ReLU → ``layer`` → ReLU → head: one layer under test between two sets of units."""

    def __init__(self, layer: nn.Module, before: int, after: int) -> None:
        super().__init__()
        kind = nn.Conv2d if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else nn.Conv1d
        self.first = kind(1, before, 1)
        self.layer = layer
        self.head = kind(after, 1, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.layer(F.relu(self.first(x)))))


class Tokens(nn.Module):
    """Embedding, stock transformer encoder, head; tokens are (batch, time, features)."""

    def __init__(self, layers: int = 1, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)))


class FramesAndTokens(nn.Module):
    """An encoder of frames (batch, frames, 3) and a decoder of tokens (batch, tokens, 3) that hears their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, frames: Tensor, tokens: Tensor) -> Tensor:
        return self.head(self.decoder(tokens + self.encoder(frames).mean(1, keepdim=True)))


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(
    net: nn.Module,
    pruner: Pruner | None,
    optimizer: torch.optim.Optimizer,
    steps: range,
    shape: tuple[int, ...] = (2, 1, 8, 8),
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> None:
    """Train on noise that is a function of the step alone."""
    net.train()
    for step in steps:
        given = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(given).sub(given.mean() + 1).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if pruner is not None:
            pruner.step()
