"""Which unit feeds which layer: found by following one forward pass of the real network.

Every tensor of the pass is annotated with the origin of each of its channels. An origin is the network's input, a
*unit* (one channel of an activation's output, METHOD §1) or a *layer output* that no activation has followed yet.
Norms, dropout, pooling and interpolation pass origins on; a concatenation joins them; a sum unites them. A weight
layer reads units (they gain fan-out) and starts layer outputs; an activation turns what reaches it into new units,
and the layer outputs among it are those units' fan-in. Identity paths thus add no connection.

Module graphs are not enough for this: networks inline activations, reuse one activation module in several places and
concatenate in plain Python. Watching function calls (``TorchFunctionMode``) sees them all, shared modules included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from synbb.errors import SynbbError

ACTIVATIONS = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "elu", "elu_", "celu", "selu", "gelu"}
    | {"silu", "silu_", "mish", "hardswish", "softplus", "threshold", "threshold_"}
)
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
SUMS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__", "sub", "sub_", "__sub__", "__isub__", "__rsub__"})
JOINS = frozenset({"cat", "concat", "concatenate"})
SAME_CHANNELS = frozenset(
    {"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "local_response_norm"}
    | {"dropout", "dropout1d", "dropout2d", "dropout3d", "dropout_", "alpha_dropout", "feature_alpha_dropout"}
    | {"interpolate", "upsample", "pad", "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16"}
    | {"max_pool1d", "max_pool2d", "max_pool3d", "_max_pool1d", "_max_pool2d", "_max_pool3d"}
    | {"max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"}
    | {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
    | {"adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "mul", "mul_", "__mul__", "__imul__"}
    | {"__rmul__", "div", "div_", "__truediv__", "neg", "__neg__"}
)

LayerKind = Literal["linear", "conv", "conv_transpose"]


class Origin(NamedTuple):
    """Where one channel's value comes from."""

    kind: Literal["input", "unit", "layer"]
    owner: int  # unit group or layer, by number
    index: int  # channel within the owner


@dataclass(frozen=True)
class Channels:
    """Origins of a tensor's channels; ``axis`` is the channel axis."""

    axis: int
    origins: tuple[frozenset[Origin], ...]


@dataclass(frozen=True)
class Observer:
    """Where the values of a unit group can be seen: what ``module`` reads or what it returns.

    The group occupies channels ``start`` to ``start + size`` of ``axis`` there.
    """

    module: str
    side: Literal["input", "output"]
    axis: int
    start: int


@dataclass
class UnitGroup:
    """All units of one activation call, numbered ``first`` to ``first + size`` over the network."""

    name: str
    activation: str
    size: int
    first: int
    observer: Observer | None = None
    observer_is_pure: bool = False


