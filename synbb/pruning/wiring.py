"""How the units and weight layers of a network connect, as :mod:`synbb.pruning.tracing` finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

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

    Attributes:
        name: of the layer with most weights among those that write into the units; of the layer, and "input", for units
            that are the input channels of a layer masked per consumer.
        activation: the torch function that made them, or "input".
        size: number of units.
        first: number of the first one.
        observer: None when no module reads or returns the group's own values; its on-rates are then unknown.
        norm: module whose output is the activation's input, nothing between, with a scale and a bias for each unit, in
            the order of the units; None where there is none. A module may stand in front of several groups.
        gated: whether being above zero tells on from off, as behind ReLU; not so for the signed values that a layer
            masked per consumer reads.
    """

    name: str
    activation: str
    size: int
    first: int
    observer: Observer | None = None
    norm: str | None = None
    gated: bool = True


@dataclass
class TracedLayer:
    """One weight layer with the units it reads and the units it writes to.

    Attributes:
        name: of the module that holds the weight.
        kind: what the layer computes, which says how its weight's axes are to be read.
        groups: of a grouped convolution.
        in_channels: channels it reads.
        out_channels: channels it writes.
        weights: number of its weights, biases left out.
        reads_input_only: it reads the network's input and nothing else: a first layer.
        writes_output: its output leaves the network with no activation or other layer between: a head. A branch that
            is added to a stream which other layers read, as in transformers, is none.
        reads: pairs (input channel, number of a unit that it carries), shape (2, n).
        writes: pairs (output channel, number of a unit whose pre-activation it enters, or which it is where a reader is
            masked per consumer), shape (2, n).
        positions: multiplications by each weight for one sample, where a sample is one entry of the first axis of the
            traced input: output positions of convolutions (padding counts like any input), input positions of
            transposed ones, the product of all axes but batch and features for linear layers; summed over the layer's
            calls, rounded up where they do not divide by the batch.
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
    positions: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample of the traced size when all weights are live, bias additions left out."""
        return self.positions * self.weights

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

    ``untraced`` names operations behind which connections of units are missing here that no mask should touch: calls
    that read units through weights that cannot be masked (those of ``nn.MultiheadAttention``), and what could not be
    followed on the way from a first layer or to a head. Anything worse is an error of :func:`trace`. ``shown`` are the
    numbers of units that are read so, or leave the network as they are.
    """

    groups: list[UnitGroup]
    layers: list[TracedLayer]
    untraced: tuple[str, ...]
    shown: frozenset[int] = frozenset()

    @property
    def unit_count(self) -> int:
        """Number of units in the network."""
        return sum(group.size for group in self.groups)

    def group_of(self, unit: int) -> UnitGroup:
        """The group a unit belongs to."""
        return next(group for group in self.groups if group.first <= unit < group.first + group.size)
