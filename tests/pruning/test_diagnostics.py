"""The report: what it says of density, traffic, dead units and the fit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from pruning_networks import Chain, Skip, Tokens, train
from torch.optim import SGD

from synbb.pruning import BudgetedBroadcast, Magnitude, Pruner, report

GIVEN = torch.zeros(1, 1, 8, 8)


def trained(net: torch.nn.Module, pruner: Pruner, steps: int = 6) -> Pruner:
    made = SGD(net.parameters(), lr=0.01)
    pruner.attach(net, GIVEN, optimizer=made)
    train(net, pruner, made, range(steps))
    return pruner


def bb(**options: Any) -> BudgetedBroadcast:
    return BudgetedBroadcast(**{"density": 0.25, "warmup": 1, "ramp": 3, "refresh": 1, "count_every": 1} | options)


def test_densities_and_shares_are_those_of_the_weights():
    torch.manual_seed(0)
    net = Chain(8)
    pruner = trained(net, bb())
    found = report(pruner, net)
    layers = {"second": net.second, "third": net.third}
    assert [each.name for each in found.layers] == list(layers)
    for each in found.layers:
        weight = layers[each.name].weight
        assert each.connections == 64
        assert each.density == int(torch.count_nonzero(weight.abs().sum((2, 3)))) / 64
    every = [p for p in net.parameters() if p.dim() > 1]
    assert found.whole_density == pytest.approx(
        sum(int(torch.count_nonzero(p)) for p in every) / sum(p.numel() for p in every)
    )
    assert found.masked_share == pytest.approx(2 * 64 * 9 / sum(p.numel() for p in every))
    assert (found.density, found.final, found.steps, found.method) == (0.25, True, 6, "bb")


def test_weights_that_the_trace_does_not_see_count_in_the_whole():
    torch.manual_seed(0)
    net = Tokens()
    made = SGD(net.parameters(), lr=0.01)
    pruner = bb().attach(net, torch.zeros(2, 6, 5), optimizer=made, channel_axis=-1)
    train(net, pruner, made, range(6), shape=(2, 6, 5))
    masked = sum(net.get_submodule(name).weight.numel() for name in pruner.masks)
    assert report(pruner, net).masked_share == masked / sum(p.numel() for p in net.parameters() if p.dim() > 1)


def test_traffic_is_on_rate_times_live_audience():
    torch.manual_seed(0)
    net = Skip()
    pruner = trained(net, bb(actuator="fan_out"))
    found = report(pruner, net)
    rates = pruner.activity.rates()
    masks = pruner.masks
    first, down = rates[:3], rates[3:7]
    expected = {
        "down": float((masks["down"].sum((0, 2, 3)).numpy() * first).sum()),
        "deep": float((masks["deep"].sum((0, 2, 3)).numpy() * down).sum()),
        "up": float((masks["up"].sum((0, 2, 3)).numpy()[5:] * down).sum()),
    }
    traffic = {each.name: each.traffic for each in found.layers}
    for name, value in expected.items():
        assert traffic[name] == pytest.approx(value)
    assert found.traffic == pytest.approx(sum(traffic.values()))


def test_dead_units_are_those_that_are_off_unheard_or_deaf():
    torch.manual_seed(0)
    net = Chain(4)
    pruner = trained(net, Magnitude(1.0, warmup=1, ramp=1, count_every=1), 2)
    assert report(pruner, net).dead == 0
    pruner._masks[0][2] = False  # nothing enters unit 2 of the second layer
    pruner._masks[1][:, 1] = False  # nothing leaves its unit 1
    pruner.activity._on[2][3] = 0.0  # unit 3 of the third is never on
    found = report(pruner, net)
    assert found.dead == 3
    assert [each.dead for each in found.layers] == [2, 1]
    assert found.units == 12


def test_units_behind_a_head_that_is_not_masked_are_heard():
    torch.manual_seed(0)
    net = Chain(4)
    pruner = trained(net, Magnitude(1.0, warmup=1, ramp=1, count_every=1), 2)
    pruner._masks[1][:] = False
    assert report(pruner, net).layers[1].dead == 4  # they hear nothing, though the unmasked head hears them
    assert report(pruner, net).dead == 8


@pytest.mark.parametrize("actuator", ["fan_in", "fan_out"])
@pytest.mark.parametrize("scope", ["layer", "network"])
def test_the_fit_recovers_the_law_that_chose_the_masks(actuator, scope):
    torch.manual_seed(0)
    net = Chain(48)
    pruner = trained(net, bb(actuator=actuator, scope=scope, warmup=0, ramp=0), 0)
    rng = np.random.default_rng(0)
    for number, group in enumerate(pruner.wiring.groups):  # on-rates as after training, one layer busier than another
        pruner.activity._on[number] = np.clip(rng.normal(0.35 + 0.1 * number, 0.12, group.size), 0.03, 0.97)
        pruner.activity._total[number] = 1.0
    pruner.step()
    fit = report(pruner, net).fit
    assert fit.r_squared > 0.97
    assert fit.slope == pytest.approx(1 / 0.15, rel=0.1)
    assert fit.unclipped > 60
    assert report(pruner, net).fit_degree == ("fan-in" if actuator == "fan_in" else "fan-out")


def test_plain_values_for_json_with_none_for_what_is_not_known():
    net = Chain(4)
    pruner = trained(net, bb(), 0)
    values = report(pruner, net).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["entropy"] is None
    assert values["fit"]["slope"] is None
    assert values["layers"][0]["on_rate"] is None


def test_reporting_changes_nothing():
    torch.manual_seed(0)
    net = Chain(4)
    pruner = trained(net, bb())
    before = pruner.state_dict()
    assert report(pruner, net).to_dict() == report(pruner, net).to_dict()
    assert pruner.state_dict()["steps"] == before["steps"]
    assert all(torch.equal(pruner.masks[name], mask) for name, mask in before["masks"].items())
