"""What benchmarks that run on a CPU or a GPU share."""

from __future__ import annotations

import torch


def finish(device: torch.device) -> None:
    """Wait for what a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def called(device: torch.device) -> str:
    """What the device is called, for the output."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, as an option has them."""
    return tuple(int(each) for each in text.split(","))
