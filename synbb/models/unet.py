"""The 3D U-Net: MONAI's ``DynUNet`` with kernels and strides chosen from the voxel size.

An axis along which voxels are much longer than along the finest one carries no context at the scale of one voxel
in the plane: convolving or pooling across 50 nm sections at 9 nm pixels mixes what lies far apart. So an axis gets
kernel 3 and is pooled only on those levels where its voxel is less than twice the smallest one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monai.networks.nets.dynunet import DynUNet
from torch import nn

from synbb.errors import SynbbError
from synbb.volumes.box import Triple, triple

if TYPE_CHECKING:
    from collections.abc import Sequence


ANISOTROPY = 2.0
"""An axis is left alone (kernel 1, stride 1) while its voxel is at least this many times the smallest."""

NORMS: dict[str, dict[str, Any]] = {
    "batch": {"affine": True},
    "instance": {"affine": True},
    "group": {"affine": True, "num_groups": 8},
}
MIN_LEVELS = 3  # DynUNet is built of an input block, at least one further level, and a bottleneck


@dataclass(frozen=True)
class LevelGeometry:
    """Kernel sizes and strides (z, y, x) of each level; ``strides[0]`` is always (1, 1, 1)."""

    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]

    @property
    def total_stride(self) -> Triple:
        """Input voxels (z, y, x) per voxel of the coarsest level."""
        return triple([math.prod(axis) for axis in zip(*self.strides, strict=True)])


def level_geometry(voxel_size_nm: Sequence[float], levels: int) -> LevelGeometry:
    """Kernels and strides of a U-Net of ``levels`` levels for voxels of ``voxel_size_nm`` (z, y, x).

    On each level an axis has kernel 3, and is halved on the way to the next level, unless its voxel there is at least
    :data:`ANISOTROPY` times the smallest; the rule is the same for the three axes.
    For (50, 9.2, 9.2) nm and 3 levels: kernels 1x3x3, 1x3x3, 3x3x3 and strides 1, (1, 2, 2), (1, 2, 2).

    Raises:
        SynbbError: fewer than three levels, or a voxel size that is not three positive numbers.
    """
    size = [float(value) for value in voxel_size_nm]
    if len(size) != len(("z", "y", "x")) or not all(math.isfinite(value) and value > 0 for value in size):
        raise SynbbError(f"voxel size {tuple(voxel_size_nm)} must be three positive numbers of nm, z, y, x")
    if levels < MIN_LEVELS:
        raise SynbbError(f"levels {levels}: a DynUNet has at least {MIN_LEVELS}")
    kernels, strides = [], [(1, 1, 1)]
    for level in range(levels):
        resolved = [value < ANISOTROPY * min(size) for value in size]
        kernels.append(triple([3 if fine else 1 for fine in resolved]))
        if level < levels - 1:
            strides.append(triple([2 if fine else 1 for fine in resolved]))
            size = [value * step for value, step in zip(size, strides[-1], strict=True)]
    return LevelGeometry(tuple(kernels), tuple(strides))


def build_unet(
    voxel_size_nm: Sequence[float],
    *,
    levels: int = 3,
    filters: Sequence[int] = (24, 48, 96),
    residual: bool = False,
    in_channels: int = 1,
    out_channels: int = 1,
    norm: str = "batch",
    act: str = "relu",
    prior: float | None = None,
) -> DynUNet:
    """Build a U-Net for voxels of ``voxel_size_nm`` (z, y, x), random weights, no deep supervision.

    Input (N, in_channels, Z, Y, X) float, its sizes multiples of :func:`total_stride`; output (N, out_channels, Z, Y,
    X) logits. ``filters`` are the channels of each level, finest first. ``norm`` is ``batch`` (exact blockwise, folds
    into the convolution), ``instance`` or ``group`` (both make a block's output depend on the block). ``act`` is a
    MONAI activation name; it is not applied in place, so that hooks see what a layer was given.

    ``prior`` is the probability that the untrained network gives to every voxel: the bias of its last layer starts at
    log(prior / (1 - prior)). With rare foreground, cross-entropy would spend its first hundreds of steps on finding
    that bias (Lin et al., Focal Loss for Dense Object Detection, 2017, section 4.1). None leaves the bias at 0.

    Raises:
        SynbbError: levels, filters, norm, activation or prior that do not make a network.
    """
    geometry = level_geometry(voxel_size_nm, levels)
    widths = [int(width) for width in filters]
    if len(widths) != levels or min(widths) < 1:
        raise SynbbError(f"filters {widths} must give one positive number of channels for each of the {levels} levels")
    if prior is not None and not 0 < prior < 1:
        raise SynbbError(f"prior {prior} is not a probability between 0 and 1")
    if norm not in NORMS:
        raise SynbbError(f"norm {norm!r} is not one of {', '.join(NORMS)}")
    groups = NORMS[norm].get("num_groups", 1)
    if any(width % groups for width in widths):
        raise SynbbError(f"filters {widths} must be multiples of {groups} for norm {norm!r}")
    try:
        net: DynUNet = DynUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=geometry.kernels,
            strides=geometry.strides,
            upsample_kernel_size=geometry.strides[1:],
            filters=widths,
            norm_name=(norm, dict(NORMS[norm])),
            act_name=act,
            deep_supervision=False,
            res_block=residual,
        )
    except (KeyError, ValueError) as error:  # MONAI's ways to say that it has no such activation
        raise SynbbError(f"act {act!r} is not an activation MONAI knows: {error.args[0]}") from error
    if prior is not None:
        nn.init.constant_(net.output_block.conv.conv.bias, math.log(prior / (1 - prior)))
    return net


def total_stride(net: nn.Module) -> Triple:
    """Input voxels (z, y, x) per voxel of the coarsest level of a ``DynUNet``: its inputs are multiples of this.

    Raises:
        SynbbError: a network whose strides are not known; it has to be given its stride.
    """
    if not isinstance(net, DynUNet):
        raise SynbbError(f"the total stride of a {type(net).__name__} is not known: pass it as stride=(z, y, x)")
    steps = [(step,) * 3 if isinstance(step, int) else triple(step) for step in net.strides]
    return LevelGeometry((), tuple(steps)).total_stride


def parameter_counts(net: nn.Module) -> dict[str, int]:
    """Parameters of each leaf module of ``net`` by its dotted name, shared ones once, and their sum as ``total``."""
    counts: dict[str, int] = {}
    seen: set[int] = set()
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            module = name.rpartition(".")[0]
            counts[module] = counts.get(module, 0) + parameter.numel()
    counts["total"] = sum(counts.values())
    return counts
