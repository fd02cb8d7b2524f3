"""Masks as files, and on copies of a model: safetensors, one boolean tensor a masked layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def save_masks(masks: Mapping[str, Tensor], path: str | Path) -> None:
    """Write masks (layer name to bool tensor) as safetensors."""
    Path(path).write_bytes(masks_as_bytes(masks))


def masks_as_bytes(masks: Mapping[str, Tensor]) -> bytes:
    """The content of a file of masks."""
    content: bytes = save({name: mask.to(torch.uint8).contiguous().cpu() for name, mask in masks.items()})
    return content


def load_masks(path: str | Path) -> dict[str, Tensor]:
    """Masks that :func:`save_masks` wrote.

    Raises:
        SynbbError: no such file, or it is none of masks.
    """
    try:
        found = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise SynbbError(f"masks {path} cannot be read: {error}") from None
    if any(mask.dtype != torch.uint8 for mask in found.values()):
        raise SynbbError(f"masks {path} hold something else than masks: give the masks.safetensors of a run")
    return {name: mask.bool() for name, mask in found.items()}


def check_masks(masks: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuse masks of another architecture.

    Args:
        masks: what is given.
        shapes: mask shape of each masked layer of this network.
        where: how the error calls the masks.

    Raises:
        SynbbError: a layer is missing, or has a mask of another shape; it is named.
    """
    for name in sorted(masks.keys() | shapes.keys()):
        if name not in shapes:
            raise SynbbError(f"{where} of another network: this one masks no layer {name!r}")
        if name not in masks:
            raise SynbbError(f"{where} of another network: they hold none for layer {name!r}")
        if tuple(masks[name].shape) != tuple(shapes[name]):
            raise SynbbError(
                f"{where} of another network: {name} has {tuple(masks[name].shape)} where this one has "
                f"{tuple(shapes[name])} (out, in, ...); kernel and weight connections differ too"
            )


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the cut weights of a model, or of an averaged copy of it, to zero.

    Args:
        model: holds the layers under their names, or under ``module.`` as ``AveragedModel`` and data-parallel
            wrappers do.
        masks: as :attr:`synbb.pruning.Pruner.masks`.

    Raises:
        SynbbError: the model has no such layer, or one of another shape.
    """
    weights = weights_of(model, masks)
    for name, mask in masks.items():
        weight = weights[name]
        try:
            cut = ~mask.expand_as(weight)
        except RuntimeError:
            raise SynbbError(
                f"masks: that of {name!r} has shape {tuple(mask.shape)}, and the weight {tuple(weight.shape)}: "
                "they are of another architecture"
            ) from None
        weight.masked_fill_(cut.to(weight.device), 0)


def weights_of(model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
    """Weights of layers of a model, or of the model in a wrapper that holds it as ``module``, by their names.

    Raises:
        SynbbError: there is no such layer.
    """
    modules = dict(model.named_modules())
    found = {}
    for layer in layers:
        weight = getattr(modules.get(layer, modules.get(f"module.{layer}")), "weight", None)
        if not isinstance(weight, Tensor):
            raise SynbbError(
                f"the model has no weight layer {layer!r}; give the model that was pruned, or a copy of it"
            )
        found[layer] = weight
    return found


def shuffled(masks: Iterable[Tensor], seed: int) -> list[Tensor]:
    """Each mask with its live connections moved to random places: the layer's density stays, what it says goes."""
    generator = torch.Generator().manual_seed(seed)
    return [mask.flatten()[torch.randperm(mask.numel(), generator=generator)].reshape(mask.shape) for mask in masks]
