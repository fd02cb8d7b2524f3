"""Where a tensor's channels come from, and how calls that hold no weights pass that on.

Norms, dropout, pooling and interpolation pass origins on; a concatenation joins them; a sum unites them; a change of
layout moves them. What these rules do not know becomes :class:`Lost`: its origins are still known as a set, channel by
channel no longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUMS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__", "sub", "sub_", "__sub__", "__isub__", "__rsub__"})
JOINS = frozenset({"cat", "concat", "concatenate"})
PRODUCTS = frozenset({"mul", "mul_", "__mul__", "__imul__", "__rmul__", "multiply"}) | frozenset(
    {"div", "div_", "__truediv__", "__itruediv__", "divide"}
)
COPIES = frozenset(
    {"contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "data", "cpu", "cuda"}
    | {"type", "type_as", "requires_grad_", "as_tensor"}
)
THINNING = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "dropout_", "alpha_dropout", "feature_alpha_dropout"}
    | {"feature_dropout", "interpolate", "upsample", "pad", "max_pool1d", "max_pool2d", "max_pool3d"}
    | {"max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"}
    | {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
    | {"adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"}
)
CHANGING = frozenset(
    {"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "local_response_norm", "neg", "__neg__"}
    | {"sigmoid", "sigmoid_", "tanh", "tanh_", "softmax", "log_softmax", "logsigmoid", "hardsigmoid", "hardtanh"}
    | {"softsign", "tanhshrink", "softshrink", "hardshrink", "normalize", "masked_fill", "masked_fill_", "nan_to_num"}
    | {
        "abs",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "square",
        "pow",
        "__pow__",
        "clamp",
        "clamp_",
        "clip",
        "clip_",
        "clamp_min",
        "clamp_min_",
    }
)
RESHAPES = frozenset({"reshape", "view", "flatten", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as"})
PARTS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"})
REPEATS = frozenset({"expand", "expand_as", "broadcast_to", "repeat", "tile"})
REDUCTIONS = frozenset({"mean", "sum", "amax"})

Fidelity = Literal[0, 1, 2]
VALUES: Fidelity = 2
"""The very values of an activation's output: their signs are its on-rates."""
THINNED: Fidelity = 1
"""Values after dropout, pooling or interpolation: the share above zero is near the on-rate."""
CHANGED: Fidelity = 0
"""Anything else, as after a norm or a sum: the share above zero says nothing about the unit."""


class Origin(NamedTuple):
    """Where one channel's value comes from.

    ``weights`` stands for weights that the tracer cannot mask (attention's own, parametrised ones).
    """

    kind: Literal["input", "unit", "layer", "weights"]
    owner: int  # input, unit group, layer or call with weights of its own, by number
    channel: int  # within the owner


HIDDEN_UNIT = Origin("unit", -1, 0)
"""A unit behind something that could not be followed: that it is there is known, but not its group or channel."""


@dataclass(frozen=True)
class Lost:
    """A value that depends on ``origins``, nobody knows in which channels, since ``operations`` were called."""

    origins: frozenset[Origin]
    operations: tuple[str, ...]


NOTHING_LOST = Lost(frozenset(), ())


@dataclass(frozen=True)
class Channels:
    """Origins of a tensor's channels.

    Attributes:
        axis: the channel axis.
        origins: of each channel.
        fidelity: how close the values are to those of the units among the origins.
        lost: what else has been added in through calls that could not be followed.
    """

    axis: int
    origins: tuple[frozenset[Origin], ...]
    fidelity: Fidelity = CHANGED
    lost: Lost = NOTHING_LOST

    def everything(self) -> Lost:
        """All origins as one set."""
        return Lost(frozenset().union(*self.origins) | self.lost.origins, self.lost.operations)


