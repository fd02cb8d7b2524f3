"""What each of two processes does; apart from the tests, so that a process starts without pytest and hypothesis."""

from __future__ import annotations

from datetime import timedelta

import torch
from pruning_networks import Chain, mlp
from torch import distributed, nn

from synbb.errors import SynbbError
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
    windows = {kind.__name__: _window(kind, rank, processes) for kind in (Taylor, Wanda)}
    if processes > 1:
        torch.save({**windows, "branches": _branches(rank), "differing": _differing(rank)}, f"{folder}/more_{rank}.pt")
    else:
        torch.save(windows, f"{folder}/more_alone.pt")
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


def _window(kind: type[Pruner], rank: int, processes: int) -> dict[str, object]:
    """State amid a window of evidence."""
    torch.manual_seed(0)
    net = mlp(6, 12, 12, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    pruner = kind(0.3, ramp=4, refresh=4).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    for _ in range(2):
        given = torch.cat([torch.randn(4, 6), 6 * torch.randn(4, 6)]).tensor_split(processes)[rank]
        optimizer.zero_grad()
        net(given).square().mean().backward()
        optimizer.step()
        pruner.step()
    return pruner.state_dict()


class Branches(nn.Module):
    """Two branches of which each process takes its own."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.act = nn.Linear(6, 12), nn.ReLU()
        self.branches = nn.ModuleList([nn.Sequential(nn.Linear(12, n), nn.ReLU(), nn.Linear(n, 2)) for n in (12, 18)])
        self.taken = [0, 1]

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(N, 6) to (N, 2)."""
        hidden = self.act(self.before(given))
        return torch.stack([self.branches[number](hidden) for number in self.taken]).sum(0)


def _branches(rank: int) -> dict[str, object]:
    torch.manual_seed(0)
    net = Branches()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    pruner = Taylor(0.3, ramp=4, refresh=4).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    net.taken = [rank]
    net(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()
    pruner.step()
    return pruner.state_dict()["gradients"]


def _differing(rank: int) -> str:
    torch.manual_seed(rank)
    net = mlp(6, 12, 12, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    try:
        BudgetedBroadcast(0.3, from_start=True, ramp=4).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    except SynbbError as error:
        return str(error)
    return ""


def second_of_two(_: int, folder: str) -> None:
    """Entry of a spawned process."""
    torch.set_num_threads(1)
    one_refresh(1, 2, folder)
