"""The exact receptive field of a convolutional network, found by asking the network itself.

A copy of the network, in which nothing but *who reads whom* is left (positive weights, no biases, neutral norms and
activations), is differentiated: an input voxel whose gradient is not zero is one that the output voxel depends on.

Underflow: the weight of the outermost path is a product of one factor 1/fan-in per layer and would leave any float
type in a deep network. So wherever a convolution reads its input, the value is set back to 1 and the gradient to 0 or
1: nothing is multiplied up along a path, at any depth, and since all terms are non-negative none cancel. What is left
between two convolutions (sums, means, interpolation weights) is far from the limits of float32, which is several times
faster than float64 here.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as activations
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from synbb.errors import SynbbError
from synbb.volumes.box import Triple, triple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_LENGTH = 4096  # voxels along the probed axis; a field that still touches the end is taken for unbounded
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
# Whoever hooks into the network (a pruner that counts) is neither copied with it nor called.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
POOLS: dict[type[nn.Module], type[nn.Module]] = {
    nn.MaxPool1d: nn.AvgPool1d,
    nn.MaxPool2d: nn.AvgPool2d,
    nn.MaxPool3d: nn.AvgPool3d,
}


def receptive_field(net: nn.Module, stride: Sequence[int]) -> Triple:
    """Margin of input voxels (z, y, x) needed on either side of a stride cell, the larger of the two sides.

    A network that pools treats voxels differently by their place on its stride grid, so every phase is probed, and the
    margin is counted from the cell of the grid in which the voxel lies: a box that begins and ends on the grid is
    predicted exactly from itself and this margin (a box that does not is first grown to the grid).

    The network may be any graph of convolutions (transposed, strided, dilated, grouped), poolings, interpolations,
    sums and concatenations whose output has its input's size. Norms are taken as per-channel constants, as batch norm
    is in evaluation; see :func:`block_dependent_norms` for those that are not. ``net`` is neither changed nor run.

    The probe is a column along one axis at a time and two or so strides across, so its cost does not grow with the
    field's volume; the outputs of all positions across are summed, so their phases are covered too.

    Args:
        net: maps (N, C, Z, Y, X) to (N, K, Z, Y, X).
        stride: input voxels (z, y, x) per voxel of the coarsest level.

    Raises:
        SynbbError: output and input differ in size, attention or global pooling makes the field unbounded, or no
            convolution says how many channels the input has.
    """
    steps = triple(stride)
    if min(steps) < 1:
        raise SynbbError(f"stride {steps} must be at least 1 along each axis")
    probe, channels = _dependency_copy(net)
    z, y, x = (_margin_along(probe, channels, steps, axis) for axis in range(3))
    return z, y, x


def block_dependent_norms(net: nn.Module) -> list[str]:
    """Names of the norms that compute statistics of the very input they are given, in evaluation too.

    Such a network (instance, group, layer norm, batch norm without running statistics) gives different results for
    different blocks of one volume, whatever the halo.
    """
    return [
        name
        for name, module in net.named_modules()
        if isinstance(module, NORMS) and getattr(module, "running_mean", None) is None
    ]


def _dependency_copy(net: nn.Module) -> tuple[nn.Module, int]:
    """A copy of ``net`` on the CPU that only passes dependencies on, and its number of input channels."""
    without_hooks: dict[int, Any] = {
        id(getattr(module, kind)): OrderedDict() for module in net.modules() for kind in HOOKS
    }
    probe = copy.deepcopy(net, without_hooks).cpu().float().eval().requires_grad_(requires_grad=False)
    channels = next((module.in_channels for module in probe.modules() if isinstance(module, _ConvNd)), None)
    if channels is None:
        raise SynbbError(f"a {type(net).__name__} without convolutions has no receptive field to probe")
    probe = _neutral(probe)
    for name, child in list(probe.named_modules()):
        if isinstance(child, _ConvNd):
            _make_positive(child)
        for key, grandchild in list(child.named_children()):
            if isinstance(grandchild, nn.MultiheadAttention):
                raise SynbbError(f"layer {name}.{key} is attention: its receptive field is the whole volume")
            setattr(child, key, _neutral(grandchild))
    return probe, channels


def _neutral(module: nn.Module) -> nn.Module:
    """What stands for ``module`` in the copy: identity for norms, activations, dropout; mean for maximum pooling."""
    if isinstance(module, NORMS) or type(module).__module__ == activations.__name__:
        return nn.Identity()
    for kind, mean in POOLS.items():
        if isinstance(module, kind):  # the maximum passes its gradient to one voxel only
            return _mean_pool(module, mean)
    return module


def _mean_pool(pool: Any, mean: type[nn.Module]) -> nn.Module:
    dilation = pool.dilation if isinstance(pool.dilation, tuple) else (pool.dilation,)
    if set(dilation) != {1}:
        raise SynbbError(f"maximum pooling with dilation {pool.dilation} cannot be probed: use dilation 1")
    return mean(pool.kernel_size, stride=pool.stride, padding=pool.padding, ceil_mode=pool.ceil_mode)


def _make_positive(layer: _ConvNd) -> None:
    """Weights 1/fan-in, bias 0, and a hook that sets the layer's input back to 1 and its gradient to 0 or 1."""
    fan_in = layer.in_channels // layer.groups * layer.weight[0, 0].numel()
    layer.weight.data.fill_(1.0 / fan_in)
    if layer.bias is not None:
        layer.bias.data.zero_()
    layer.register_forward_pre_hook(_reset_input)