@dataclass(frozen=True)
class Split:
    """Origins of channels that stand on several axes, as those of attention's heads do.

    Attributes:
        numbers: int64, number of the channel at each place: of the tensor's rank, with size 1 along axes that hold no
            channels.
        origins: of each channel, by number.
        fidelity: as :class:`Channels` has it.
        lost: likewise.
    """

    numbers: Tensor
    origins: tuple[frozenset[Origin], ...]
    fidelity: Fidelity = CHANGED
    lost: Lost = NOTHING_LOST

    def everything(self) -> Lost:
        """All origins as one set."""
        return Lost(frozenset().union(*self.origins) | self.lost.origins, self.lost.operations)


Known = Channels | Split | Lost
Source = tuple[Tensor, Known]


def lose(operation: str, sources: Sequence[Known]) -> Lost:
    """What is left to say after ``operation`` has mixed ``sources`` in a way no rule here knows."""
    gathered = gather(sources)
    hid = any(not isinstance(each, Lost) for each in sources)  # what was lost before was lost by another one
    return Lost(gathered.origins, tuple(dict.fromkeys((*gathered.operations, *[operation] * hid))))


def gather(sources: Iterable[Known]) -> Lost:
    """The origins of all ``sources`` as one set."""
    parts = [each if isinstance(each, Lost) else each.everything() for each in sources]
    operations = dict.fromkeys(name for part in parts for name in part.operations)
    return Lost(frozenset().union(*(part.origins for part in parts)), tuple(operations))


def follow(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    sources: Sequence[Source],
    shape: torch.Size,
    outputs: Sequence[Tensor],
) -> list[Known]:
    """Origins of each of the ``outputs`` of a call without weights.

    Args:
        name: the torch function.
        args: its arguments.
        kwargs: its keyword arguments.
        sources: the arguments whose origins are known, at least one, in order.
        shape: of the first source before the call.
        outputs: the floating tensors that came back, at least one.
    """
    first = sources[0][1]
    found: list[Channels | None] | None = None
    if isinstance(first, Channels) and name in PARTS:
        found = _parted(first, shape, outputs)
    elif isinstance(first, Channels) and name == "unbind":
        axis = _given(args, kwargs, 1, "dim", 0) % len(shape)
        found = None if axis == first.axis else [_dropped(first, axis)] * len(outputs)
    if found is None:
        found = [_followed(name, args, kwargs, sources, shape, output) for output in outputs]
    return [each if each is not None else lose(name, [known for _, known in sources]) for each in found]


def _followed(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    sources: Sequence[Source],
    shape: torch.Size,
    output: Tensor,
) -> Channels | None:
    first = sources[0][1]
    if name in SUMS:
        return _united(sources, output)
    if name in PRODUCTS:
        return _scaled(sources, output)
    if name in JOINS:
        return _joined(args, kwargs, sources, output)
    if name == "stack":
        return _stacked(args, kwargs, sources, output)
    if not isinstance(first, Channels):
        return None
    if name in COPIES:
        return first
    if name in THINNING or name in CHANGING:
        if name == "pad":
            first = _padded(first, _given(args, kwargs, 1, "pad", ()), len(shape))
        fits = first.axis < output.dim() and output.shape[first.axis] == len(first.origins)
        fidelity = min(first.fidelity, THINNED) if name in THINNING else CHANGED
        return replace(first, fidelity=fidelity) if fits else None
    return _moved(name, args, kwargs, first, shape, output)


def _united(sources: Sequence[Source], output: Tensor) -> Channels | None:
    """Origins of a sum: the union, channel by channel; a source with one channel is broadcast."""
    aligned = [
        (each.axis + output.dim() - tensor.dim(), each) for tensor, each in sources if isinstance(each, Channels)
    ]
    if not aligned or len({axis for axis, _ in aligned}) > 1:
        return None
    axis = aligned[0][0]
    count = output.shape[axis]
    parts = [each.origins * count if len(each.origins) == 1 else each.origins for _, each in aligned]
    if any(len(part) != count for part in parts):
        return None
    lost = gather([each.lost for _, each in aligned] + [each for _, each in sources if isinstance(each, Lost)])
    return Channels(axis, tuple(frozenset().union(*each) for each in zip(*parts, strict=True)), CHANGED, lost)


