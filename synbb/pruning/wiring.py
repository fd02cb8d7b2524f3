"""Which unit feeds which layer: found by following one forward pass of the real network.

Every tensor of the pass is annotated with the origin of each of its channels. An origin is the network's input, a
*unit* (one channel of an activation's output, METHOD §1) or a *layer output* that no activation has followed yet.
:mod:`synbb.pruning.origins` says how calls without weights pass origins on. A weight layer reads units (they gain
fan-out) and starts layer outputs; an activation turns what reaches it into new units, and the layer outputs among it
are those units' fan-in. Identity paths thus add no connection.

Module graphs are not enough for this: networks inline activations, reuse one activation module in several places and
concatenate in plain Python. Watching function calls (``TorchFunctionMode``) sees them all, shared modules included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from synbb.errors import SynbbError
from synbb.pruning.origins import CHANGED, VALUES, Channels, Fidelity, Known, Lost, Origin, Source, follow, lose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ACTIVATIONS = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "elu", "elu_", "celu", "celu_"}
    | {"selu", "selu_", "gelu", "silu", "silu_", "mish", "mish_", "hardswish", "softplus", "threshold", "threshold_"}
)
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {"linear"}

LayerKind = Literal["linear", "conv", "conv_transpose"]


@dataclass(frozen=True)
class Observer:
    """Where the values of a unit group can be seen: what ``module`` reads or what it returns.

    The group occupies channels ``start`` to ``start + size`` of ``axis`` there.

    Attributes:
        call: which call of the module within one forward pass, counted from 0; None for a module called once.
    """

    module: str
    side: Literal["input", "output"]
    axis: int
    start: int
    call: int | None = None


@dataclass
class UnitGroup:
    """All units of one activation call, numbered ``first`` to ``first + size`` over the network.

    ``observer`` is None when no module reads or returns the group's own values; its on-rates are then unknown.
    """

    name: str
    activation: str
    size: int
    first: int
    observer: Observer | None = None


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
    reads_input_only: bool = True
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
    """The units and weight layers of a network and how they connect.

    ``untraced`` names the operations between a unit and a layer that reads it, or between a layer and its activation,
    that could not be followed; those connections are missing here.
    """

    groups: list[UnitGroup]
    layers: list[TracedLayer]
    untraced: tuple[str, ...]

    @property
    def unit_count(self) -> int:
        """Number of units in the network."""
        return sum(group.size for group in self.groups)

    def group_of(self, unit: int) -> UnitGroup:
        """The group a unit belongs to."""
        return next(group for group in self.groups if group.first <= unit < group.first + group.size)


@dataclass(frozen=True)
class _Sight:
    """A place where a unit group was seen during the trace."""

    observer: Observer
    fidelity: Fidelity


class _Trace(TorchFunctionMode):
    """Follows channel origins through every torch function called while it is active."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.groups: list[UnitGroup] = []
        self.layers: list[TracedLayer] = []
        self.untraced: dict[str, None] = {}
        self._known: dict[int, Source] = {}
        self._layer_of: dict[str, int] = {}
        self._weights = {
            id(module.weight): (name, module)
            for name, module in model.named_modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter) and not isinstance(module, nn.Embedding)
        }
        self._reads: list[set[tuple[int, int]]] = []
        self._writes: list[set[tuple[int, int]]] = []
        self._calls: dict[str, int] = {}
        self._sights: list[list[_Sight]] = []

    def annotate(self, tensor: Tensor, known: Known) -> None:
        # Holding the tensor keeps its id from being given to another one.
        self._known[id(tensor)] = (tensor, known)

    def known(self, value: object) -> Known | None:
        source = self._known.get(id(value))
        return source[1] if source is not None else None

    # ---- function calls ----

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        # In-place calls replace the annotation, and may change the shape, of their input: read both before the call.
        tensors = _tensors((args, kwargs))
        sources = [self._known[id(tensor)] for tensor in tensors if id(tensor) in self._known]
        shape = sources[0][0].shape if sources else torch.Size()
        result = func(*args, **kwargs)
        if name == "__setitem__" and sources:
            self.annotate(args[0], lose(name, [known for _, known in sources]))
        outputs = [value for value in _tensors(result) if value.is_floating_point()]
        if not outputs or not (sources or name in WEIGHTED):
            return result
        if name in WEIGHTED:
            self.annotate(outputs[0], self._weight_layer(name, args, kwargs, outputs[0]))
        elif name in ACTIVATIONS and isinstance(sources[0][1], Channels):
            self.annotate(outputs[0], self._activation(name, sources[0][1]))
        else:
            found = [follow(name, args, kwargs, sources, shape, output) for output in outputs]
            own_weights = any(isinstance(tensor, nn.Parameter) and tensor.dim() > 1 for tensor in tensors)
            for output, known in zip(outputs, found, strict=True):
                self.annotate(output, self._foreign(known) if own_weights and isinstance(known, Lost) else known)
        return result

    def _foreign(self, known: Lost) -> Lost:
        """A call with weights that cannot be masked, such as fused attention, has read ``known``."""
        self._miss(known, "unit")
        return Lost(known.origins | {Origin("weights", 0, 0)}, known.operations)

    def _weight_layer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Known:
        source = self.known(args[0] if args else kwargs["input"])
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        owner = self._weights.get(id(weight))
        if owner is None:  # a weight computed on the fly, which cannot be masked
            return self._foreign(lose(name, [source] if source is not None else []))
        number = self._layer(name, *owner)
        layer = self.layers[number]
        axis = output.dim() - 1 if name == "linear" else output.dim() - (weight.dim() - 1)
        if isinstance(source, Channels) and source.axis != axis:
            source = lose(name, [source])
        behind = source.everything() if isinstance(source, Channels) else source
        # A value of unknown origin (an embedding, a constant) is not the network's input.
        layer.reads_input_only &= behind is not None and {origin.kind for origin in behind.origins} == {"input"}
        if isinstance(source, Channels):
            for channel, origins in enumerate(source.origins):
                units = (self.groups[each.owner].first + each.channel for each in origins if each.kind == "unit")
                self._reads[number].update((channel, unit) for unit in units)
        self._miss(source.lost if isinstance(source, Channels) else source, "unit")
        return Channels(axis, tuple(frozenset({Origin("layer", number, j)}) for j in range(layer.out_channels)))

    def _layer(self, function: str, name: str, module: nn.Module) -> int:
        if name not in self._layer_of:
            kind: LayerKind = (
                "linear" if function == "linear" else "conv_transpose" if function in TRANSPOSED else "conv"
            )
            groups = 1 if kind == "linear" else int(getattr(module, "groups", 1))
            weight = module.weight
            assert isinstance(weight, Tensor)
            rows, columns = int(weight.shape[0]), int(weight.shape[1]) * groups
            inputs, outputs = (rows, columns) if kind == "conv_transpose" else (columns, rows)
            self._layer_of[name] = len(self.layers)
            self._reads.append(set())
            self._writes.append(set())
            self.layers.append(TracedLayer(name, kind, groups, inputs, outputs, weight.numel()))
        return self._layer_of[name]

    def _activation(self, name: str, source: Channels) -> Channels:
        number = len(self.groups)
        first = sum(group.size for group in self.groups)
        writers: dict[int, None] = {}
        for index, origins in enumerate(source.origins):
            for origin in sorted(origins):
                if origin.kind == "layer":
                    self._writes[origin.owner].add((origin.channel, first + index))
                    writers[origin.owner] = None
        self._miss(source.lost, "layer")
        # A unit is named after the weights that write into it: activation modules are often shared.
        writing = [self.layers[writer] for writer in writers]
        label = max(writing, key=lambda layer: layer.weights).name if writing else f"{name} {number}"
        self.groups.append(UnitGroup(label, name.rstrip("_"), len(source.origins), first))
        self._sights.append([])
        units = tuple(frozenset({Origin("unit", number, channel)}) for channel in range(len(source.origins)))
        return Channels(source.axis, units, VALUES)

    def _miss(self, lost: Lost | None, kind: str) -> None:
        """Note the operations that hid origins of ``kind`` from whoever reads them now."""
        if lost is not None and any(origin.kind == kind for origin in lost.origins):
            self.untraced.update(dict.fromkeys(lost.operations))

    # ---- places to see a unit ----

    def enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        """A module is called with ``inputs``."""
        self._calls[name] = self._calls.get(name, 0) + 1
        if inputs:
            self._look(name, "input", inputs[0], self._calls[name] - 1)

    def leave(self, name: str, output: object) -> None:
        """A module returns ``output``."""
        self._look(name, "output", output, self._calls[name] - 1)

    def _look(self, module: str, side: Literal["input", "output"], value: object, call: int) -> None:
        """Note every group whose channels stand unmixed and in order in ``value``."""
        known = self.known(value)
        if not isinstance(known, Channels) or known.fidelity == CHANGED or not module:
            return
        for start, origins in enumerate(known.origins):
            first = next(iter(origins)) if len(origins) == 1 else None
            if first is None or first.kind != "unit" or first.channel != 0:
                continue
            size = self.groups[first.owner].size
            expected = tuple(frozenset({Origin("unit", first.owner, channel)}) for channel in range(size))
            if known.origins[start : start + size] == expected:
                observer = Observer(module, side, known.axis, start, call)
                self._sights[first.owner].append(_Sight(observer, known.fidelity))

    def _observer(self, sights: list[_Sight]) -> Observer | None:
        """The truest sight; among equals a module called once in a pass, then the first."""
        if not sights:
            return None
        best = min(sights, key=lambda sight: (-sight.fidelity, self._calls[sight.observer.module] > 1)).observer
        call = best.call if self._calls[best.module] > 1 else None
        return Observer(best.module, best.side, best.axis, best.start, call)

    def wiring(self, outputs: Iterable[Tensor]) -> Wiring:
        for tensor in outputs:
            known = self.known(tensor)
            behind = known.everything() if isinstance(known, Channels) else known
            for origin in behind.origins if behind is not None else ():
                if origin.kind == "layer":
                    self.layers[origin.owner].writes_output = True
        for layer, reads, writes in zip(self.layers, self._reads, self._writes, strict=True):
            layer.reads, layer.writes = _pairs(reads), _pairs(writes)
        for group, sights in zip(self.groups, self._sights, strict=True):
            group.observer = self._observer(sights)
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
    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(lambda m, given: tracer.enter(names[id(m)], given)))
        hooks.append(module.register_forward_hook(lambda m, _, output: tracer.leave(names[id(m)], output)))
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


def _name(func: Callable[..., Any]) -> str:
    name = str(getattr(func, "__name__", func))
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name == "__get__" else name


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
