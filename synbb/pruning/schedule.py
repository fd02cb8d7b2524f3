"""When masks change and how many connections they leave, as functions of the optimiser step."""

from __future__ import annotations

from dataclasses import dataclass

from synbb.errors import SynbbError


@dataclass(frozen=True)
class CubicSchedule:
    """Dense for ``warmup`` steps, then a cubic ramp over ``ramp`` steps, then frozen.

    The ramp is that of Zhu and Gupta (arXiv 1710.01878). Masks are chosen anew every ``refresh`` steps of the ramp
    and once more at its last step; from then on they are final.
    """

    density: float
    warmup: int
    ramp: int
    refresh: int

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise SynbbError(f"pruning density {self.density} must lie in (0, 1]; 1 means dense")
        for name in ("warmup", "ramp"):
            if getattr(self, name) < 0:
                raise SynbbError(f"pruning {name} of {getattr(self, name)} steps must not be negative")
        if self.refresh < 1:
            raise SynbbError(f"pruning refresh of {self.refresh} steps must be at least 1")

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