def _scaled(sources: Sequence[Source], output: Tensor) -> Channels | None:
    """Origins of a product: those of the factors that have the output's shape; gates and scales pass nothing on."""
    full = [(tensor, each) for tensor, each in sources if tensor.shape == output.shape]
    return _united(full or sources, output)


def _joined(
    args: tuple[Any, ...], kwargs: dict[str, Any], sources: Sequence[Source], output: Tensor
) -> Channels | None:
    """Origins of a concatenation: one after the other along the channel axis, united along any other."""
    known = {id(tensor): each for tensor, each in sources}
    followed = [each for _, each in sources if isinstance(each, Channels)]
    if not followed or len({each.axis for each in followed}) > 1:
        return None
    tensors = args[0] if args else kwargs["tensors"]
    axis = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) % output.dim()
    if axis != followed[0].axis:
        return _united(sources, output)
    origins: list[frozenset[Origin]] = []
    for tensor in tensors:
        each = known.get(id(tensor))
        origins += each.origins if isinstance(each, Channels) else [frozenset()] * tensor.shape[axis]
    lost = gather([each.lost for each in followed] + [each for _, each in sources if isinstance(each, Lost)])
    return Channels(axis, tuple(origins), min(each.fidelity for each in followed), lost)


def _stacked(
    args: tuple[Any, ...], kwargs: dict[str, Any], sources: Sequence[Source], output: Tensor
) -> Channels | None:
    """Origins of a stack along a new axis: united, channel by channel."""
    axis = _given(args, kwargs, 1, "dim", 0) % output.dim()
    layered: list[Source] = [
        (tensor.unsqueeze(axis), replace(each, axis=each.axis + (axis <= each.axis)) if _is(each) else each)
        for tensor, each in sources
    ]
    return _united(layered, output)


def _parted(source: Channels, shape: torch.Size, outputs: Sequence[Tensor]) -> list[Channels | None] | None:
    """Origins of the parts that a tensor of ``shape`` is cut into along any axis."""
    fidelity = min(source.fidelity, THINNED)
    if all(part.shape[source.axis] == shape[source.axis] for part in outputs):
        return [replace(source, fidelity=fidelity if len(outputs) > 1 else source.fidelity)] * len(outputs)
    found: list[Channels | None] = []
    start = 0
    for part in outputs:
        end = start + part.shape[source.axis]
        found.append(replace(source, origins=source.origins[start:end], fidelity=fidelity))
        start = end
    return found if start == len(source.origins) else None


def _padded(source: Channels, pad: Sequence[int], rank: int) -> Channels:
    """Origins with channels that come from nowhere before and after; ``pad`` counts axes from the last one."""
    at = 2 * (rank - 1 - source.axis)
    before, after = pad[at : at + 2] if at < len(pad) else (0, 0)
    if before < 0 or after < 0:
        return source
    nothing: tuple[frozenset[Origin], ...] = (frozenset(),)
    return replace(source, origins=nothing * before + source.origins + nothing * after)


def _dropped(source: Channels, axis: int) -> Channels:
    """Origins at one index of another axis, which is gone."""
    return replace(source, axis=source.axis - (axis < source.axis), fidelity=min(source.fidelity, THINNED))


def _is(known: Known) -> TypeGuard[Channels]:
    return isinstance(known, Channels)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], at: int, name: str, otherwise: Any) -> Any:
    """An argument of a call by place or by name."""
    return args[at] if len(args) > at else kwargs.get(name, otherwise)


def _dims(given: Any, rank: int) -> list[int]:
    """Axes counted from the front."""
    return [d % rank for d in (given if isinstance(given, tuple | list) else [] if given is None else [given])]


