"""Which calls of a pruner's ``step()`` follow an optimiser step that took place."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

IDLE = 20
"""Calls in a row without an optimiser step that are told of: gradient scaling skips fewer."""


class OptimizerSteps:
    """Watches an optimiser, where one is given; without one, every call is taken to follow a step."""

    def __init__(self, optimizer: torch.optim.Optimizer | None) -> None:
        self._taken, self._counted, self._idle = 0, 0, 0
        self._hook = None if optimizer is None else optimizer.register_step_post_hook(self._note)

    def took_place(self) -> bool:
        """Whether the optimiser made a step since the last call; a warning once where it never does."""
        if self._hook is None:
            return True
        if self._taken > self._counted:
            self._counted, self._idle = self._taken, 0
            return True
        self._idle += 1
        if self._idle == IDLE:
            warnings.warn(
                f"synbb: step() was called {IDLE} times and the optimizer given to attach() took no step: nothing "
                "is pruned; does another optimizer train the model?",
                stacklevel=3,
            )
        return False

    def close(self) -> None:
        """Stop watching."""
        if self._hook is not None:
            self._hook.remove()

    def _note(self, optimizer: torch.optim.Optimizer, _: Any, __: Any) -> None:
        # Fused optimisers are called by a gradient scaler even where they then skip the step.
        skipped = getattr(optimizer, "found_inf", None)
        if skipped is None or not bool(skipped):
            self._taken += 1
