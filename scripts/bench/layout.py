"""A training step and a pass of the network by how its weights lie in memory, and by precision.

    python scripts/bench/layout.py [--device cuda] [--filters 24,48,96] [--patches 4,12,96,96] [--rounds 5]

Contiguous weights against channels last, in float32, TensorFloat-32 (a GPU's) and bf16, taking turns in this process;
medians. Training lays weights out with their channels last on every device, prediction on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from devices import called, medians, sizes
from torch import Tensor, nn

from synbb.models.layout import channels_last
from synbb.models.unet import build_unet

VOXEL_SIZE = (50.0, 9.2, 9.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--filters", type=sizes, default=(24, 48, 96))
    parser.add_argument("--patches", type=sizes, default=(4, 12, 96, 96), metavar="N,Z,Y,X")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    device = options.device
    torch.set_num_threads(options.threads)
    samples, *extent = options.patches
    patches = torch.randn(samples, 1, *extent, device=device)
    sides: dict[tuple[str, str, bool], Callable[[], None]] = {}
    precisions = ["32", "tf32", "bf16"] if device.type == "cuda" else ["32", "bf16"]
    for precision in precisions:
        for layout in ("contiguous", "channels last"):
            torch.manual_seed(0)
            net = build_unet(VOXEL_SIZE, filters=options.filters).to(device)
            if layout == "channels last":
                channels_last(net)
            run = _side(net, patches, precision)
            sides |= {(precision, layout, training): partial(run, training) for training in (True, False)}
    taken = medians(sides, options.rounds, device)
    print(
        f"U-Net {options.filters} on {tuple(patches.shape)}, {called(device)}, "
        f"{options.threads} thread(s), torch {torch.__version__}, ms"
    )
    print(f"{'precision':10s} {'weights':14s} {'training step':>14s} {'pass':>8s}")
    for precision, layout in dict.fromkeys(side[:2] for side in sides):
        step, forward = (taken[precision, layout, training] for training in (True, False))
        print(f"{precision:10s} {layout:14s} {step:14.2f} {forward:8.2f}")


def _side(net: nn.Module, patches: Tensor, precision: str) -> Callable[[bool], None]:
    def run(training: bool) -> None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        net.train(training)
        with (
            torch.set_grad_enabled(training),
            torch.autocast(patches.device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            found = net(patches)
        if training:
            net.zero_grad()
            found.float().square().mean().backward()

    return run


if __name__ == "__main__":
    main()
