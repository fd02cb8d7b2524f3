"""A training step of the three families by how AdamW goes over the parameters.

    python scripts/bench/optimizer.py [--device cuda] [--rounds 15] [--threads 1]

torch's own choice (one parameter after another on a CPU, many at a time on a GPU) against `fused`, all in one pass,
taking turns in this process; medians. Training asks for the one pass on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from devices import called, medians
from torch import Tensor, nn

from synbb.models.face_resnet import build_face_resnet
from synbb.models.layout import channels_last
from synbb.models.speech_transformer import build_speech_transformer
from synbb.models.unet import build_unet

WAYS = {"by torch": None, "fused": True}


def families(device: torch.device) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """Small networks of each family, as shipped configs have them, and a batch for each."""
    frames = torch.tensor([300] * 16, device=device)
    return {
        "U-Net, 2 x 8 x 96 x 96": (
            build_unet((50.0, 9.2, 9.2), filters=(8, 16, 32)),
            (torch.randn(2, 1, 8, 96, 96, device=device),),
        ),
        "ResNet-18, 32 x 64 x 64": (
            build_face_resnet(identities=38, depth=18, width=16, embedding=64),
            (torch.randn(32, 1, 64, 64, device=device),),
        ),
        "Transformer, 16 x 3 s": (
            build_speech_transformer(mels=40, tokens=28, width=128, layers=4, heads=4, hidden=512),
            (torch.randn(16, 40, 300, device=device), frames),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{called(options.device)}, {options.threads} thread(s), torch {torch.__version__}, ms a step")
    print(f"{'network':26s} {'parameters':>10s} {'by torch':>10s} {'fused':>8s}")
    for name, (net, inputs) in families(options.device).items():
        channels_last(net.to(options.device).train())
        step = _steps(net, inputs)
        taken = medians({way: partial(step, way) for way in WAYS}, options.rounds, options.device)
        plain, fused = taken.values()
        parameters = sum(each.numel() for each in net.parameters())
        print(f"{name:26s} {parameters:10,d} {plain:10.1f} {fused:8.1f}  {1 - fused / plain:+.1%} saved")


def _steps(net: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[str], None]:
    optimizers = {way: torch.optim.AdamW(net.parameters(), lr=1e-6, fused=fused) for way, fused in WAYS.items()}

    def step(way: str) -> None:
        found = net(*inputs)
        outputs = (found,) if isinstance(found, Tensor) else [each for each in found if each.is_floating_point()]
        loss = sum((each.float().square().mean() for each in outputs), torch.zeros((), device=inputs[0].device))
        optimizers[way].zero_grad()
        loss.backward()
        optimizers[way].step()

    return step


if __name__ == "__main__":
    main()
