"""A task of a user's own: points in the plane, a small perceptron. A run on it takes a moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synbb.pruning.resampling import Resampled
from synbb.schema import Settings
from synbb.tasks.base import Batch, HeldOut, Validation

UNITS = 40


class PointData(Settings):
    noise: float = 0.3
    held_out: int = 0


def points(seed: list[int], count: int, noise: float) -> tuple[Tensor, Tensor]:
    """Points within and around a ring, and whether they are within."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2))
    inside = (x**2).sum(axis=1) < 1.4
    x = x + noise * rng.normal(size=x.shape)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(inside[:, None], dtype=torch.float32)


class Points:
    """Without ``ModelSettings``: ``model`` is any mapping."""

    DataSettings = PointData

    def __init__(self, data: PointData, model: dict[str, Any], *, seed: int, batch_size: int) -> None:
        self.data, self.width, self.seed, self.batch_size = data, int(model.get("width", 8)), seed, batch_size

    def begin_with(self, facts: dict[str, Any]) -> None:
        """Nothing."""

    def prepare(self, known: dict[str, Any] | None = None) -> list[str]:
        return ["points are at hand"]

    def build_model(self) -> nn.Module:
        n = self.width
        return nn.Sequential(
            nn.Linear(2, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 1)
        )

    def example_inputs(self) -> Tensor:
        return torch.zeros(1, 2)

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        return Batch(*points([self.seed, step, rank], self.batch_size, self.data.noise))

    def upcoming(self, steps: range, rank: int, world_size: int) -> None:
        pass

    def calibration_batches(self, count: int) -> Iterator[Tensor]:
        yield points([self.seed, 10**6], count, self.data.noise)[0]

    def held_out_batches(self, count: int) -> Iterator[Tensor]:
        yield points([self.seed, 10**7], count, self.data.noise)[0]

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs, batch.targets)

    def validate(self, model: nn.Module, device: Any) -> Validation | None:
        right = self._right(model, 1)
        return Validation({"accuracy": float(right.mean())}, "accuracy", {"threshold": 0.5})

    def score(self, model: nn.Module, device: Any, decision: dict[str, Any]) -> HeldOut | None:
        right = self._right(model, 2).reshape(UNITS, -1)
        counts = np.stack([right.sum(axis=1), np.full(UNITS, right.shape[1])], axis=1)
        accuracy = Resampled("ratio", {"groups": counts})
        return HeldOut({"accuracy": accuracy.score()}, "accuracy", {"accuracy": accuracy})

    @torch.no_grad()
    def _right(self, model: nn.Module, part: int) -> np.ndarray:
        x, y = points([17, part, self.data.held_out], 20 * UNITS, self.data.noise)
        return ((model(x) > 0).float() == y).numpy()[:, 0]

    def facts(self) -> dict[str, Any]:
        return {"noise": self.data.noise}

    def close(self) -> None:
        pass


class Broken(Points):
    """Its data cannot be opened with the seed 1."""

    def begin_with(self, facts: dict[str, Any]) -> None:
        """Nothing."""

    def prepare(self, known: dict[str, Any] | None = None) -> list[str]:
        if self.seed == 1:
            raise ValueError("the points of seed 1 are lost")
        return []
