"""N:M patterns: what they leave, and what contradicts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pruning_networks import Chain, mlp, train
from torch.optim import SGD

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, Magnitude
from synbb.pruning.connections import ConnectionTable
from synbb.pruning.pattern import eligible
from synbb.pruning.wiring import TracedLayer


def test_the_strongest_of_each_block_of_inputs_are_left_and_convolutions_whole():
    layers = [TracedLayer("linear", "linear", 1, 4, 2, 8), TracedLayer("conv", "conv", 1, 3, 1, 3)]
    table = ConnectionTable.build(layers, [(2, 4), (1, 3)], [1, 1])
    scores = np.array([1.0, 2, 4, 3, 5, 5, 0, 1, 9, 8, 7])
    left = eligible(table, scores, layers, (1, 2)).astype(int).tolist()
    assert left == [0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1]  # of equals the first
    assert eligible(table, scores, layers, None).all()


def fit(net, pruner, optimizer):
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.randn(64, 4)).square().mean().backward()
        optimizer.step()
        pruner.step()


def test_two_of_four_holds_and_the_law_cuts_within_it():
    torch.manual_seed(0)
    net = mlp(4, 16, 32, 2)
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = BudgetedBroadcast(0.3, pattern="2:4", warmup=0, ramp=4, refresh=2, gate=0.0, minimum=0, count_every=1)
    pruner.attach(net, torch.zeros(1, 4), optimizer=optimizer)
    fit(net, pruner, optimizer)
    mask = pruner.masks["2"]
    assert int(mask.sum()) == round(0.3 * 512)
    assert int(mask.reshape(32, 4, 4).sum(2).max()) <= 2
    rows = mask.sum(1).numpy()
    assert rows.max() <= 8
    order = np.argsort(pruner.decided_rates[16:48], kind="stable")
    assert rows[order[:8]].mean() > rows[order[-8:]].mean()  # the quiet listen to more


def test_minimum_degrees_of_all_units_are_out_of_reach_at_the_start_whatever_the_pattern_leaves():
    net = mlp(4, 16, 32, 2)
    with pytest.raises(SynbbError, match="16 units take at least 128"):
        BudgetedBroadcast(0.2, actuator="fan_out", minimum=8, pattern="2:4").attach(
            net, torch.zeros(1, 4), optimizer=SGD(net.parameters(), lr=0.1)
        )


def test_a_local_budget_is_no_density_that_a_pattern_could_contradict():
    torch.manual_seed(0)
    net = mlp(4, 16, 32, 2)
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = BudgetedBroadcast(tau=0.8, pattern="2:4", ramp=4, refresh=2, gate=0.0, count_every=1)
    pruner.attach(net, torch.zeros(1, 4), optimizer=optimizer)
    fit(net, pruner, optimizer)
    mask = pruner.masks["2"]
    assert 0.3 < pruner.density() <= 0.5
    assert int(mask.reshape(32, 4, 4).sum(2).max()) <= 2


def test_a_pattern_needs_linear_layers_of_fitting_width():
    net = Chain()
    with pytest.raises(SynbbError, match="for linear layers, and none is masked"):
        Magnitude(0.3, pattern="2:4").attach(net, torch.zeros(1, 1, 8, 8), optimizer=SGD(net.parameters(), lr=0.1))
    odd = mlp(4, 15, 8, 2)
    with pytest.raises(SynbbError, match="has 15 inputs, no multiple of 4"):
        Magnitude(0.3, pattern="2:4").attach(odd, torch.zeros(1, 4), optimizer=SGD(odd.parameters(), lr=0.1))


def test_a_budget_divided_between_layers_is_met_within_a_pattern():
    """What a pattern withholds of small layers goes to the large ones, not nowhere."""
    net = mlp(8, 16, 16, 128, 128, 4)
    optimizer = SGD(net.parameters(), lr=0.1)
    pruner = Magnitude(0.45, pattern="2:4", allocation="erk", ramp=2, refresh=2).attach(
        net, torch.zeros(1, 8), optimizer=optimizer
    )
    train(net, pruner, optimizer, range(3), (8, 8))
    assert pruner.density() == pytest.approx(0.45, abs=0.01)
    assert max(pruner.layer_densities().values()) <= 0.5
