"""The report: what it says of density, multiply-accumulates, traffic, dead units, the fit and held-out data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from pruning_networks import Chain, Skip, Tokens, train
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, Magnitude, Pruner, report, trace
from synbb.pruning.diagnostics import report_dense
from synbb.pruning.probe import probe

GIVEN = torch.zeros(1, 1, 8, 8)


def trained(net: torch.nn.Module, pruner: Pruner, steps: int = 6) -> Pruner:
    made = SGD(net.parameters(), lr=0.01)
    pruner.attach(net, GIVEN, optimizer=made)
    train(net, pruner, made, range(steps))
    return pruner


def bb(**options: Any) -> BudgetedBroadcast:
    return BudgetedBroadcast(
        **{"density": 0.25, "warmup": 1, "ramp": 3, "refresh": 1, "count_every": 1, "gate": 0.0} | options
    )


def test_densities_and_shares_are_those_of_the_weights():
    torch.manual_seed(0)
    net = Chain(8)
    pruner = trained(net, bb())
    found = report(pruner, net)
    layers = {"second": net.second, "third": net.third}
    assert [(each.name, each.masked) for each in found.layers] == [
        ("first", False),
        ("second", True),
        ("third", True),
        ("head", False),
    ]
    assert [(each.connections, each.density) for each in found.layers if not each.masked] == [(8, 1.0), (8, 1.0)]
    for each in found.layers[1:3]:
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
        "first": 0.0,
        "back": float((masks["back"].sum((1, 2, 3)).numpy() * rates[7:13]).sum()),
        "head": 2 * float(rates[13:].sum()),  # not masked: both outputs read every unit
    }
    traffic = {each.name: each.traffic for each in found.layers}
    for name, value in expected.items():
        assert traffic[name] == pytest.approx(value)
    assert traffic.keys() == expected.keys()
    assert found.traffic == pytest.approx(sum(traffic.values()))


def test_dead_units_are_those_that_are_off_unheard_or_deaf():
    torch.manual_seed(0)
    net = Chain(4)
    pruner = trained(net, Magnitude(1.0, warmup=1, ramp=1, count_every=1), 2)
    assert report(pruner, net).dead == 0
    first, second = list(pruner.masks.values())[:2]
    first[2] = False  # nothing enters unit 2 of the second layer
    second[:, 1] = False  # nothing leaves its unit 1
    pruner.activity._sums[2][0, 3] = 0.0  # unit 3 of the third is never on
    found = report(pruner, net)
    assert found.dead == 3
    assert [each.dead for each in found.layers] == [0, 2, 1, 0]
    assert found.units == 12


def test_units_behind_a_head_that_is_not_masked_are_heard():
    torch.manual_seed(0)
    net = Chain(4)
    pruner = trained(net, Magnitude(1.0, warmup=1, ramp=1, count_every=1), 2)
    list(pruner.masks.values())[1][:] = False
    assert report(pruner, net).layers[2].dead == 4  # they hear nothing, though the unmasked head hears them
    assert report(pruner, net).dead == 8


@pytest.mark.parametrize("actuator", ["fan_in", "fan_out"])
@pytest.mark.parametrize("scope", ["layer", "network"])
def test_the_fit_recovers_the_law_that_chose_the_masks(actuator, scope):
    torch.manual_seed(0)
    net = Chain(48)
    pruner = trained(net, bb(actuator=actuator, scope=scope, warmup=0, ramp=0), 0)
    rng = np.random.default_rng(0)
    for number, group in enumerate(pruner.wiring.groups):  # on-rates as after training, one layer busier than another
        pruner.activity._sums[number][0] = np.clip(rng.normal(0.35 + 0.1 * number, 0.12, group.size), 0.03, 0.97)
        pruner.activity._total[number] = 1.0
    assert pruner._optimizer is not None
    pruner._optimizer.step()
    pruner.step()
    found = report(pruner, net)
    fit = found.fits[actuator]
    assert fit.r_squared > 0.97
    assert fit.slope == pytest.approx(1 / 0.15, rel=0.1)
    assert fit.unclipped > 60
    assert found.actuated == (actuator,)
    assert found.decided_fits == {actuator: fit}  # nothing was counted since the masks were made
    other = found.fits["fan_out" if actuator == "fan_in" else "fan_in"]
    assert not other.r_squared > 0.5


def test_plain_values_for_json_with_none_for_what_is_not_known():
    net = Chain(4)
    pruner = trained(net, bb(), 0)
    values = report(pruner, net).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["entropy"] is None
    assert values["traffic"] is None
    assert values["held_out"] is None
    assert values["fits"]["fan_in"]["slope"] is None
    assert values["layers"][1]["on_rate"] is None


def test_a_wrapped_network_has_the_same_report_and_another_one_is_refused():
    torch.manual_seed(0)
    net = Chain(8)
    pruner = trained(net, bb())
    assert report(pruner, AveragedModel(net)).to_dict() == report(pruner, net).to_dict()
    with pytest.raises(SynbbError, match="no weight layer 'first'"):
        report(pruner, torch.nn.Linear(2, 2))


def test_reporting_changes_nothing():
    torch.manual_seed(0)
    net = Chain(4)
    pruner = trained(net, bb())
    before = pruner.state_dict()
    assert report(pruner, net).to_dict() == report(pruner, net).to_dict()
    assert pruner.state_dict()["steps"] == before["steps"]
    assert all(torch.equal(pruner.masks[name], mask) for name, mask in before["masks"].items())


# ---- held-out data, dense networks, metrics ----


def held_out(net: torch.nn.Module, wiring: Any, **options: Any) -> Any:
    batches = [torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(100 + each)) for each in range(4)]
    return probe(net, wiring, batches, **options)


def test_held_out_figures_are_the_probe_s_on_the_same_degrees():
    torch.manual_seed(0)
    net = Chain(40)
    pruner = trained(net, bb(actuator="both"))
    found = held_out(net, pruner.wiring)
    told = report(pruner, net, found).held_out
    assert (told.inputs, told.entropy, told.correlation) == (8, found.entropy, found.correlation)
    assert (told.constant, told.participation) == (found.constant, found.participation)
    masks = pruner.masks
    audience = [*(masks[name].sum((0, 2, 3)).numpy() for name in ("second", "third")), np.ones(40)]
    assert told.traffic == pytest.approx(float((np.concatenate(audience) * found.on).sum()))
    # With the held-out rates in the pruner's place its own fits are the held-out ones.
    for number, group in enumerate(pruner.wiring.groups):
        pruner.activity._sums[number][0] = found.rates[group.first : group.first + group.size]
        pruner.activity._total[number] = 1.0
    again = report(pruner, net)
    assert again.actuated == ("fan_out", "fan_in")
    for which in again.actuated:
        assert again.fits[which].unclipped > 20
        assert tuple(again.fits[which]) == pytest.approx(tuple(told.fits[which]))
        assert tuple(again.fits[which]) != tuple(
            report(pruner, net).fits["fan_in" if which == "fan_out" else "fan_out"]
        )


def test_a_dense_network_has_the_same_report():
    torch.manual_seed(0)
    net = Chain(6)
    pruner = trained(net, Magnitude(1.0, warmup=1, ramp=1, count_every=1), 2)
    wiring = trace(net, GIVEN)
    found = held_out(net, wiring)
    dense, pruned = report_dense(wiring, net, found, steps=2), report(pruner, net, found)
    assert (dense.method, dense.steps, dense.final, dense.density, dense.whole_density) == ("none", 2, True, 1.0, 1.0)
    assert (dense.units, dense.dead, dense.macs) == (pruned.units, pruned.dead, pruned.macs)
    for name in ("entropy", "traffic", "correlation", "constant", "participation"):
        assert getattr(dense.held_out, name) == getattr(pruned.held_out, name)
    assert not dense.fits
    assert not any(layer.masked for layer in dense.layers)
    # Training counted nothing: layers tell held-out on-rates, the network's training figures stay unknown.
    assert dense.layers[1].on_rate == pytest.approx(found.on[:6].mean())
    assert sum(layer.traffic for layer in dense.layers) == pytest.approx(dense.held_out.traffic)
    assert np.isnan(dense.entropy)
    assert np.isnan(dense.traffic)
    blind = report_dense(wiring, net)
    assert blind.held_out is None
    assert np.isnan(blind.layers[1].traffic)
    assert json.loads(json.dumps(blind.to_dict(), allow_nan=False))["traffic"] is None


def test_multiply_accumulates_follow_the_masks():
    torch.manual_seed(0)
    net = Chain(4)
    pruner = trained(net, bb())
    for layer in pruner.wiring.layers:
        layer.positions = 64
    found = report(pruner, net)
    live = sum(int(torch.count_nonzero(p)) for p in net.parameters() if p.dim() > 1)
    assert found.macs == 64 * live
    assert found.dense_macs == 64 * (9 * 4 + 2 * 16 * 9 + 4)
    assert [layer.macs for layer in found.layers] == [64 * 36, 64 * 4 * 9, 64 * 4 * 9, 64 * 4]


@pytest.mark.parametrize("connection", ["kernel", "weight"])
def test_connections_are_counted_in_their_own_unit(connection):
    torch.manual_seed(0)
    net = Chain(4)
    found = report(trained(net, bb(connection=connection)), net)
    times = 9 if connection == "weight" else 1
    assert [layer.connections for layer in found.layers] == [4 * times, 16 * times, 16 * times, 4]
    assert [layer.density for layer in found.layers] == [1.0, 0.25, 0.25, 1.0]


def test_scalars_are_finite_and_leave_out_what_is_not_known():
    torch.manual_seed(0)
    net = Chain(40)
    pruner = trained(net, bb())
    scalars = report(pruner, net, held_out(net, pruner.wiring)).scalars()
    assert all(np.isfinite(value) for value in scalars.values())
    for name in ("entropy", "traffic", "dead", "macs", "churn"):
        assert name in scalars
    for name in ("entropy", "traffic", "correlation", "constant", "participation"):
        assert f"held_out_{name}" in scalars
    for degree in ("fan_out", "fan_in"):
        for name in ("slope", "r_squared", "unclipped", "clipped_share"):
            assert f"{degree}_{name}" in scalars
            assert f"held_out_{degree}_{name}" in scalars
    fresh = report(trained(Chain(4), bb(), 0), Chain(4)).scalars()
    assert "entropy" not in fresh
    assert "fan_in_slope" not in fresh
    assert "dead" in fresh