@dataclass
class TracedLayer:
    """One weight layer with the units it reads and the units it writes to.

    ``reads`` and ``writes`` are pairs (channel of the layer, unit number), each of shape (2, n).
    """

    name: str
    kind: LayerKind
    groups: int
    in_channels: int
    out_channels: int
    weights: int
    reads_input_only: bool = False
    writes_output: bool = False
    reads: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), dtype=np.int64))
    writes: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), dtype=np.int64))

    def connection_channels(self, weight_shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Input and output channel of each kernel slice, both of the weight's first two axes' shape.

        Linear and convolution weights are (out, in / groups, ...), transposed ones (in, out / groups, ...).
        """
        rows, columns = int(weight_shape[0]), int(weight_shape[1])
        row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        group = row // (rows // self.groups)
        across = group * columns + column
        return (row, across) if self.kind == "conv_transpose" else (across, row)


@dataclass
class Wiring:
    """The units and weight layers of a network and how they connect."""

    groups: list[UnitGroup]
    layers: list[TracedLayer]
    untraced: tuple[str, ...]  # operations that lost track of units, in order of appearance

    @property
    def unit_count(self) -> int:
        """Number of units in the network."""
        return sum(group.size for group in self.groups)

    def group_of(self, unit: int) -> UnitGroup:
        """The group a unit belongs to."""
        return next(group for group in self.groups if group.first <= unit < group.first + group.size)


class _Trace(TorchFunctionMode):
    """Follows channel origins through every torch function called while it is active."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.groups: list[UnitGroup] = []
        self.layers: list[TracedLayer] = []
        self.untraced: dict[str, None] = {}
        self.stack: list[tuple[str, nn.Module]] = []
        self._known: dict[int, tuple[Tensor, Channels]] = {}
        self._layer_of: dict[str, int] = {}
        self._weights = {
            id(module.weight): (name, module)
            for name, module in model.named_modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter)
        }
        self._reads: dict[int, set[tuple[int, int]]] = {}
        self._writes: dict[int, set[tuple[int, int]]] = {}

    # ---- annotations ----

    def annotate(self, tensor: Tensor, channels: Channels) -> None:
        # Holding the tensor keeps its id from being given to another one.
        self._known[id(tensor)] = (tensor, channels)

    def channels(self, value: object) -> Channels | None:
        known = self._known.get(id(value))
        return known[1] if known is not None else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        traced = [value for value in _tensors((args, kwargs)) if self.channels(value) is not None]
        # In-place calls replace the annotation of their input: read it before the call.
        before = [self.channels(value) for value in traced]
        result = func(*args, **kwargs)
        if traced and isinstance(result, Tensor | tuple | list):
            outputs = [value for value in _tensors(result) if value.is_floating_point()]
            for output in outputs:
                channels = self._follow(name, args, kwargs, [c for c in before if c is not None], output)
                if channels is not None:
                    self.annotate(output, channels)
        return result

    def _follow(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[Channels], output: Tensor
    ) -> Channels | None:
        source = sources[0]
        if name in CONVOLUTIONS or name in TRANSPOSED or name == "linear":
            return self._weight_layer(name, args, kwargs, source, output)
        if name in ACTIVATIONS:
            return self._activation(name, source, output)
        if name in SUMS:
            return _united(sources, output)
        if name in JOINS:
            return self._joined(args, kwargs, output)
        if name in SAME_CHANNELS:
            return _kept(sources, output)
        moved = _moved(name, args, kwargs, source, output)
        if moved is None and any(origin.kind == "unit" for each in source.origins for origin in each):
            self.untraced[name] = None
        return moved

    # ---- what each kind of call does ----

    def _weight_layer(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: Channels, output: Tensor
    ) -> Channels | None:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        owner = self._weights.get(id(weight))
        axis = output.dim() - 1 if name == "linear" else output.dim() - (weight.dim() - 1)
        if owner is None or source.axis != axis:
            self.untraced[name] = None
            return None
        module_name, module = owner
        number = self._layer(name, module_name, module)
        layer = self.layers[number]
        called_itself = bool(self.stack) and self.stack[-1][1] is module
        layer.reads_input_only = {origin.kind for each in source.origins for origin in each} == {"input"}
        for channel, origins in enumerate(source.origins):
            for origin in origins:
                if origin.kind == "unit":
                    self._reads[number].add((channel, self.groups[origin.owner].first + origin.index))
        if called_itself:
            self._offer_observer(Observer(module_name, "input", source.axis, 0), source)
        return Channels(axis, tuple(frozenset({Origin("layer", number, j)}) for j in range(layer.out_channels)))

    def _layer(self, function: str, name: str, module: nn.Module) -> int:
        if name not in self._layer_of:
            kind: LayerKind = (
                "linear" if function == "linear" else "conv_transpose" if function in TRANSPOSED else "conv"
            )
            groups = int(getattr(module, "groups", 1))
            weight = module.weight
            assert isinstance(weight, Tensor)
            rows, columns = int(weight.shape[0]), int(weight.shape[1]) * groups
            inputs, outputs = (rows, columns) if kind == "conv_transpose" else (columns, rows)
            self._layer_of[name] = len(self.layers)
            self._reads[len(self.layers)], self._writes[len(self.layers)] = set(), set()
            self.layers.append(TracedLayer(name, kind, groups, inputs, outputs, weight.numel()))
        return self._layer_of[name]

    def _activation(self, name: str, source: Channels, output: Tensor) -> Channels:
        number = len(self.groups)
        first = sum(group.size for group in self.groups)
        writers: list[int] = []
        for index, origins in enumerate(source.origins):
            for origin in origins:
                if origin.kind == "layer":
                    self._writes[origin.owner].add((origin.index, first + index))
                    if origin.owner not in writers:
                        writers.append(origin.owner)
        caller = self.stack[-1] if self.stack else ("", None)
        # A unit is named after the weights that write into it: activation modules are often shared.
        label = (
            max((self.layers[w] for w in writers), key=lambda layer: layer.weights).name
            if writers
            else f"{caller[0] or 'model'}:{name}"
        )
        group = UnitGroup(label, name.rstrip("_"), len(source.origins), first)
        self.groups.append(group)
        channels = Channels(
            source.axis, tuple(frozenset({Origin("unit", number, i)}) for i in range(len(source.origins)))
        )
        if caller[1] is not None and not any(True for _ in caller[1].children()):
            group.observer = Observer(caller[0], "output", source.axis, 0)
        return channels

    def _joined(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Channels | None:
        tensors = args[0] if args else kwargs["tensors"]
        axis = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) % output.dim()
        parts = [self.channels(tensor) for tensor in tensors]
        known = next(part for part in parts if part is not None)
        if axis != known.axis:
            return _united([part for part in parts if part is not None], output)
        origins: list[frozenset[Origin]] = []
        for tensor, part in zip(tensors, parts, strict=True):
            origins += part.origins if part is not None else [frozenset()] * tensor.shape[axis]
        return Channels(axis, tuple(origins))

    def _offer_observer(self, observer: Observer, source: Channels) -> None:
        """Take this reader as the place to see a group, if the group's channels stand there unmixed and in order."""
        position = 0
        while position < len(source.origins):
            origins = source.origins[position]
            origin = next(iter(origins)) if len(origins) == 1 else None
            if origin is None or origin.kind != "unit" or origin.index != 0:
                position += 1
                continue
            group = self.groups[origin.owner]
            expected = tuple(frozenset({Origin("unit", origin.owner, i)}) for i in range(group.size))
            if source.origins[position : position + group.size] == expected:
                whole = group.size == len(source.origins)
                if not group.observer_is_pure:
                    group.observer = Observer(observer.module, observer.side, observer.axis, position)
                    group.observer_is_pure = whole
                position += group.size
            else:
                position += 1

    def wiring(self, outputs: Iterable[Tensor]) -> Wiring:
        for tensor in outputs:
            channels = self.channels(tensor)
            for origins in channels.origins if channels is not None else ():
                for origin in origins:
                    if origin.kind == "layer":
                        self.layers[origin.owner].writes_output = True
        for number, layer in enumerate(self.layers):
            layer.reads = _pairs(self._reads[number])
            layer.writes = _pairs(self._writes[number])
        return Wiring(self.groups, self.layers, tuple(self.untraced))


