"""What benchmarks that run on a CPU or a GPU share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)
WARM_UP = 2  # turns that are not counted


def finish(device: torch.device) -> None:
    """Wait for what a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def medians(sides: Mapping[K, Callable[[], None]], rounds: int, device: torch.device) -> dict[K, float]:
    """Median times of calls that take turns, ms."""
    taken: dict[K, list[float]] = {side: [] for side in sides}
    for turn in range(-WARM_UP, rounds):
        for side, run in sides.items():
            finish(device)
            began = time.perf_counter()
            run()
            finish(device)
            if turn >= 0:
                taken[side].append(time.perf_counter() - began)
    return {side: statistics.median(each) * 1e3 for side, each in taken.items()}


def called(device: torch.device) -> str:
    """What the device is called, for the output."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, as an option has them."""
    return tuple(int(each) for each in text.split(","))
