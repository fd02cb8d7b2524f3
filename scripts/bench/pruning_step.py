"""What Budgeted Broadcast adds to the time of a training step.

    python scripts/bench/pruning_step.py [--threads 1] [--rounds 24]

The default U-Net at (50, 9.2, 9.2) nm trains on patches of 4 x 12 x 96 x 96 (batch, z, y, x) of noise, once without
pruning and once with Budgeted Broadcast at the shipped settings: masks chosen anew every 25 steps, on-rates counted
every fourth, positions outside a valid mask left out, the density inside the ramp so that weights are cut. Both run in
this process, taking turns step by step, in an order that alternates, so that another job on the machine slows both.

Steps without and with counting are told apart; the mean over a refresh interval weights their ratios to the unpruned
step beside them by how often each comes, and adds the refresh, timed alone. Two clocks are read: wall time, which is
what a user waits for but is noise on a machine with other jobs, and processor time of this process, which leaves out
the waiting. The time that passes inside the pruner's own code is given as a check on both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synbb.models.layout import channels_last
from synbb.models.unet import build_unet
from synbb.pruning import BudgetedBroadcast, Pruner

VOXEL_SIZE = (50.0, 9.2, 9.2)
PATCHES = (4, 1, 12, 96, 96)
REFRESH, COUNT_EVERY = 25, 4


class Taken(NamedTuple):
    """Seconds on two clocks, or ratios of them."""

    wall: float
    processor: float


class Side:
    """A network with its optimiser, pruned or not."""

    def __init__(self, *, pruned: bool, actuator: str, connection: str) -> None:
        torch.manual_seed(0)
        self.net = build_unet(VOXEL_SIZE)
        channels_last(self.net)  # as training lays weights out on a CPU
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3, weight_decay=1e-2)
        self.pruner: Pruner | None = None
        if pruned:
            self.pruner = BudgetedBroadcast(
                0.25,
                warmup=0,
                ramp=10_000,
                refresh=REFRESH,
                count_every=COUNT_EVERY,
                actuator=actuator,
                connection=connection,
            )
            self.pruner.attach(self.net, torch.zeros(1, 1, 4, 32, 32), optimizer=self.optimizer)

    def step(self, patches: Tensor, labels: Tensor, valid: Tensor) -> Taken:
        """One optimiser step."""
        start = Taken(time.perf_counter(), time.process_time())
        self.optimizer.zero_grad()
        if self.pruner is not None:
            with self.pruner.valid(valid):
                logits = self.net(patches)
        else:
            logits = self.net(patches)
        nn.functional.binary_cross_entropy_with_logits(logits, labels, weight=valid.float()).backward()
        self.optimizer.step()
        if self.pruner is not None:
            self.pruner.step()
        return Taken(time.perf_counter() - start.wall, time.process_time() - start.processor)


class Inside:
    """Processor seconds spent in functions it has wrapped."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed."""

        def timed(*args: Any) -> Any:
            start = time.process_time()
            result = function(*args)
            self.seconds += time.process_time() - start
            return result

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--rounds", type=int, default=24, help="steps of each side")
    parser.add_argument("--actuator", choices=["fan_in", "fan_out", "both"], default="fan_in")
    parser.add_argument("--connection", choices=["kernel", "weight"], default="kernel")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plain = Side(pruned=False, actuator=options.actuator, connection=options.connection)
    pruned = Side(pruned=True, actuator=options.actuator, connection=options.connection)
    pruner = pruned.pruner
    assert pruner is not None
    inside = Inside()
    pruner.activity._see = inside.wrap(pruner.activity._see)
    pruner.step = inside.wrap(pruner.step)

    generator = torch.Generator().manual_seed(0)
    unpruned: list[Taken] = []
    own: dict[str, list[float]] = defaultdict(list)
    ratios: dict[str, list[Taken]] = defaultdict(list)
    for step in range(-2, options.rounds):  # two to warm up
        if step == 0:
            # Masks of the final density from here on: the ramp moves too slowly for a benchmark.
            pruner._refresh(0.25)
        patches = torch.randn(PATCHES, generator=generator)
        labels = (torch.rand(PATCHES, generator=generator) < 0.02).float()
        valid = torch.rand(PATCHES, generator=generator) < 0.9
        kind = _kind(pruner.steps)
        inside.seconds = 0.0
        order = [plain, pruned] if step % 2 else [pruned, plain]
        taken = {side: side.step(patches, labels, valid) for side in order}
        one, other = taken[plain], taken[pruned]
        if step >= 0:
            unpruned.append(one)
            own[kind].append(inside.seconds)
            ratios[kind].append(Taken(other.wall / one.wall, other.processor / one.processor))
    refresh = statistics.median(_refresh_seconds(pruner) for _ in range(5))

    parameters = sum(parameter.numel() for parameter in plain.net.parameters())
    print(f"default U-Net, {parameters:,} parameters, patches {PATCHES}, {options.threads} thread(s)")
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(
        f"Budgeted Broadcast, {options.actuator}, {options.connection} connections, density {pruner.density():.4f}, "
        f"refresh {REFRESH}, count_every {COUNT_EVERY}, with a valid mask; one refresh {refresh * 1e3:.1f} ms"
    )
    for clock in Taken._fields:
        base = statistics.median(getattr(each, clock) for each in unpruned)
        found = {k: statistics.median(getattr(each, clock) for each in v) for k, v in ratios.items()}
        print(
            f"{clock} time: unpruned {base * 1e3:.0f} ms ({len(unpruned)} steps); pruned / unpruned "
            f"{found['plain']:.4f} without counting ({len(ratios['plain'])}), {found['counting']:.4f} with "
            f"({len(ratios['counting'])}); overhead {_mean_step(found) - 1 + refresh / REFRESH / base:+.2%}"
        )
    spent = {kind: statistics.median(each) for kind, each in own.items()}
    base = statistics.median(each.processor for each in unpruned)
    print(
        f"inside the pruner: {spent['plain'] * 1e3:.1f} ms without counting, {spent['counting'] * 1e3:.1f} ms with; "
        f"{_mean_step(spent) / base + refresh / REFRESH / base:+.2%} of an unpruned step"
    )


def _mean_step(found: dict[str, float]) -> float:
    return found["plain"] + (found["counting"] - found["plain"]) / COUNT_EVERY


def _refresh_seconds(pruner: Pruner) -> float:
    start = time.process_time()
    pruner._refresh(0.25)
    return time.process_time() - start


def _kind(steps: int) -> str:
    """Kind of the step that comes after ``steps`` steps; refreshes are timed alone and left out."""
    if (steps + 1) % REFRESH == 0:
        return "refreshing"
    return "counting" if steps % COUNT_EVERY == 0 else "plain"


if __name__ == "__main__":
    main()