class _Dependency(torch.autograd.Function):
    """What a convolution reads: value 1, gradient 0 or 1; the dependency itself stays."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return torch.ones_like(values)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return (gradient != 0).to(gradient.dtype)


_dependency: Callable[[Tensor], Tensor] = _Dependency.apply


def _reset_input(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return _dependency(inputs[0])


def _margin_along(probe: nn.Module, channels: int, stride: Triple, axis: int) -> int:
    """The largest margin on either side along ``axis``; the column is lengthened until the field ends inside it."""
    step = stride[axis]
    length = 16 * step
    while length <= MAX_LENGTH * step:
        margins = _margins_in_column(probe, channels, stride, axis, length)
        if margins is not None:
            return max(margins)
        length *= 2
    raise SynbbError(
        f"the receptive field along {'zyx'[axis]} is wider than {MAX_LENGTH * step} voxels: global pooling or "
        "attention makes it unbounded, and such a network cannot predict block by block"
    )


def _widest(module: nn.Module) -> int:
    """Kernel of a pooling layer: PyTorch wants its input to be as wide, padding not counted."""
    if not isinstance(module, tuple(POOLS.values())):
        return 0
    kernel: Any = module.kernel_size
    return max(kernel) if isinstance(kernel, tuple) else int(kernel)


def _margins_in_column(
    probe: nn.Module, channels: int, stride: Triple, axis: int, length: int
) -> tuple[int, int] | None:
    """Voxels needed before and after a stride cell, or None when the column is too short to tell."""
    across = max([2, *(_widest(module) for module in probe.modules())])
    size = [across * step for step in stride]
    size[axis] = length
    column = torch.ones((1, channels, *size), requires_grad=True)
    try:
        output = probe(column)
    except RuntimeError as error:
        raise SynbbError(
            f"the network cannot take an input of {tuple(size)} voxels with a stride of {stride}: {error}; blockwise "
            "prediction needs padded convolutions, and the network's own stride"
        ) from error
    if output.shape[2:] != column.shape[2:]:
        raise SynbbError(
            f"the network turns an input of {tuple(size)} voxels into {tuple(output.shape[2:])}: blockwise prediction "
            "needs an output of the input's size (padded convolutions, and the right stride)"
        )
    others = [dim for dim in range(output.ndim) if dim != 2 + axis]
    line = output.sum(dim=others)
    step = stride[axis]
    middle = length // (2 * step) * step
    before = after = 0
    for position in range(middle, middle + step):
        (gradient,) = torch.autograd.grad(line[position], column, retain_graph=True)
        reached = torch.nonzero(gradient.sum(dim=others)).flatten()
        if len(reached) == 0:
            continue
        first, last = int(reached[0]), int(reached[-1])
        if first == 0 or last == length - 1:
            return None
        before, after = max(before, middle - first), max(after, last - (middle + step - 1))
    return before, after