def trace(model: nn.Module, example_inputs: Tensor | Sequence[Any], *, channel_axis: int = 1) -> Wiring:
    """Run ``model`` once on ``example_inputs`` and return how its units and weight layers connect.

    The pass runs in evaluation mode without gradients, so norm statistics and dropout are left alone, and every
    module's mode is put back afterwards.

    Args:
        model: any network; nothing in it is changed.
        example_inputs: one tensor or the positional arguments of ``model``.
        channel_axis: the channel axis of the input tensors (1 for images, the last one for sequences of features).

    Raises:
        SynbbError: the model has no weight layer that reads a unit.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    modes = [(module, module.training) for module in model.modules()]
    tracer = _Trace(model)
    for number, tensor in enumerate(_tensors(inputs)):
        if tensor.dim() > 1:
            axis = channel_axis % tensor.dim()
            origins = tuple(frozenset({Origin("input", number, i)}) for i in range(tensor.shape[axis]))
            tracer.annotate(tensor, Channels(axis, origins))
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, _: object) -> None:
        tracer.stack.append((names[id(module)], module))

    def leave(module: nn.Module, _: object, __: object) -> None:
        tracer.stack.pop()

    hooks = []
    for module in model.modules():
        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        model.eval()
        with torch.no_grad(), tracer:
            result = model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    wiring = tracer.wiring(_tensors(result))
    if not any(layer.reads.size for layer in wiring.layers):
        lost = f"; operations that could not be followed: {', '.join(wiring.untraced)}" if wiring.untraced else ""
        raise SynbbError(f"{type(model).__name__}: no layer reads the output of an activation, nothing to prune{lost}")
    return wiring


def _tensors(value: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _pairs(pairs: set[tuple[int, int]]) -> np.ndarray:
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T


def _kept(sources: list[Channels], output: Tensor) -> Channels | None:
    """Origins of a call that works channel by channel (a gate's or a scale's origins are not passed on)."""
    source = sources[0]
    fits = source.axis < output.dim() and output.shape[source.axis] == len(source.origins)
    return source if fits else None


def _united(sources: list[Channels], output: Tensor) -> Channels | None:
    """Origins of a sum: the union, channel by channel."""
    axis = sources[0].axis
    count = output.shape[axis] if axis < output.dim() else -1
    fitting = [source for source in sources if source.axis == axis and len(source.origins) == count]
    if not fitting:
        return None
    return Channels(axis, tuple(frozenset().union(*each) for each in zip(*(s.origins for s in fitting), strict=True)))


def _moved(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: Channels, output: Tensor
) -> Channels | None:
    """Origins after a change of layout: transposition, flattening, means over positions."""
    rank = args[0].dim() if args and isinstance(args[0], Tensor) else output.dim()
    if name in {"transpose", "swapaxes", "transpose_"} and len(args) == 3:
        one, other = args[1] % rank, args[2] % rank
        axis = other if source.axis == one else one if source.axis == other else source.axis
        return Channels(axis, source.origins)
    if name == "permute":
        order = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
        return Channels([d % rank for d in order].index(source.axis), source.origins)
    if name == "flatten" and output.dim() == 2 and source.axis == 1:
        repeat, rest = divmod(output.shape[1], len(source.origins))
        return Channels(1, tuple(o for o in source.origins for _ in range(repeat))) if rest == 0 else None
    if name == "mean" and isinstance(args[0], Tensor):
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        reduced = {d % rank for d in (dims if isinstance(dims, tuple | list) else [dims] if dims is not None else [])}
        if reduced and source.axis not in reduced:
            keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
            axis = source.axis if keep else source.axis - sum(d < source.axis for d in reduced)
            return Channels(axis, source.origins)
    if name in {"squeeze", "unsqueeze", "reshape", "view"}:
        axes = [d for d in range(output.dim()) if output.shape[d] == len(source.origins)]
        same_lead = (
            args[0].shape[: source.axis] == output.shape[: source.axis] if isinstance(args[0], Tensor) else False
        )
        if same_lead and source.axis in axes:
            return source
    return None
