"""What each of two processes does; apart from the tests, so that a process starts without pytest and hypothesis."""

from __future__ import annotations

from datetime import timedelta

import torch
from pruning_networks import Chain
from torch import distributed

from synbb.pruning import BudgetedBroadcast, Pruner, RigL
from synbb.pruning.rivals import Taylor, Wanda

ONCE = {"warmup": 0, "ramp": 1, "refresh": 1}
PRUNERS = {
    "sign": lambda: BudgetedBroadcast(0.3, actuator="both", gate=0.0, **ONCE),
    "treves_rolls": lambda: BudgetedBroadcast(0.3, statistic="treves_rolls", gate=0.0, **ONCE),
    "gradients": lambda: RigL(0.3, window=1, **ONCE),
    "saliency": lambda: Taylor(0.3, window=1, **ONCE),
    "inputs": lambda: Wanda(0.3, window=1, **ONCE),
}
"""One method for each kind of evidence that processes must add up."""


def one_refresh(rank: int, processes: int, folder: str) -> None:
    """See this rank's half of a joint batch, choose masks once from the same weights, write them, for each method."""
    if processes > 1:
        meet = f"file://{folder}/meet"
        patience = timedelta(seconds=120)
        distributed.init_process_group("gloo", meet, patience, rank=rank, world_size=processes)
    found = {name: _refreshed(make(), rank, processes) for name, make in PRUNERS.items()}
    torch.save(found, f"{folder}/{processes}_{rank}.pt")
    if processes > 1:
        distributed.destroy_process_group()


def _refreshed(pruner: Pruner, rank: int, processes: int) -> tuple[object, ...]:
    torch.manual_seed(0)
    net = Chain(6)
    for norm in net.norms:
        norm.eval()  # frozen statistics, or two halves would not be one batch
    given = torch.randn(4, 1, 8, 8).tensor_split(processes)[rank]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    pruner.attach(net, torch.zeros(1, 1, 8, 8), optimizer=optimizer)
    net(given).square().mean().backward()  # the mean over the processes is the mean over the joint batch
    optimizer.step()
    pruner.step()
    return pruner.masks, pruner.state_dict(), pruner.activity.rates()


def second_of_two(_: int, folder: str) -> None:
    """Entry of a spawned process."""
    torch.set_num_threads(1)
    one_refresh(1, 2, folder)
