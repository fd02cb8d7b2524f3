"""What is gathered for a refresh: in which steps, and of which passes."""

from __future__ import annotations

import copy

import torch
from pruning_networks import Chain, train
from torch.optim import SGD

from synbb.pruning import Magnitude, RigL
from synbb.pruning.rivals import Wanda

GIVEN = torch.zeros(1, 1, 8, 8)


def test_gradients_are_gathered_in_the_steps_before_a_refresh_and_forgotten_after_it():
    torch.manual_seed(0)
    net = Chain(norm=False)
    made = SGD(net.parameters(), lr=0.01)
    pruner = RigL(0.5, ramp=20, refresh=5, window=2).attach(net, GIVEN, optimizer=made)
    gathered = []
    for step in range(10):
        train(net, pruner, made, range(step, step + 1))
        gathered.append(pruner.state_dict()["gradients"]["steps"])
    assert gathered == [0, 0, 0, 1, 0] * 2  # the refresh in step 5 has seen steps 4 and 5


def test_inputs_are_gathered_in_the_same_steps():
    torch.manual_seed(0)
    net = Chain(norm=False)
    made = SGD(net.parameters(), lr=0.01)
    pruner = Wanda(0.5, ramp=20, refresh=5, window=3).attach(net, GIVEN, optimizer=made)
    gathered = []
    for step in range(5):
        train(net, pruner, made, range(step, step + 1))
        gathered.append(pruner.state_dict()["inputs"]["counts"][0])
    assert gathered == [0, 0, 128, 256, 0]  # 2 samples of 8 x 8 positions a step


def test_a_method_that_needs_none_gathers_none():
    net = Chain(norm=False)
    pruner = Magnitude(0.5).attach(net, GIVEN, optimizer=SGD(net.parameters(), lr=0.01))
    state = pruner.state_dict()
    assert state["gradients"] is None
    assert state["inputs"] is None


def test_accumulation_shows_gradient_rivals_the_sum_of_the_passes():
    torch.manual_seed(0)
    net = Chain(norm=False)
    whole = copy.deepcopy(net)
    made, other = SGD(net.parameters(), lr=0.0), SGD(whole.parameters(), lr=0.0)
    pruner = RigL(0.5, ramp=10, refresh=1, window=1).attach(net, GIVEN, optimizer=made)
    at_once = RigL(0.5, ramp=10, refresh=1, window=1).attach(whole, GIVEN, optimizer=other)
    given = torch.randn(4, 1, 8, 8)
    for part in given.split(1):
        net(part).sum().backward()
    made.step()
    pruner.step()
    whole(given).sum().backward()
    other.step()
    at_once.step()
    assert (pruner.kept() == at_once.kept()).all()
