"""A pruner holds one model, from attaching to detaching, and says so where somebody is mistaken about that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, Magnitude, Pruner, Waypoints, apply_masks, report
from synbb.pruning.rivals import ActivityOnly, Apoz, Taylor, Wanda
from synbb.pruning.structured import UnitBroadcast


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 3))


def attached(net: nn.Module, optimizer: SGD, density: float = 0.5) -> Pruner:
    return Magnitude(density, ramp=4, refresh=2).attach(net, torch.zeros(1, 6), optimizer=optimizer)


def train(net: nn.Module, optimizer: SGD, pruner: Pruner, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
        pruner.step()


def test_one_pruner_at_a_time_masks_a_model() -> None:
    net = network()
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = attached(net, optimizer)
    with pytest.raises(SynbbError, match=r"layer '2' is masked by another pruner; detach\(\) that one first"):
        attached(net, optimizer)
    twin = copy.deepcopy(net)
    attached(twin, SGD(twin.parameters(), lr=0.1))  # a copy is another model
    pruner.detach()
    again = attached(net, optimizer, density=0.25)
    train(net, optimizer, again, 4)
    assert int((net[2].weight != 0).sum()) == 80


def test_a_pruner_that_was_detached_takes_no_step_and_still_tells() -> None:
    net = network()
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = attached(net, optimizer)
    train(net, optimizer, pruner, 4)
    pruner.detach()
    assert pruner.density() == 0.5
    with pytest.raises(SynbbError, match=r"was detached; make a new one, and begin_with\(\) its masks"):
        pruner.step()


def test_the_optimizer_of_another_model_is_refused_and_one_that_idles_is_told() -> None:
    net, other = network(), network()
    with pytest.raises(SynbbError, match=r"holds none of the 1 masked weights \(2 \.\.\.\): give the one that trains"):
        attached(net, SGD(other.parameters(), lr=0.1))
    pruner = attached(net, SGD(net.parameters(), lr=0.1))
    unknown = SGD(net.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"step\(\) was called 20 times and the optimizer given to attach\(\) took no"):
        train(net, unknown, pruner, 25)
    assert pruner.steps == 0


def test_weights_that_train_later_are_held_from_then_on() -> None:
    net = network()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    net[2].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"1 of 1 masked layers do not train \(2 \.\.\.\)"):
        pruner = attached(net, optimizer)
    train(net, optimizer, pruner, 4)
    net[2].weight.requires_grad_(True)
    before = net[2].weight.clone()
    train(net, optimizer, pruner, 2)
    cut = ~pruner.masks["2"]
    assert int(cut.sum()) == 160
    assert not net[2].weight[cut].any()
    assert not net[2].weight.grad[cut].any(), "cut weights get no gradient"
    assert (net[2].weight != before)[~cut].float().mean() > 0.5, "the others do"


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.step(),
        lambda p: p.steps,
        lambda p: p.final,
        lambda p: p.masks,
        lambda p: p.density(),
        lambda p: p.kept(),
        lambda p: p.state_dict(),
        lambda p: p.load_state_dict({}),
        lambda p: p.begin_with({}),
        lambda p: p.follow(network()),
        lambda p: p.valid(torch.ones(1, 1)).__enter__(),
        lambda p: p.detach(),
    ],
)
def test_whatever_needs_a_model_says_so_before_there_is_one(call: Callable[[Pruner], Any]) -> None:
    with pytest.raises(SynbbError, match=r"attach the pruner to a model first: pruner\.attach"):
        call(Magnitude(0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Magnitude("0.3"), r"density '0\.3' must be a number in \(0, 1\]"),
        (lambda: Magnitude(None), "density None must be a number"),
        (lambda: Magnitude(0.1, warmup=4.5, ramp=20), r"warmup of 4\.5 steps must be a whole number; round it"),
        (lambda: Magnitude(0.1, ramp=16.5), r"ramp of 16\.5 steps must be a whole number"),
        (lambda: Magnitude(0.1, refresh=2.5), r"refresh of 2\.5 steps must be a whole number of at least 1"),
        (lambda: Magnitude(0.3, schedule=[(0, 1), (10, 0.3)]), "Waypoints"),
        (lambda: Magnitude(0.3, exclude="fc*"), r"exclude 'fc\*' must be a list of patterns: \['fc\*'\]"),
        (lambda: Magnitude(0.3).attach(network(), None), "must be a tensor or a sequence .* not NoneType"),
    ],
)
def test_arguments_that_make_no_sense(make: Callable[[], Pruner], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        make()


def test_states_and_masks_of_something_else() -> None:
    nets = [network(), network()]
    pruners = [attached(net, SGD(net.parameters(), lr=0.1), d) for net, d in zip(nets, (0.5, 0.25), strict=True)]
    with pytest.raises(SynbbError, match=r"pruner state of density 0\.5 does not fit density 0\.25"):
        pruners[1].load_state_dict(pruners[0].state_dict())
    with pytest.raises(SynbbError, match="this is no state of a pruner"):
        pruners[1].load_state_dict({})
    wrong: dict[str, Tensor] = {"2": torch.ones(3, 3, dtype=torch.bool)}
    with pytest.raises(SynbbError, match=r"that of '2' has shape \(3, 3\), and the weight \(20, 16\)"):
        apply_masks(nets[0], wrong)


@pytest.mark.parametrize("kind", [Apoz, ActivityOnly, UnitBroadcast])
def test_every_method_that_reads_on_rates_refuses_to_choose_without_them(kind: Callable[..., Pruner]) -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU())
    net.append(nn.Linear(20, 3))
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = kind(0.5, ramp=2, refresh=2).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    net.eval()  # nothing is counted
    with pytest.raises(SynbbError, match=r"pruning needs on-rates of units that has none after step 2"):
        train(net, optimizer, pruner, 4)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Wanda(0.5, budget="traffic"), r"budget 'traffic' is not for wanda"),
        (lambda: Magnitude(0.5, seed=-1), r"pruning seed -1 must be at least 0"),
        (lambda: Waypoints((0, 0.5), 10), r"schedule \(0, 0\.5\) must hold \(step, density\) points"),
        (lambda: Magnitude(0.5).spread(), r"attach the pruner to a model first"),
        (lambda: report(Magnitude(0.5), network()), r"a report is made of a pruner that was attached"),
        (lambda: attached(network(), object()), r"optimizer must be one of torch\.optim, not object"),
    ],
)
def test_mistakes_that_were_tracebacks(made: Callable[[], Any], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        made()


def test_a_law_that_never_acts_is_told_of() -> None:
    with pytest.warns(UserWarning, match=r"from_start with a ramp of 0 makes masks once"):
        BudgetedBroadcast(0.5, from_start=True)


def test_gradients_of_gradients_pass_a_mask() -> None:
    net = network()
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = attached(net, optimizer)
    train(net, optimizer, pruner, 4)
    loss = net(torch.randn(8, 6)).square().mean()
    (gradient,) = torch.autograd.grad(loss, net[2].weight, create_graph=True)
    assert not gradient[~pruner.masks["2"]].any()
    (second,) = torch.autograd.grad(gradient.square().sum(), net[0].weight)
    assert second.any()


def test_cut_connections_come_back_by_the_same_score_where_a_budget_rises() -> None:
    torch.manual_seed(0)
    net = network()
    optimizer = SGD(net.parameters(), lr=0.1)
    schedule = Waypoints(((2, 0.1), (4, 0.5)), 2)
    pruner = Taylor(0.5, schedule=schedule).attach(net, torch.zeros(1, 6), optimizer=optimizer)
    train(net, optimizer, pruner, 2)
    before = pruner.kept()
    train(net, optimizer, pruner, 2)
    back = np.flatnonzero(pruner.kept() & ~before)
    assert before[pruner.kept()].sum() == before.sum(), "what was live stays"
    assert back.max() > 0.9 * len(before), "not the first ones by index"


def test_a_state_of_a_pruner_that_gathered_less_is_taken() -> None:
    states = []
    for regrowth in ("natural", "gradient"):
        net = network()
        optimizer = SGD(net.parameters(), lr=0.1)
        pruner = BudgetedBroadcast(0.5, ramp=8, refresh=4, gate=0, regrowth=regrowth)
        pruner.attach(net, torch.zeros(1, 6), optimizer=optimizer)
        if states:
            pruner.load_state_dict(states[0])
        train(net, optimizer, pruner, 4)
        states.append(pruner.state_dict())
    assert [state["steps"] for state in states] == [4, 8]
    assert pruner.density() == 0.5
