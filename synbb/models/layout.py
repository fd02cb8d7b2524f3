"""How weights lie in memory."""

from __future__ import annotations

import torch
from torch import nn

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(net: nn.Module) -> None:
    """Lay convolution weights out with their channels last; what they compute then is too.

    On a CPU a training step of a narrow 3D U-Net takes 0.6 of the time so, and its prediction 0.75; on an H100 a
    training step of the default one takes 0.23 in bf16 and 0.72 in TF32, its prediction 0.36 to 0.63 in bf16 where
    cuDNN may choose its ways, as in prediction (docs/performance.md).
    """
    for parameter in net.parameters():
        if parameter.dim() in _LAYOUTS:
            parameter.data = parameter.data.contiguous(memory_format=_LAYOUTS[parameter.dim()])
