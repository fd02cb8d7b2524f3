"""What attention and its heads do to channels: they stand on two axes for a while, and positions are mixed.

``view(n, t, heads, features)`` takes a channel axis apart and ``reshape(n, t, -1)`` puts it together again, with other
axes moved in between; where q, k and v come from one layer, three axes are made of one. What becomes of each channel is
found by doing the same to a tensor that holds the channels' numbers: the values of such calls decide nothing, so what
comes out says where each channel stands (:class:`synbb.pruning.origins.Split` where they stand on several axes).

Attention adds up the positions of its *value* with weights that query and key make: the result has the value's
channels. Query and key steer and pass nothing on, as gates and scales do. A product of two matrices that were both
computed does the same with the rows of its second operand, whatever made the weights, be it softmax(q kᵀ) or another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from synbb.pruning import origins
from synbb.pruning.calls import tensors_in
from synbb.pruning.origins import (
    CHANGED,
    CHANGING,
    COPIES,
    PARTS,
    PRODUCTS,
    REPEATS,
    RESHAPES,
    SUMS,
    THINNED,
    Channels,
    Fidelity,
    Known,
    Lost,
    Origin,
    Source,
    Split,
    lose,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

DOT_PRODUCT = "scaled_dot_product_attention"
MATRIX_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "bmm"})
LAYOUTS = (
    RESHAPES
    | REPEATS
    | PARTS
    | {"transpose", "transpose_", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "T", "mT"}
    | {"unbind", "__getitem__", "narrow", "select", "flip", "roll", "repeat_interleave"}
)
"""Calls that move, repeat or pick elements, each wherever its place says, whatever their values."""

DROPOUTS = frozenset({"dropout", "dropout_", "alpha_dropout"})


def value_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The operand whose channels the result of an attention or a matrix product has; None for other calls."""
    if name == DOT_PRODUCT:
        given = args[2] if len(args) > 2 else kwargs["value"]
    elif name in MATRIX_PRODUCTS and len(args) == 2:
        given = args[0] if name == "__rmatmul__" else args[1]
    else:
        return None
    return given if isinstance(given, torch.Tensor) else None


def follow(
    func: Callable[..., Any],
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    sources: Sequence[Source],
    shape: torch.Size,
    outputs: Sequence[Tensor],
) -> list[Known]:
    """Origins of each of the ``outputs`` of a call without weights; see :func:`synbb.pruning.origins.follow`.

    Args:
        func: the torch function.
        name: its name.
        args: its arguments.
        kwargs: its keyword arguments.
        sources: the arguments whose origins are known, at least one, in order.
        shape: of the first source before the call.
        outputs: the floating tensors that came back, at least one.
    """
    value = value_of(name, args, kwargs)
    if value is not None:
        mixed = _mixed(name, kwargs, value, sources, outputs[0])
        return [mixed if mixed is not None else lose(name, [known for _, known in sources])] * len(outputs)
    split = any(isinstance(known, Split) for _, known in sources)
    if split:
        passed = _passed(name, sources, outputs)
        found = [lose(name, [known for _, known in sources]) if passed is None else passed] * len(outputs)
    else:
        found = origins.follow(name, args, kwargs, sources, shape, outputs)
    if any(isinstance(known, Lost) for known in found):
        moved = _moved(func, name, args, kwargs, sources[0], shape, outputs)
        return [known if place is None else place for known, place in zip(found, moved, strict=True)]
    return found