def _moved(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: Channels, shape: torch.Size, output: Tensor
) -> Channels | None:
    """Origins after a change of layout, a mean over positions, or a choice or repetition of positions."""
    rank = len(shape)
    if name in RESHAPES:
        return _reshaped(source, shape, output.shape)
    if name in REPEATS:
        axis = source.axis + output.dim() - rank
        return replace(source, axis=axis) if output.shape[axis] == len(source.origins) else None
    if name == "__getitem__":
        return _indexed(args[1], source, rank)
    if name in {"narrow", "select", "index_select", "roll", "flip"}:
        return _chosen(name, args, kwargs, source, rank)
    if name in REDUCTIONS:
        reduced = _dims(_given(args, kwargs, 1, "dim", None), rank)
        if not reduced or source.axis in reduced:
            return None
        axis = source.axis if output.dim() == rank else source.axis - sum(d < source.axis for d in reduced)
        return replace(source, axis=axis, fidelity=min(source.fidelity, THINNED))
    return _permuted(name, args, kwargs, source, rank)


def _permuted(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: Channels, rank: int) -> Channels | None:
    """Origins after another order of the axes."""
    if name in {"transpose", "swapaxes", "transpose_"} and len(args) == len(("self", "dim0", "dim1")):
        one, other = args[1] % rank, args[2] % rank
        return replace(source, axis={one: other, other: one}.get(source.axis, source.axis))
    if name == "permute":
        given = kwargs.get("dims", args[1] if len(args) > 1 and isinstance(args[1], tuple | list) else args[1:])
        return replace(source, axis=_dims(given, rank).index(source.axis))
    if name in {"movedim", "moveaxis"} and len(args) == len(("self", "source", "destination")):
        before, after = _dims(args[1], rank), _dims(args[2], rank)
        order = [d for d in range(rank) if d not in before]
        for to, d in sorted(zip(after, before, strict=True)):
            order.insert(to, d)
        return replace(source, axis=order.index(source.axis))
    return None


def _chosen(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: Channels, rank: int) -> Channels | None:
    """Origins after other positions were chosen or put in another order; channels may only be narrowed."""
    if name in {"roll", "flip"}:
        dims = kwargs.get("dims", args[2] if name == "roll" and len(args) > 2 else None)
        if name == "flip" and len(args) > 1:
            dims = args[1] if isinstance(args[1], tuple | list) else args[1:]
        stays = dims is not None and source.axis not in _dims(dims, rank)
        return source if stays else None
    axis = _given(args, kwargs, 1, "dim", 0) % rank
    if axis != source.axis:
        fidelity = min(source.fidelity, THINNED)
        return _dropped(source, axis) if name == "select" else replace(source, fidelity=fidelity)
    if name == "narrow":
        start, length = _given(args, kwargs, 2, "start", 0), _given(args, kwargs, 3, "length", 0)
        return _indexed((slice(None),) * axis + (slice(start, start + length),), source, rank)
    return None


def _reshaped(source: Channels, before: torch.Size, after: torch.Size) -> Channels | None:
    """Origins when ``before`` is laid out anew, row by row, as ``after``: the axis stays or takes later ones in."""
    lead, count = math.prod(before[: source.axis]), len(source.origins)
    for axis, size in enumerate(after):
        if math.prod(after[:axis]) != lead or size < count:
            continue
        for end in range(source.axis + 1, len(before) + 1):
            times = math.prod(before[source.axis + 1 : end])
            if size == count * times:
                origins = tuple(each for each in source.origins for _ in range(times))
                return replace(source, axis=axis, origins=origins)
    return None


def _indexed(index: object, source: Channels, rank: int) -> Channels | None:
    """Origins after indexing by integers, slices and new axes that leave the channel axis there."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(i, bool) or not (i is Ellipsis or i is None or isinstance(i, int | slice)) for i in items):
        return None
    taken = sum(i is not None and i is not Ellipsis for i in items)
    at = items.index(Ellipsis) if Ellipsis in items else len(items)
    items[at : at + 1] = [slice(None)] * (rank - taken)
    here, axis = 0, 0  # axis of the source that the next item indexes, and of the result that comes next
    for item in items:
        if item is not None and here == source.axis:
            if not isinstance(item, slice):
                return None
            return replace(source, axis=axis, origins=source.origins[item], fidelity=min(source.fidelity, THINNED))
        here += item is not None
        axis += not isinstance(item, int)
    return None
