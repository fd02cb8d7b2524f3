"""When masks change and how much they leave, as functions of the optimiser step.

A schedule gives the share of the budget (of connections, traffic or multiply-accumulates) that is left after each
step, and says at which steps masks are chosen anew.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Schedule(ABC):
    """The budget over a training run.

    Attributes:
        density: share of the budget at the end, in (0, 1].
    """

    density: float

    @property
    def least(self) -> float:
        """Smallest share of the budget at any choice of masks: ``density``, unless it rises again."""
        return self.density

    @property
    @abstractmethod
    def end(self) -> int:
        """The optimiser step at which the masks become final."""

    @abstractmethod
    def target(self, step: int) -> float:
        """Share of the budget after ``step`` optimiser steps."""

    @abstractmethod
    def refreshes(self, step: int) -> bool:
        """Whether masks are chosen anew after optimiser step ``step`` (counted from 1; 0 is before the first)."""

    def is_final(self, step: int) -> bool:
        """Whether no later step changes a mask."""
        return step >= self.end

    @property
    def falls(self) -> int:
        """How many choices of masks bring the share of a network down; 0 where it is low from the first step on."""
        if self.target(1) <= self.density:
            return 0
        shares = [1.0, *(self.target(step) for step in range(1, self.end + 1) if self.refreshes(step))]
        return sum(after < before for before, after in pairwise(shares))


@dataclass(frozen=True)
class CubicSchedule(Schedule):
    """Dense for ``warmup`` steps, then a cubic ramp over ``ramp`` steps, then frozen.

    The ramp is that of Zhu and Gupta (arXiv 1710.01878). Masks are chosen anew every ``refresh`` steps of the ramp
    and once more at its last step; from then on they are final.
    """

    density: float
    warmup: int
    ramp: int
    refresh: int

    def __post_init__(self) -> None:
        _check(self.density, self.refresh)
        for name in ("warmup", "ramp"):
            _whole(name, getattr(self, name))
            if getattr(self, name) < 0:
                raise SynbbError(f"pruning {name} of {getattr(self, name)} steps must not be negative")

    @property
    def end(self) -> int:
        """The optimiser step at which the masks become final, the first one at the earliest."""
        return max(self.warmup + self.ramp, 1)

    def target(self, step: int) -> float:
        """Density after ``step`` optimiser steps."""
        if step >= self.end:
            return self.density
        if step <= self.warmup:
            return 1.0
        left = 1.0 - (step - self.warmup) / self.ramp
        return self.density + (1.0 - self.density) * left**3

    def refreshes(self, step: int) -> bool:
        """Whether masks are chosen anew after optimiser step number ``step`` (counted from 1)."""
        if self.density == 1 or step > self.end:
            return False
        if step == self.end:
            return True
        return step > self.warmup and (step - self.warmup) % self.refresh == 0

    def is_final(self, step: int) -> bool:
        """Whether no later step changes a mask."""
        return self.density == 1 or step >= self.end


@dataclass(frozen=True)
class Waypoints(Schedule):
    """A budget of one's own over steps: straight lines between (step, share) points, constant outside them.

    It may rise again. Masks are chosen every ``refresh`` steps from the first point on, not before the first step,
    and last at the last point.
    """

    points: tuple[tuple[int, float], ...]
    refresh: int

    def __post_init__(self) -> None:
        if not all(isinstance(point, Sequence) and len(point) == 2 for point in self.points):
            raise SynbbError(f"pruning schedule {self.points!r} must hold (step, density) points")
        steps = [step for step, _ in self.points]
        for step in steps:
            _whole("schedule", step)
        if not steps or steps != sorted(set(steps)) or steps[0] < 0:
            raise SynbbError(f"pruning schedule {list(self.points)} must hold (step, density) points in rising steps")
        for _, share in self.points:
            _check(share, self.refresh)

    @property
    def density(self) -> float:  # type: ignore[override]
        """That of the last point."""
        return self.points[-1][1]

    @property
    def least(self) -> float:
        """The smallest at which masks are chosen; points between two choices do not count."""
        between = range(self.points[0][0], self.end, self.refresh)
        return min(self.target(step) for step in (*between, self.end) if self.refreshes(step))

    @property
    def end(self) -> int:
        """The step of the last point."""
        return max(self.points[-1][0], 1)

    def target(self, step: int) -> float:
        """Between two points, on the line that joins them."""
        steps, shares = zip(*self.points, strict=True)
        return float(np.interp(step, steps, shares))

    def refreshes(self, step: int) -> bool:
        """From the first point to the last."""
        first = self.points[0][0]
        return step == self.end or (first <= step < self.end and step > 0 and (step - first) % self.refresh == 0)


@dataclass(frozen=True)
class FromStart(Schedule):
    """One budget from the first step on.

    Masks are made before the first step or, where the method looks at gradients, after the first; they are chosen
    anew every ``refresh`` steps and at ``end``.

    Attributes:
        first: the step after which masks are first made.
        last: the step from which on they are final.
    """

    density: float
    last: int
    refresh: int
    first: int = 0

    def __post_init__(self) -> None:
        _check(self.density, self.refresh)
        _whole("warmup + ramp", self.last)

    @property
    def end(self) -> int:
        """The step from which on masks are final."""
        return max(self.last, self.first)

    def target(self, step: int) -> float:
        """The same share at all times."""
        return self.density if step >= self.first else 1.0

    def refreshes(self, step: int) -> bool:
        """At the first step, every ``refresh`` steps, and at the end."""
        if self.density == 1 or step < self.first or step > self.end:
            return False
        return step in (self.first, self.end) or step % self.refresh == 0


def exchanged(drop: float, step: int, end: int) -> float:
    """Share of live connections exchanged after ``step``: ``drop`` to 0 at ``end`` by a cosine (Evci et al. 2020)."""
    return drop / 2 * (1 + math.cos(math.pi * min(step / max(end, 1), 1.0)))


def waypoints(points: Sequence[Sequence[float]], steps: int, refresh: int) -> Waypoints:
    """Waypoints given as (share of all ``steps``, density)."""
    return Waypoints(tuple((round(at * steps), density) for at, density in points), refresh)


def _whole(name: str, steps: object) -> None:
    """Refuse a number of steps that no step would ever equal."""
    if not isinstance(steps, Integral):
        raise SynbbError(f"pruning {name} of {steps!r} steps must be a whole number; round it")


def _check(density: object, refresh: object) -> None:
    if not isinstance(density, (int, float, np.number)) or not 0 < density <= 1:
        raise SynbbError(f"pruning density {density!r} must be a number in (0, 1]; 1 means dense")
    if not isinstance(refresh, Integral) or refresh < 1:
        raise SynbbError(f"pruning refresh of {refresh} steps must be a whole number of at least 1")