def _mixed(name: str, kwargs: dict[str, Any], value: Tensor, sources: Sequence[Source], output: Tensor) -> Known | None:
    """Origins of positions of ``value`` added up with weights; None where channels are, or nothing is known of it."""
    known = next((known for tensor, known in sources if tensor is value), None)
    if known is None or isinstance(known, Lost):
        return known if name == DOT_PRODUCT else None
    if name != DOT_PRODUCT and any(_keeps_units(each, tensor.dim()) for tensor, each in sources if tensor is not value):
        return None
    numbers = _numbers(known, value.dim())
    before = output.dim() - value.dim()
    if value.dim() < 2 or before < 0 or numbers.shape[-2] > 1:
        return None
    numbers = numbers.reshape(*(1,) * before, *numbers.shape)
    if kwargs.get("enable_gqa") and numbers.shape[-3] > 1:  # each head of the value serves several of the query
        numbers = numbers.repeat_interleave(output.shape[-3] // numbers.shape[-3], -3)
    if any(size not in (1, whole) for size, whole in zip(numbers.shape, output.shape, strict=True)):
        return None
    return _standing(numbers, known, CHANGED)


def _keeps_units(known: Known, rank: int) -> bool:
    """Whether a matrix product leaves units of its first operand apart, on another axis than the one it sums over."""
    if isinstance(known, Lost) or _numbers(known, rank).shape[:-1].numel() == 1:
        return False
    return any(origin.kind == "unit" for each in known.origins for origin in each)


def _passed(name: str, sources: Sequence[Source], outputs: Sequence[Tensor]) -> Known | None:
    """Origins where a call leaves each element of a split tensor in its place."""
    full = [known for tensor, known in sources if tensor.shape == outputs[0].shape]
    if not full or not isinstance(full[0], Split) or len(outputs) > 1:
        return None
    only = full[0]
    if name in COPIES:
        return only
    if name in DROPOUTS:
        return replace(only, fidelity=min(only.fidelity, THINNED))
    # A gate or a scale passes nothing on, a summand that is known would.
    alone = name in CHANGING or (name in PRODUCTS and len(full) == 1) or (name in SUMS and len(sources) == 1)
    return replace(only, fidelity=CHANGED) if alone else None


def _moved(
    func: Callable[..., Any],
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    source: Source,
    shape: torch.Size,
    outputs: Sequence[Tensor],
) -> Sequence[Known | None]:
    """Origins after a change of layout: the numbers of the channels are laid out in the same way."""
    tensor, known = source
    nothing = [None] * len(outputs)
    if name not in LAYOUTS or isinstance(known, Lost) or not args or args[0] is not tensor:
        return nothing
    if not name.endswith("_as") and len(tensors_in((args, kwargs))) > 1:  # an index: its values decide
        return nothing
    numbers = _numbers(known, len(shape)).expand(shape).contiguous()
    results = tensors_in(func(numbers, *args[1:], **kwargs))
    # A position that was dropped or repeated is not what the unit's on-rate is about.
    fidelities = [known.fidelity if each.numel() == shape.numel() else CHANGED for each in results]
    return [_standing(each, known, fidelity) for each, fidelity in zip(results, fidelities, strict=True)]


def _numbers(known: Channels | Split, rank: int) -> Tensor:
    """The number of the channel at each place of a tensor of ``rank`` axes, of size 1 along axes without channels."""
    if isinstance(known, Split):
        return known.numbers
    # Channels that are the same, as where positions were made channels, have one number, so that they part again.
    place: dict[frozenset[Origin], int] = {}
    numbers = [place.setdefault(each, number) for number, each in enumerate(known.origins)]
    told = torch.tensor(numbers if len(place) > 1 else range(len(numbers)))
    return told.reshape([-1 if axis == known.axis else 1 for axis in range(rank)])


def _standing(numbers: Tensor, known: Channels | Split, fidelity: Fidelity) -> Channels | Split | None:
    """The channels of ``known`` where their ``numbers`` are; None for a single one, which may stand on any axis."""
    for axis in range(numbers.dim() if numbers.numel() else 0):
        first = numbers.narrow(axis, 0, 1)
        numbers = first if bool((numbers == first).all()) else numbers
    axes = [axis for axis, size in enumerate(numbers.shape) if size > 1]
    if len(axes) == 1:
        found = numbers.flatten().tolist()
        once = len(set(found)) == len(found)  # where positions became channels, none of them is a unit's values
        return Channels(axes[0], tuple(known.origins[i] for i in found), fidelity if once else CHANGED, known.lost)
    if not axes or not numbers.numel():
        return None
    present, places = numbers.unique(return_inverse=True)
    return Split(places, tuple(known.origins[i] for i in present.tolist()), fidelity, known.lost)
