"""Which unit feeds which layer: found by following one forward pass of the real network.

Every tensor of the pass is annotated with the origin of each of its channels. An origin is the network's input, a
*unit* (one channel of an activation's output) or a *layer output* that no activation has followed yet.
:mod:`synbb.pruning.origins` and :mod:`synbb.pruning.attention` say how calls without weights pass origins on. A weight
layer reads units (they gain fan-out) and starts layer outputs; an activation turns what reaches it into new units, and
the layer outputs among it are those units' fan-in. Identity paths thus add no connection. What cannot be followed is an
error where it would make the degrees of units wrong; a layer that the caller names is then masked per consumer: by
units of its own, its input's channels.

Module graphs are not enough for this: networks inline activations, reuse one activation module in several places and
concatenate in plain Python. Watching function calls (``TorchFunctionMode``) sees them all, shared modules included.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from synbb.errors import SynbbError
from synbb.pruning.attention import follow, value_of
from synbb.pruning.calls import (
    ACTIVATIONS,
    ALWAYS_ON,
    ATTENTION,
    FOREIGN,
    NORMS,
    WEIGHTED,
    activation_of,
    kind_of,
    name_of,
    scales_channels,
    tensors_in,
)
from synbb.pruning.origins import (
    HIDDEN_UNIT,
    VALUES,
    Channels,
    Known,
    Lost,
    Origin,
    Source,
    Split,
    gather,
    lose,
)
from synbb.pruning.sighting import Sightings
from synbb.pruning.wiring import Observer, TracedLayer, UnitGroup, Wiring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FEW = 5
"""Layers that an error names."""

UNSEEN = "an operation that torch does not show (in a scripted module, say)"


class _Trace(TorchFunctionMode):
    """Follows channel origins through every torch function called while it is active."""

    def __init__(self, model: nn.Module, batch: int, per_consumer: Sequence[str]) -> None:
        super().__init__()
        self.groups: list[UnitGroup] = []
        self.layers: list[TracedLayer] = []
        self.untraced: dict[str, None] = {}
        self._shown: set[tuple[int, int]] = set()
        self._model = type(model).__name__
        self._batch = batch
        self._per_consumer = tuple(per_consumer)
        self._known: dict[int, Source] = {}
        # Tensors that depend on no input: parameters, buffers, and what torch functions made of them or of nothing.
        self._constant: dict[int, Tensor] = {id(each): each for each in (*model.parameters(), *model.buffers())}
        self._layer_of: dict[str, int] = {}
        self._modules = dict(model.named_modules())
        self._weights = {
            id(module.weight): (name, module)
            for name, module in self._modules.items()
            if isinstance(getattr(module, "weight", None), nn.Parameter) and not isinstance(module, nn.Embedding)
        }
        self._reads: list[set[tuple[int, int]]] = []
        self._writes: list[set[tuple[int, int]]] = []
        self._applied: list[int] = []
        # Operations that hid units from a layer, and a layer from the units it writes to.
        self._hidden_reads: list[dict[str, None]] = []
        self._hidden_writes: list[dict[str, None]] = []
        self._consumers: dict[int, UnitGroup] = {}
        self._consumed: dict[int, list[Known | None]] = {}  # what layers masked per consumer read, call by call
        # Layers, and calls with weights of their own, that others read with no unit between; those of them that were
        # read as part of a sum; and layers that steer an attention.
        self._read_on: set[tuple[str, int]] = set()
        self._read_in_sums: set[tuple[str, int]] = set()
        self._steering: set[int] = set()
        self._foreign_calls = 0
        self._normed: dict[int, str] = {}
        self._sightings = Sightings(self.groups)

    def annotate(self, tensor: Tensor, known: Known) -> None:
        # Holding the tensor keeps its id from being given to another one.
        self._known[id(tensor)] = (tensor, known)
        self._constant.pop(id(tensor), None)
        self._normed.pop(id(tensor), None)

    def constant(self, tensor: Tensor) -> None:
        """``tensor`` depends on no input whose channels are followed."""
        self._constant[id(tensor)] = tensor

    def known(self, value: object) -> Known | None:
        source = self._known.get(id(value))
        return source[1] if source is not None else None

    # ---- function calls ----

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        # In-place calls replace the annotation, and may change the shape, of their input: read both before the call.
        tensors = tensors_in((args, kwargs))
        if (name in WEIGHTED or name in ACTIVATIONS) and tensors and self._unexplained(tensors[0]):
            self.annotate(tensors[0], Lost(frozenset({HIDDEN_UNIT}), (UNSEEN,)))
        sources = [self._known[id(tensor)] for tensor in tensors if id(tensor) in self._known]
        constant = not sources and not any(self._unexplained(tensor) for tensor in tensors)
        shape = sources[0][0].shape if sources else torch.Size()
        normed = self._normed.get(id(tensors[0])) if tensors else None
        result = func(*args, **kwargs)
        if name == "__setitem__" and sources:
            self.annotate(args[0], lose(name, [known for _, known in sources]))
        outputs = [value for value in tensors_in(result) if value.is_floating_point()]
        if not outputs:
            return result
        if name in WEIGHTED:
            self.annotate(outputs[0], self._weight_layer(name, args, kwargs, outputs[0]))
        elif name == "embedding":
            axis = outputs[0].dim() - 1
            self.annotate(outputs[0], Channels(axis, (frozenset(),) * outputs[0].shape[axis]))
        elif not sources:
            for output in outputs if constant else ():
                self.constant(output)
        elif (activation := activation_of(name, args, kwargs)) is not None:
            self.annotate(outputs[0], self._activation(activation, sources[0][1], outputs[0].dim(), normed))
        elif name in FOREIGN and any(isinstance(each, nn.Parameter) and each.dim() > 1 for each in tensors):
            read = self._foreign(name, [known for _, known in sources])
            for output in outputs:
                self.annotate(output, Lost(frozenset({read}), (name,)))
            if name == ATTENTION:
                self.annotate(outputs[0], _alike(read, outputs[0], outputs[0].dim() - 1))
        else:
            found = follow(func, name, args, kwargs, sources, shape, outputs)
            value = value_of(name, args, kwargs)
            if value is not None and not isinstance(found[0], Lost):
                steering = gather(known for tensor, known in sources if tensor is not value)
                self._steering.update(each.owner for each in steering.origins if each.kind == "layer")
            for output, known in zip(outputs, found, strict=True):
                self.annotate(output, known)
        return result

    def _unexplained(self, tensor: Tensor) -> bool:
        """Whether nobody saw where a tensor comes from."""
        return tensor.is_floating_point() and id(tensor) not in self._known and id(tensor) not in self._constant

    def _foreign(self, name: str, sources: Sequence[Known]) -> Origin:
        """A call with weights that cannot be masked, such as fused attention, reads ``sources``."""
        behind = gather(sources)
        self._show(behind)
        for source in sources:
            self._passed_on(source)
        if any(origin.kind == "unit" for origin in behind.origins):
            self.untraced.update(dict.fromkeys((*behind.operations, name)))
        self._foreign_calls += 1
        return Origin("weights", self._foreign_calls, 0)

    def _passed_on(self, source: Known) -> None:
        """Weights read this value, so that what it is added to is a stream within the network."""
        for summed in _summed(source):
            passed = {(kind, owner) for kind, owner in summed if kind in ("layer", "weights")}
            self._read_on |= passed
            self._read_in_sums |= passed if len(summed) > 1 else set()

    def _weight_layer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Known:
        given = args[0] if args else kwargs["input"]
        source = self.known(given)
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        owner = self._weights.get(id(weight))
        axis = output.dim() - 1 if name == "linear" else output.dim() - (weight.dim() - 1)
        sources = [source] if source is not None else []
        if owner is None:  # computed on the fly, so that it cannot be masked
            return _alike(self._foreign(f"{name} with a computed weight", sources), output, axis)
        number = self._layer(name, *owner)
        layer = self.layers[number]
        if layer.kind != kind_of(name):  # a shared weight, whose axes another call reads the other way round
            return _alike(self._foreign(f"{name} with the weight of {layer.name}", sources), output, axis)
        inward = layer.kind == "conv_transpose"
        self._applied[number] += given.numel() // layer.in_channels if inward else output.numel() // layer.out_channels
        if isinstance(source, Split) or (isinstance(source, Channels) and source.axis != axis):
            source = lose(name, [source])
        behind = gather([source]) if source is not None else None
        # A value of unknown origin (a constant, an embedding) is not the network's input.
        layer.reads_input_only &= behind is not None and {origin.kind for origin in behind.origins} == {"input"}
        if source is not None:
            self._passed_on(source)
        if self.per_consumer(layer):
            self._consumer(number, axis, source)
        else:
            for channel, origins in enumerate(source.origins if isinstance(source, Channels) else ()):
                units = (self.groups[each.owner].first + each.channel for each in origins if each.kind == "unit")
                self._reads[number].update((channel, unit) for unit in units)
            lost = source.lost if isinstance(source, Channels) else source
            if lost is not None and any(origin.kind == "unit" for origin in lost.origins):
                self._hidden_reads[number].update(dict.fromkeys(lost.operations))
        return Channels(axis, tuple(frozenset({Origin("layer", number, j)}) for j in range(layer.out_channels)))

    def _layer(self, function: str, name: str, module: nn.Module) -> int:
        if name not in self._layer_of:
            kind = kind_of(function)
            groups = 1 if kind == "linear" else int(getattr(module, "groups", 1))
            weight = module.weight
            assert isinstance(weight, Tensor)
            rows, columns = int(weight.shape[0]), int(weight.shape[1]) * groups
            inputs, outputs = (rows, columns) if kind == "conv_transpose" else (columns, rows)
            self._layer_of[name] = len(self.layers)
            self._reads.append(set())
            self._writes.append(set())
            self._applied.append(0)
            self._hidden_reads.append({})
            self._hidden_writes.append({})
            self.layers.append(TracedLayer(name, kind, groups, inputs, outputs, weight.numel()))
        return self._layer_of[name]

    def per_consumer(self, layer: TracedLayer) -> bool:
        """Whether the layer's input channels are to be units of their own."""
        return any(fnmatchcase(layer.name, pattern) for pattern in self._per_consumer)

    def _consumer(self, number: int, axis: int, source: Known | None) -> None:
        """The input channels of a layer become units of their own: those of all its calls together."""
        layer = self.layers[number]
        self._consumed.setdefault(number, []).append(source)
        if not self._sightings.reads(layer.name, axis, layer.in_channels):
            raise SynbbError(
                f"per_consumer: {layer.name!r} is not called as a module with its input as first argument, so that its "
                "input channels cannot be observed: call it so, or leave it out"
            )
        if number not in self._consumers:
            group = self._add(f"{layer.name} input", "input", layer.in_channels)
            group.gated, group.observer = False, Observer(layer.name, "input", axis, 0)
            self._consumers[number] = group
            units = range(group.first, group.first + group.size)
            self._reads[number].update(enumerate(units))
            return
        group = self._consumers[number]
        assert group.observer is not None
        if group.observer.axis != axis:  # calls of other shapes: the first one is watched
            group.observer = Observer(layer.name, "input", group.observer.axis, 0, 0)

    def _add(self, name: str, activation: str, size: int) -> UnitGroup:
        group = UnitGroup(name, activation, size, sum(each.size for each in self.groups))
        self.groups.append(group)
        return group

    def _activation(self, name: str, source: Known, rank: int, norm: str | None) -> Known:
        if not isinstance(source, Channels):  # there are units now, nobody knows in which channels
            behind = lose(f"{name} of split channels", [source])
            return Lost(behind.origins | {HIDDEN_UNIT}, behind.operations)
        number, size = len(self.groups), len(source.origins)
        writing = {self.layers[each.owner].name: self.layers[each.owner] for each in _layers(source.origins)}
        # A unit is named after the weights that write into it: activation modules are often shared.
        label = max(writing.values(), key=lambda layer: layer.weights).name if writing else f"{name} {number}"
        group = self._add(label, name, size)
        group.gated = name not in ALWAYS_ON
        for index, origins in enumerate(source.origins):
            for origin in _layers([origins]):
                self._writes[origin.owner].add((origin.channel, group.first + index))
        for origin in _layers([source.lost.origins]):
            self._hidden_writes[origin.owner].update(dict.fromkeys(source.lost.operations))
        if norm is not None and scales_channels(self._modules[norm], size, source.axis, rank):
            group.norm = norm
        units = tuple(frozenset({Origin("unit", number, channel)}) for channel in range(size))
        return Channels(source.axis, units, VALUES)

    # ---- calls of modules ----

    def enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        """A module is called with ``inputs``."""
        given = inputs[0] if inputs else None
        self._sightings.enter(name, given, self.known(given))

    def leave(self, name: str, output: object) -> None:
        """A module returns ``output``."""
        if isinstance(self._modules[name], NORMS) and isinstance(output, Tensor):
            self._normed[id(output)] = name
        self._sightings.leave(name, self.known(output))

    # ---- what was found ----

    def wiring(self, outputs: Iterable[Tensor]) -> Wiring:
        """What was found, once the pass has returned ``outputs``."""
        for tensor in outputs:
            known = self.known(tensor)
            if known is not None:
                self._leaves(known)
        for number, group in self._consumers.items():
            for origin, unit in _outputs_read(self._consumed[number], group.first):
                self._writes[origin.owner].add((origin.channel, unit))
        for number, layer in enumerate(self.layers):
            layer.reads, layer.writes = _pairs(self._reads[number]), _pairs(self._writes[number])
            layer.positions = -(-self._applied[number] // self._batch)
        for number, group in enumerate(self.groups):
            group.observer = self._sightings.observer(number) if group.observer is None else group.observer
        self._check()
        shown = (self.groups[group].first + channel for group, channel in self._shown)
        return Wiring(self.groups, self.layers, tuple(self.untraced), frozenset(shown))

    def _show(self, behind: Lost) -> None:
        """Units behind a value that something else than a layer takes."""
        units = (origin for origin in behind.origins if origin.kind == "unit" and origin != HIDDEN_UNIT)
        self._shown.update((origin.owner, origin.channel) for origin in units)

    def _leaves(self, known: Known) -> None:
        """A value leaves the network: find the heads among the layers that it sums."""
        self._show(gather([known]))
        for origins in _summed(known):
            summed = {(kind, owner) for kind, owner in origins if kind in ("layer", "weights")}
            for kind, owner in summed:
                others = summed - {(kind, owner)}
                # A branch of a stream: others read what it is added to, or what came of adding it.
                branch = others & self._read_on or (others and (kind, owner) in self._read_in_sums)
                if kind == "layer" and not branch and owner not in self._steering:
                    self.layers[owner].writes_output = True

    def _check(self) -> None:
        names = [layer.name for layer in self.layers]
        for pattern in self._per_consumer:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SynbbError(f"per_consumer: {pattern!r} fits no layer; there are {', '.join(names)}")
        hidden = self._hidden()
        if hidden:
            said = "; ".join(f"layer {name!r} {what}" for name, what in hidden[:FEW])
            more = f" and {len(hidden) - FEW} more" if len(hidden) > FEW else ""
            layers = ", ".join(f"{name!r}" for name in dict.fromkeys(name for name, _ in hidden[:FEW]))
            raise SynbbError(
                f"{self._model}: wiring that cannot be traced: {said}{more}. To count the input channels of such "
                f"layers as units of their own, give per_consumer=[{layers}] (patterns; '*' for all layers)"
            )
        if not self.groups:
            raise SynbbError(
                f"{self._model}: found no activation (relu, leaky_relu, prelu, elu, gelu, silu, ...) behind a layer, "
                "so that there are no units: nothing to prune"
            )
        if not any(layer.reads.size for layer in self.layers):
            lost = f"; operations that could not be followed: {', '.join(self.untraced)}" if self.untraced else ""
            raise SynbbError(f"{self._model}: no layer reads the output of an activation, nothing to prune{lost}")

    def _hidden(self) -> list[tuple[str, str]]:
        """Layers with connections that could not be followed and would make degrees wrong, and what is the matter."""
        found = []
        for layer, unread, unwritten in zip(self.layers, self._hidden_reads, self._hidden_writes, strict=True):
            if self.per_consumer(layer):
                continue
            # No mask touches heads and first layers unless it is asked to: what they hide is told, and no error.
            if layer.writes_output:
                self.untraced.update(unread)
            elif unread:
                found.append((layer.name, f"reads units through {', '.join(unread)}"))
            if layer.reads_input_only:
                self.untraced.update(unwritten)
            elif unwritten:
                found.append((layer.name, f"writes into units through {', '.join(unwritten)}"))
        return found


def trace(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any],
    *,
    channel_axis: int = 1,
    per_consumer: Sequence[str] = (),
) -> Wiring:
    """Run ``model`` once on ``example_inputs`` and return how its units and weight layers connect.

    The pass runs in evaluation mode without gradients, so norm statistics and dropout are left alone, and every
    module's mode is put back afterwards.

    Args:
        model: any network; nothing in it is changed.
        example_inputs: one tensor or the positional arguments of ``model``.
        channel_axis: the channel axis of the input tensors (1 for images, the last one for sequences of features).
        per_consumer: patterns (``*`` matches anything) of layers whose input channels are to be units of their own:
            each has the layer's connections for its fan-out and is seen at the layer's input. Where each of them is the
            output of one layer and nothing else (attention's values), that layer's connections are its fan-in; else it
            has none. For layers that read units through what cannot be followed, and for channels that have no
            activation (transposed convolutions, projections, attention's values). The layer is then no consumer of any
            other unit.

    Raises:
        SynbbError: the model has no activation, or no weight layer that reads a unit; which units a layer reads or
            writes into cannot be followed; a pattern of ``per_consumer`` fits no layer.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    modes = [(module, module.training) for module in model.modules()]
    given = tensors_in(inputs)
    batch = next((tensor.shape[0] for tensor in given if tensor.dim() > 0), 1)
    tracer = _Trace(model, max(batch, 1), per_consumer)
    for number, tensor in enumerate(given):
        tracer.constant(tensor)
        if tensor.dim() > 1:
            axis = channel_axis % tensor.dim()
            origins = tuple(frozenset({Origin("input", number, i)}) for i in range(tensor.shape[axis]))
            tracer.annotate(tensor, Channels(axis, origins))
    names = {id(module): name for name, module in model.named_modules()}
    hooks = []
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks, nor are its calls seen: what it returns is of unknown origin
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
    return tracer.wiring(tensors_in(result))


def _layers(channels: Iterable[frozenset[Origin]]) -> Iterator[Origin]:
    """The layer outputs among the origins of channels, in order."""
    return (origin for origins in channels for origin in sorted(origins) if origin.kind == "layer")


def _summed(known: Known) -> Iterator[set[tuple[str, int]]]:
    """Kind and owner of what each channel sums; of a lost value, of everything that it may sum."""
    lost = known.origins if isinstance(known, Lost) else known.lost.origins
    for channel in [frozenset[Origin]()] if isinstance(known, Lost) else known.origins:
        yield {(origin.kind, origin.owner) for origin in channel | lost}


def _outputs_read(read: Sequence[Known | None], first: int) -> set[tuple[Origin, int]]:
    """(layer output, unit) of a layer masked per consumer, of which the units from ``first`` on are the input channels.

    Nothing unless each channel of each value that it ``read`` is one layer output and nothing else.
    """
    found: set[tuple[Origin, int]] = set()
    for source in read:
        if not isinstance(source, Channels) or source.lost.origins:
            return set()
        for channel, origins in enumerate(source.origins):
            if len(origins) != 1 or any(origin.kind != "layer" for origin in origins):
                return set()
            found.update((origin, first + channel) for origin in origins)
    return found


def _alike(origin: Origin, output: Tensor, axis: int) -> Channels:
    """Every channel of ``output`` has the same origin."""
    return Channels(axis, (frozenset({origin}),) * output.shape[axis])


def _pairs(pairs: set[tuple[int, int]]) -> np.ndarray:
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
