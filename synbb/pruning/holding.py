"""Who holds the weights of a model: one pruner at a time, and the optimiser that trains them."""

from __future__ import annotations

import warnings
import weakref
from typing import TYPE_CHECKING

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch
    from torch import nn

HOLDER = "_synbb_pruner"
"""Attribute of a masked parameter: a weak reference to the pruner that holds it. Copies of the model do not have it."""


def hold(weights: Iterable[nn.Parameter], pruner: object) -> None:
    """Note that ``pruner`` masks ``weights``."""
    for weight in weights:
        setattr(weight, HOLDER, weakref.ref(pruner))


def release(weights: Iterable[nn.Parameter], pruner: object) -> None:
    """Note that ``pruner`` does not mask ``weights`` any more; what another one has taken since is its."""
    for weight in weights:
        holder = getattr(weight, HOLDER, None)
        if holder is not None and holder() is pruner:
            delattr(weight, HOLDER)


def check_weights(weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer | None) -> None:
    """Look at weights that are to be masked, by layer; of those that do not train a warning tells.

    Raises:
        SynbbError: another pruner masks one, or the optimiser trains none of them.
    """
    for name, weight in weights.items():
        holder = getattr(weight, HOLDER, None)
        if holder is not None and holder() is not None:
            raise SynbbError(f"layer {name!r} is masked by another pruner; detach() that one first")
    first = next(iter(weights))
    if optimizer is not None:
        trained = {id(each) for group in optimizer.param_groups for each in group["params"]}
        if not any(id(weight) in trained for weight in weights.values()):
            raise SynbbError(
                f"the optimizer given to attach() holds none of the {len(weights)} masked weights ({first} ...): give "
                "the one that trains this model"
            )
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    if frozen:
        warnings.warn(
            f"synbb: {len(frozen)} of {len(weights)} masked layers do not train ({frozen[0]} ...): they are cut and "
            "cannot adapt; exclude them, or attach when they train",
            stacklevel=4,
        )
