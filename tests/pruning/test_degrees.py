"""The law as realised: degrees follow the on-rates that the masks were made from, to what integers allow."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from pruning_networks import Chain, train
from torch.optim import SGD

from synbb.pruning import BudgetedBroadcast, Magnitude, Pruner
from synbb.pruning.degrees import balance_table, decided_fit, degrees_of, directions


def trained(
    actuator: str, density: float = 0.25, scope: str = "layer", width: int = 48, connection: str = "kernel"
) -> Pruner:
    torch.manual_seed(0)
    net = Chain(width)
    made = SGD(net.parameters(), lr=0.05)
    pruner = BudgetedBroadcast(
        density,
        actuator=actuator,
        scope=scope,
        connection=connection,
        warmup=2,
        ramp=6,
        refresh=2,
        count_every=1,
        gate=0.0,
        minimum=0,
    )
    pruner.attach(net, torch.zeros(1, 1, 8, 8), optimizer=made)
    train(net, pruner, made, range(8))
    return pruner


@pytest.mark.parametrize("scope", ["layer", "network"])
@pytest.mark.parametrize("actuator", ["fan_in", "fan_out"])
def test_the_law_is_met_on_the_rates_the_masks_were_made_from(actuator, scope):
    # Eight steps on noise spread on-rates by 0.03 alone: with 48 kernels a unit the integers would blur that.
    pruner = trained(actuator, scope=scope, connection="weight")
    fit = decided_fit(pruner, actuator)
    assert fit.unclipped >= 40
    assert fit.r_squared >= 0.95
    assert fit.slope == pytest.approx(pruner.beta, rel=0.1)
    budget = round(0.25 * pruner.table.count)
    assert abs(int(pruner.kept().sum()) - budget) <= len(pruner.table.scopes(scope)) - 1


def test_later_rates_fit_less_and_magnitude_does_not():
    pruner = trained("fan_in")
    made = pruner._optimizer
    before = decided_fit(pruner, "fan_in").r_squared
    train(pruner.model, pruner, made, range(8, 30))
    assert decided_fit(pruner, "fan_in").r_squared == before  # the masks are final, and so is what they were made from
    net = Chain(48)
    made = SGD(net.parameters(), lr=0.05)
    rival = Magnitude(0.25, warmup=2, ramp=6, refresh=2, count_every=1)
    rival.attach(net, torch.zeros(1, 1, 8, 8), optimizer=made)
    train(net, rival, made, range(8))
    assert decided_fit(rival, "fan_out").r_squared < 0.5


def test_rows_by_hand():
    pruner = trained("fan_in", width=4)
    kept = pruner.kept()
    second, third = (each.reshape(4, 4) for each in pruner.table.split(kept))
    into = degrees_of(pruner, "fan_in")
    assert into.live.tolist() == [*second.sum(1), *third.sum(1)]
    assert into.capacity.tolist() == [4] * 8
    assert into.scopes.tolist() == [0] * 4 + [1] * 4
    out = degrees_of(pruner, "fan_out")
    assert out.live.tolist() == [*second.sum(0), *third.sum(0)]
    assert directions(pruner) == ("fan_in",)
    assert directions(trained("both", width=4)) == ("fan_out", "fan_in")


def test_the_table_repeats_rates_and_degrees():
    pruner = trained("fan_in", width=8)
    rows = list(csv.DictReader(io.StringIO(balance_table(pruner))))
    found = degrees_of(pruner, "fan_in")
    assert [int(row["live"]) for row in rows] == found.live.tolist()
    assert [float(row["on_rate"]) for row in rows] == pytest.approx(pruner.decided_rates[found.units], abs=1e-6)
    assert {row["scope"] for row in rows} == {"second", "third"}
    clipped = np.array([int(row["clipped"]) for row in rows])
    assert (clipped == ((found.live == 0) | (found.live == 8))).all()
