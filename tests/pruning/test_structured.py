"""Whole units: exact sets by hand, budgets, what may not be silenced, and that silencing is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pruning_networks import Chain, Residual, train
from torch import nn
from torch.optim import SGD

from synbb.errors import SynbbError
from synbb.pruning import Pruner
from synbb.pruning.gathering import neutral
from synbb.pruning.methods import UNITS, find_method
from synbb.pruning.structured import UnitBroadcast, UnitNorm, UnitUtility

GIVEN = torch.zeros(1, 1, 8, 8)


def attached(kind: type[Pruner] = UnitNorm, density: float = 0.4, width: int = 8, **options: Any) -> Pruner:
    torch.manual_seed(0)
    net = Chain(width)
    made = SGD(net.parameters(), lr=0.05)
    defaults: dict[str, Any] = {"warmup": 1, "ramp": 6, "refresh": 2, "count_every": 1, "gate": 0.0}
    return kind(density, **(defaults | options)).attach(net, GIVEN, optimizer=made)


def alive(pruner: Pruner) -> np.ndarray:
    """Units with a live connection on either side."""
    kept, units = pruner.kept(), pruner.wiring.unit_count
    return (pruner.table.fan_out(kept, units) + pruner.table.fan_in(kept, units)) > 0


@pytest.mark.parametrize("method", UNITS)
@pytest.mark.parametrize("scope", ["layer", "network"])
def test_a_silenced_unit_keeps_no_connection_and_the_budget_holds_to_one_unit(method, scope):
    kind, _ = find_method(method, units=True)
    pruner = attached(kind, scope=scope, width=12)
    train(pruner.model, pruner, pruner._optimizer, range(8))
    kept, units = pruner.kept(), pruner.wiring.unit_count
    everything = np.ones(pruner.table.count, dtype=bool)
    for degree, dense in (
        (pruner.table.fan_out(kept, units), pruner.table.fan_out(everything, units)),
        (pruner.table.fan_in(kept, units), pruner.table.fan_in(everything, units)),
    ):
        dead = (dense > 0) & (degree == 0)
        assert (alive(pruner)[dead] == 0).all()  # no unit is cut on one side alone
    assert pruner.density() <= 0.4
    largest = 2 * 12 / pruner.table.count * 2  # a unit's row and column, in each of two groups
    assert pruner.density() > 0.4 - largest


def test_units_that_feed_the_head_stay_and_every_group_keeps_one():
    pruner = attached(density=0.1, least_units=1)
    train(pruner.model, pruner, pruner._optimizer, range(8))
    there = alive(pruner)
    for group in pruner.wiring.groups:
        own = there[group.first : group.first + group.size]
        assert own.any()
        if group.name == "third":
            assert own.all()
    with pytest.raises(SynbbError, match="out of reach for whole units: 8 in each group"):
        attached(density=0.4, least_units=8)


def test_the_busiest_units_go_first_and_utility_weighs_them_by_weight():
    pruner = attached(UnitBroadcast, density=0.5)
    evidence = neutral(pruner.table, pruner.wiring.unit_count, seed=0)
    rates = np.linspace(0.1, 0.9, pruner.wiring.unit_count)
    seen = type(evidence)(**{**evidence.__dict__, "rates": rates})
    scores = pruner.unit_scores(seen)
    assert (np.diff(scores) < 0).all()
    assert scores == pytest.approx(np.log((1 - rates) / rates))
    utility = attached(UnitUtility, density=0.5)
    weights = np.ones(utility.table.count)
    unit = utility.table.out_pairs[1]
    weights[utility.table.out_pairs[0][unit == 0]] = 3.0  # the outgoing weights of unit 0
    found = utility.unit_scores(type(evidence)(**{**evidence.__dict__, "rates": rates, "weights": weights}))
    assert found[0] / found[1] == pytest.approx(3.0 * rates[1] / rates[0])


def test_removing_silenced_units_by_hand_changes_nothing():
    pruner = attached(UnitBroadcast, density=0.3)
    train(pruner.model, pruner, pruner._optimizer, range(8))
    net = pruner.model.eval()
    there = alive(pruner)
    groups = [there[g.first : g.first + g.size] for g in pruner.wiring.groups]
    assert not groups[0].all()
    small = Chain(8).eval()
    first, second = (np.flatnonzero(each) for each in groups[:2])
    small.first = nn.Conv2d(1, len(first), 3, padding=1)
    small.second = nn.Conv2d(len(first), len(second), 3, padding=1, bias=False)
    small.third = nn.Conv2d(len(second), 8, 3, padding=1)
    small.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (len(first), len(second), 8))
    state, old = small.state_dict(), net.state_dict()
    for name in state:
        value = old[name]
        layer, _, kind = name.rpartition(".")
        out = {"first": first, "second": second, "norms.0": first, "norms.1": second}.get(layer)
        if out is not None and value.dim() > 0:
            value = value[torch.from_numpy(out)]
        if layer in ("second", "third") and kind == "weight":
            value = value[:, torch.from_numpy(first if layer == "second" else second)]
        state[name] = value
    small.load_state_dict(state)
    small.eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(small(x), net(x), atol=1e-6)


def test_channels_that_sum_units_live_while_one_of_them_does():
    torch.manual_seed(0)
    net = Residual(width=8)
    made = SGD(net.parameters(), lr=0.05)
    pruner = UnitNorm(0.5, warmup=0, ramp=4, refresh=2).attach(net, GIVEN, optimizer=made)
    train(net, pruner, made, range(5))
    assert 0.2 < pruner.density() <= 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"connection": "weight"}, "connection 'weight' is not for them"),
        ({"budget": "traffic"}, "budget 'traffic' is not for them"),
        ({"allocation": "erk"}, "allocation 'erk' is not for them"),
        ({"least_units": 0}, "least_units of 0"),
        ({"pattern": "2:4"}, "pattern is for single weights"),
    ],
)
def test_options_that_are_not_for_whole_units(options, message):
    with pytest.raises(SynbbError, match=message):
        attached(**options)


def test_silenced_units_stay_so_while_the_budget_falls():
    """The constant that a silenced unit is says nothing of its traffic, so that it is no reason to bring it back."""
    torch.manual_seed(0)
    hidden = [part for _ in range(2) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), *hidden, nn.Linear(64, 4))
    for norm in (3, 6):
        nn.init.normal_(net[norm].bias, std=0.5)
    made = SGD(net.parameters(), lr=0.01)
    pruner = UnitBroadcast(0.25, warmup=4, ramp=40, refresh=4, gate=0.0, count_every=1)
    pruner.attach(net, torch.zeros(2, 8), optimizer=made)
    counts = []
    for step in range(44):
        made.zero_grad()
        net(torch.randn(64, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        made.step()
        before = alive(pruner)
        if pruner.step():
            counts.append(int((alive(pruner) & ~before).sum()))
    assert pruner.final
    assert len(counts) > 5
    assert sum(counts) <= 4  # on-rates of those that live may still change places; once it was 10 at a refresh

    other = UnitBroadcast(0.25, warmup=4, ramp=40, refresh=4, gate=0.0, count_every=1)
    pruner_state = pruner.state_dict()
    pruner.detach()
    other.attach(net, torch.zeros(2, 8), optimizer=made)
    other.load_state_dict(pruner_state)
    assert np.array_equal(other._last_rates, pruner._last_rates)


class Shown(nn.Module):
    """Returns features that further layers read, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 6) to features (N, 16) and (N, 2)."""
        features = torch.relu(self.b(torch.relu(self.a(given))))
        return features, self.d(torch.relu(self.c(features)))


def test_units_that_leave_the_network_stay():
    torch.manual_seed(0)
    net = Shown()
    made = SGD(net.parameters(), lr=0.0)
    pruner = UnitNorm(0.7, ramp=1, refresh=1).attach(net, torch.zeros(1, 6), optimizer=made)
    names = {group.name: group for group in pruner.wiring.groups}
    features = names["b"]
    assert pruner.wiring.shown == set(range(features.first, features.first + features.size))
    net(torch.randn(4, 6))[1].sum().backward()
    made.step()
    pruner.step()
    assert alive(pruner)[features.first : features.first + features.size].all()
    assert not alive(pruner).all()
