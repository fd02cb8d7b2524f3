"""What torch functions are to the trace, told by their names: weight layers, activations, weights of others, norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from synbb.pruning.wiring import LayerKind

ACTIVATIONS = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "elu", "elu_", "celu", "celu_"}
    | {"selu", "selu_", "gelu", "silu", "silu_", "mish", "mish_", "hardswish", "softplus", "threshold", "threshold_"}
)
ALWAYS_ON = frozenset({"softplus"})
"""Activations whose sign does not tell on from off."""

CLAMPS = frozenset({"clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_"})
"""ReLU by another name where 0 is the only bound."""

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {"linear"}
ATTENTION = "multi_head_attention_forward"
FOREIGN = frozenset(
    {ATTENTION, "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot"}
    | {"bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
)
"""Calls that, given parameters, read their other arguments through weights that cannot be masked."""

NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm),
)


def name_of(func: Callable[..., Any]) -> str:
    """The name of a torch function; of a property, its own."""
    name = str(getattr(func, "__name__", func))
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name == "__get__" else name


def kind_of(name: str) -> LayerKind:
    """What a weight layer that calls a function of :data:`WEIGHTED` computes."""
    return "linear" if name == "linear" else "conv_transpose" if name in TRANSPOSED else "conv"


def activation_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The activation that a call is, without the underscore of in-place forms; None if it is none."""
    if name in CLAMPS:
        low = args[1] if len(args) > 1 else kwargs.get("min")
        high = args[2] if len(args) > 2 else kwargs.get("max")
        return "relu" if high is None and isinstance(low, int | float) and low == 0 else None
    if name in ("hardtanh", "hardtanh_"):  # what nn.ReLU6 calls
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        return "relu6" if low == 0 else None
    return name.rstrip("_") if name in ACTIVATIONS else None


def scales_channels(norm: nn.Module, size: int, axis: int, rank: int) -> bool:
    """Whether a norm has a scale and a bias for each of ``size`` channels along ``axis`` of ``rank`` axes."""
    parameters = (norm.weight, norm.bias)
    own_axis = rank - 1 if isinstance(norm, nn.LayerNorm) else 1
    return axis == own_axis and all(isinstance(p, nn.Parameter) and tuple(p.shape) == (size,) for p in parameters)


def tensors_in(value: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []
