"""Where a tensor's channels come from, and how calls that hold no weights pass that on.

Norms, dropout, pooling and interpolation pass origins on; a concatenation joins them; a sum unites them; a change of
layout moves them. What these rules do not know becomes :class:`Lost`: its origins are still known as a set, channel by
channel no longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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
    | {"sigmoid", "sigmoid_", "tanh", "tanh_", "softmax", "log_softmax", "logsigmoid", "hardsigmoid"}
)
RESHAPES = frozenset({"reshape", "view", "flatten", "squeeze", "unsqueeze"})

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
    owner: int  # unit group or layer, by number
    channel: int  # within the owner


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


Known = Channels | Lost
Source = tuple[Tensor, Known]


def lose(operation: str, sources: Sequence[Known]) -> Lost:
    """What is left to say after ``operation`` has mixed ``sources`` in a way no rule here knows."""
    gathered = gather(sources)
    hid = any(isinstance(each, Channels) for each in sources)  # what was lost before was lost by another one
    return Lost(gathered.origins, tuple(dict.fromkeys((*gathered.operations, *[operation] * hid))))


def gather(sources: Iterable[Known]) -> Lost:
    """The origins of all ``sources`` as one set."""
    parts = [each.everything() if isinstance(each, Channels) else each for each in sources]
    operations = dict.fromkeys(name for part in parts for name in part.operations)
    return Lost(frozenset().union(*(part.origins for part in parts)), tuple(operations))


def follow(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    sources: Sequence[Source],
    shape: torch.Size,
    output: Tensor,
) -> Known:
    """Origins of the ``output`` of a call without weights.

    Args:
        name: the torch function.
        args: its arguments.
        kwargs: its keyword arguments.
        sources: the arguments whose origins are known, at least one, in order.
        shape: of the first source before the call.
        output: what came back.
    """
    first = sources[0][1]
    found: Known | None = None
    if name in SUMS:
        found = _united(sources, output)
    elif name in PRODUCTS:
        found = _scaled(sources, output)
    elif name in JOINS:
        found = _joined(args, kwargs, sources, output)
    elif isinstance(first, Channels):
        if name in COPIES:
            found = first
        elif name in THINNING or name in CHANGING:
            fits = first.axis < output.dim() and output.shape[first.axis] == len(first.origins)
            fidelity = min(first.fidelity, THINNED) if name in THINNING else CHANGED
            found = replace(first, fidelity=fidelity) if fits else None
        else:
            found = _moved(name, args, kwargs, first, shape, output)
    return found if found is not None else lose(name, [known for _, known in sources])


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


def _scaled(sources: Sequence[Source], output: Tensor) -> Known | None:
    """Origins of a product: those of the factors that have the output's shape; gates and scales pass nothing on."""
    full = [(tensor, each) for tensor, each in sources if tensor.shape == output.shape]
    return _united(full or sources, output)


def _joined(args: tuple[Any, ...], kwargs: dict[str, Any], sources: Sequence[Source], output: Tensor) -> Known | None:
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


def _moved(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: Channels, shape: torch.Size, output: Tensor
) -> Channels | None:
    """Origins after a change of layout, a mean over positions, or a choice of positions."""
    rank = len(shape)
    if name in {"transpose", "swapaxes", "transpose_"} and len(args) == len(("self", "dim0", "dim1")):
        one, other = args[1] % rank, args[2] % rank
        return replace(source, axis={one: other, other: one}.get(source.axis, source.axis))
    if name == "permute":
        given = kwargs.get("dims", args[1] if len(args) > 1 and isinstance(args[1], tuple | list) else args[1:])
        return replace(source, axis=[d % rank for d in given].index(source.axis))
    if name in RESHAPES:
        return _reshaped(source, shape, output.shape)
    if name == "__getitem__":
        return _indexed(args[1], source, rank)
    if name in {"mean", "sum", "amax"}:
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        reduced = {d % rank for d in (dims if isinstance(dims, tuple | list) else [] if dims is None else [dims])}
        if reduced and source.axis not in reduced:
            kept = output.dim() == rank
            axis = source.axis if kept else source.axis - sum(d < source.axis for d in reduced)
            return replace(source, axis=axis, fidelity=min(source.fidelity, THINNED))
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
    """Origins after indexing by integers and slices that leave the channel axis there."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(each, bool) or not (each is Ellipsis or isinstance(each, int | slice)) for each in items):
        return None
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * (rank - len(items) + 1)
    items += [slice(None)] * (rank - len(items))
    chosen = items[source.axis]
    if not isinstance(chosen, slice):
        return None
    axis = source.axis - sum(isinstance(each, int) for each in items[: source.axis])
    return replace(source, axis=axis, origins=source.origins[chosen], fidelity=min(source.fidelity, THINNED))
