"""What each of two processes does; apart from the tests, so that a process starts without pytest and hypothesis."""

from __future__ import annotations

from datetime import timedelta

import torch
from pruning_networks import Chain
from torch import distributed

from synbb.pruning import BudgetedBroadcast


def one_refresh(rank: int, processes: int, folder: str) -> None:
    """Count on this rank's half of a joint batch, choose masks once from the same weights, write them."""
    if processes > 1:
        meet = f"file://{folder}/meet"
        patience = timedelta(seconds=120)
        distributed.init_process_group("gloo", meet, patience, rank=rank, world_size=processes)
    torch.manual_seed(0)
    net = Chain(6)
    for norm in net.norms:
        norm.eval()  # frozen statistics, or two halves would not be one batch
    given = torch.randn(4, 1, 8, 8).tensor_split(processes)[rank]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    pruner = BudgetedBroadcast(0.3, warmup=0, ramp=1, refresh=1, actuator="both")
    pruner.attach(net, torch.zeros(1, 1, 8, 8), optimizer=optimizer)
    net(given).sum().backward()
    optimizer.step()
    pruner.step()
    torch.save((pruner.masks, pruner.state_dict(), pruner.activity.rates()), f"{folder}/{processes}_{rank}.pt")
    if processes > 1:
        distributed.destroy_process_group()


def second_of_two(_: int, folder: str) -> None:
    """Entry of a spawned process."""
    torch.set_num_threads(1)
    one_refresh(1, 2, folder)
