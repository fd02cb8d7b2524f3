"""What is gathered for a refresh: in which steps, and of which passes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from pruning_networks import Chain, mlp, train
from torch import nn
from torch.optim import SGD

from synbb.errors import SynbbError
from synbb.pruning import Magnitude, RigL
from synbb.pruning.rivals import Taylor, Wanda

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


def watched(net: nn.Module) -> tuple[Wanda, SGD]:
    """A pruner that watches inputs in each step and refreshes in the fourth."""
    made = SGD(net.parameters(), lr=0.01)
    return Wanda(0.5, ramp=20, refresh=4, window=4).attach(net, torch.zeros(1, 4), optimizer=made), made


def one_step(net: nn.Module, pruner: Wanda, made: SGD, given: torch.Tensor) -> None:
    made.zero_grad()
    net(given).square().mean().backward()
    made.step()
    pruner.step()


def test_passes_without_gradients_are_no_training_passes():
    net = mlp(4, 8, 8, 2)
    pruner, made = watched(net)
    with torch.no_grad():
        net(torch.randn(16, 4))
    one_step(net, pruner, made, torch.randn(3, 4))
    assert pruner.state_dict()["inputs"]["counts"] == [3]


@pytest.mark.parametrize("kind", [Taylor, RigL])
def test_a_batch_that_the_loop_skips_is_no_evidence(kind):
    """Its gradients are not finite and no step() follows: it must not show in what the next steps add."""
    torch.manual_seed(0)
    net = mlp(4, 8, 8, 2)
    made = SGD(net.parameters(), lr=0.01)
    pruner = kind(0.5, ramp=20, refresh=10, window=10).attach(net, torch.zeros(1, 4), optimizer=made)
    one_step(net, pruner, made, torch.randn(3, 4))
    saved = copy.deepcopy(pruner.state_dict())
    (net(torch.randn(3, 4)).sum() * torch.nan).backward()
    one_step(net, pruner, made, torch.randn(3, 4))
    state = pruner.state_dict()["gradients"]
    assert state["steps"] == 1
    assert all(torch.equal(state[name], saved["gradients"][name]) for name in ("norms", "saliency"))
    one_step(net, pruner, made, torch.randn(3, 4))
    assert pruner.state_dict()["gradients"]["steps"] == 2
    (net(torch.randn(3, 4)).sum() * torch.nan).backward()
    pruner.load_state_dict(saved)
    one_step(net, pruner, made, torch.randn(3, 4))
    assert pruner.state_dict()["gradients"]["steps"] == 2


def test_passes_of_a_copy_are_none_of_the_network():
    net = mlp(4, 8, 8, 2)
    pruner, made = watched(net)
    copy.deepcopy(net)(torch.randn(16, 4)).sum().backward()
    one_step(net, pruner, made, torch.randn(3, 4))
    assert pruner.state_dict()["inputs"]["counts"] == [3]


def test_inputs_of_a_skipped_step_are_forgotten():
    net = mlp(4, 8, 8, 2)
    pruner, made = watched(net)
    one_step(net, pruner, made, torch.randn(3, 4))
    before = pruner.state_dict()["inputs"]["squares"].clone()
    net(torch.full((5, 4), torch.inf)).sum().backward()
    pruner.step()  # the optimiser made none
    assert torch.equal(pruner.state_dict()["inputs"]["squares"], before)
    one_step(net, pruner, made, torch.randn(3, 4))
    state = pruner.state_dict()["inputs"]
    assert state["squares"].isfinite().all()
    assert state["counts"] == [6]


class Called(nn.Module):
    """``second`` is called with a keyword, ``third`` as a module or by its weight alone."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.first, self.second, self.third, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.acts[1](self.second(input=self.acts[0](self.first(x))))
        x = self.third(x) if self.whole else F.linear(x, self.third.weight, self.third.bias)
        return self.head(self.acts[2](x))


def test_inputs_given_by_keyword_are_seen():
    net = Called(whole=True)
    pruner, made = watched(net)
    one_step(net, pruner, made, torch.randn(3, 4))
    assert list(pruner.masks) == ["second", "third"]
    assert pruner.state_dict()["inputs"]["counts"] == [3, 3]


def test_one_layer_whose_inputs_nobody_saw_is_an_error():
    net = Called(whole=True)
    pruner, made = watched(net)
    net.whole = False
    for _ in range(3):
        one_step(net, pruner, made, torch.randn(3, 4))
    with pytest.raises(SynbbError, match="at step 4 no input of masked layer 'third' was seen in the last 4 steps"):
        one_step(net, pruner, made, torch.randn(3, 4))


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
