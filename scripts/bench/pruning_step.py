"""What Budgeted Broadcast adds to the time of a training step.

    python scripts/bench/pruning_step.py [--threads 1] [--rounds 24] [--device cuda] [--precision bf16]

The default U-Net at (50, 9.2, 9.2) nm trains on noise, --patches 4,12,96,96 (batch, z, y, x), once without pruning and
once with Budgeted Broadcast at the shipped settings: masks chosen anew every 25 steps, on-rates counted every fourth,
positions outside a valid mask left out, the density inside the ramp so that weights are cut. Both run in this process,
taking turns step by step, in an order that alternates, so that another job on the machine slows both.

Steps without and with counting are told apart; the mean over a refresh interval weights their ratios to the unpruned
step beside them by how often each comes, and adds the refresh, timed alone. Two clocks are read: wall time, which is
what a user waits for but is noise on a machine with other jobs, and processor time of this process, which leaves out
the waiting. The time that passes inside the pruner's own code is given as a check on both. On a GPU every step ends
when the device has done its work, as training's do, which look at each loss; processor time is then that of the host
alone, and so is the pruner's own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from devices import called, finish, sizes
from torch import Tensor, nn

from synbb.models.layout import channels_last
from synbb.models.unet import build_unet
from synbb.pruning import BudgetedBroadcast, Pruner

VOXEL_SIZE = (50.0, 9.2, 9.2)
REFRESH, COUNT_EVERY = 25, 4


class Taken(NamedTuple):
    """Seconds on two clocks, or ratios of them."""

    wall: float
    processor: float


class Side:
    """A network with its optimiser, pruned or not."""

    def __init__(self, device: torch.device, precision: str, *, pruned: bool, actuator: str, connection: str) -> None:
        torch.manual_seed(0)
        self.device, self.precision = device, precision
        self.net = build_unet(VOXEL_SIZE).to(device)
        channels_last(self.net)  # as training lays weights out
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
            self.pruner.attach(self.net, torch.zeros(1, 1, 4, 32, 32, device=device), optimizer=self.optimizer)

    def step(self, patches: Tensor, labels: Tensor, valid: Tensor) -> Taken:
        """One optimiser step."""
        start = Taken(time.perf_counter(), time.process_time())
        self.optimizer.zero_grad()
        seen = nullcontext() if self.pruner is None else self.pruner.valid(valid)
        with seen, torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.net(patches)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, weight=valid.float())
        loss.backward()
        self.optimizer.step()
        if self.pruner is not None:
            self.pruner.step()
        finish(self.device)
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
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--patches", type=sizes, default=(4, 12, 96, 96), metavar="N,Z,Y,X")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, (samples, *extent) = options.device, options.patches
    shape = (samples, 1, *extent)
    chosen = {"actuator": options.actuator, "connection": options.connection}
    plain = Side(device, options.precision, pruned=False, **chosen)
    pruned = Side(device, options.precision, pruned=True, **chosen)
    pruner = pruned.pruner
    assert pruner is not None
    inside = Inside()
    pruner.activity._see = inside.wrap(pruner.activity._see)
    pruner.step = inside.wrap(pruner.step)

    generator = torch.Generator(device).manual_seed(0)
    unpruned: list[Taken] = []
    own: dict[str, list[float]] = defaultdict(list)
    ratios: dict[str, list[Taken]] = defaultdict(list)
    for step in range(-2, options.rounds):  # two to warm up
        if step == 0:
            # Masks of the final density from here on: the ramp moves too slowly for a benchmark.
            pruner._refresh(0.25)
        patches = torch.randn(shape, generator=generator, device=device)
        labels = (torch.rand(shape, generator=generator, device=device) < 0.02).float()
        valid = torch.rand(shape, generator=generator, device=device) < 0.9
        finish(device)
        kind = _kind(pruner.steps)
        inside.seconds = 0.0
        order = [plain, pruned] if step % 2 else [pruned, plain]
        taken = {side: side.step(patches, labels, valid) for side in order}
        one, other = taken[plain], taken[pruned]
        if step >= 0:
            unpruned.append(one)
            own[kind].append(inside.seconds)
            ratios[kind].append(Taken(other.wall / one.wall, other.processor / one.processor))
    refreshes = [_refresh(pruner, device) for _ in range(5)]
    refresh = Taken(*(statistics.median(each) for each in zip(*refreshes, strict=True)))

    parameters = sum(parameter.numel() for parameter in plain.net.parameters())
    where = f"{called(device)}, {options.threads} thread(s)"
    print(f"default U-Net, {parameters:,} parameters, patches {shape}, precision {options.precision}, {where}")
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(
        f"Budgeted Broadcast, {options.actuator}, {options.connection} connections, density {pruner.density():.4f}, "
        f"refresh {REFRESH}, count_every {COUNT_EVERY}, with a valid mask; one refresh {refresh.wall * 1e3:.1f} ms"
    )
    for clock in Taken._fields:
        base = statistics.median(getattr(each, clock) for each in unpruned)
        found = {k: statistics.median(getattr(each, clock) for each in v) for k, v in ratios.items()}
        print(
            f"{clock} time: unpruned {base * 1e3:.3g} ms ({len(unpruned)} steps); pruned / unpruned "
            f"{found['plain']:.4f} without counting ({len(ratios['plain'])}), {found['counting']:.4f} with "
            f"({len(ratios['counting'])}); overhead "
            f"{_mean_step(found) - 1 + getattr(refresh, clock) / REFRESH / base:+.2%}"
        )
    spent = {kind: statistics.median(each) for kind, each in own.items()}
    base = statistics.median(each.processor for each in unpruned)
    print(
        f"inside the pruner: {spent['plain'] * 1e3:.1f} ms without counting, {spent['counting'] * 1e3:.1f} ms with; "
        f"{_mean_step(spent) / base + refresh.processor / REFRESH / base:+.2%} of an unpruned step"
    )


def _mean_step(found: dict[str, float]) -> float:
    return found["plain"] + (found["counting"] - found["plain"]) / COUNT_EVERY


def _refresh(pruner: Pruner, device: torch.device) -> Taken:
    start = Taken(time.perf_counter(), time.process_time())
    pruner._refresh(0.25)
    finish(device)
    return Taken(time.perf_counter() - start.wall, time.process_time() - start.processor)


def _kind(steps: int) -> str:
    """Kind of the step that comes after ``steps`` steps; refreshes are timed alone and left out."""
    if (steps + 1) % REFRESH == 0:
        return "refreshing"
    return "counting" if steps % COUNT_EVERY == 0 else "plain"


if __name__ == "__main__":
    main()
