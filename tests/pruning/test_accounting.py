"""What counts as a step, and masks on copies, in files and from earlier runs."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from pruning_networks import Chain, train
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, Magnitude, RigL, apply_masks, load_masks, save_masks

GIVEN = torch.zeros(1, 1, 8, 8)


def backward(net: nn.Module, step: int) -> None:
    given = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    net.train()
    net(given).square().mean().backward()


# ---- steps that took place ----


def test_a_step_that_mixed_precision_skips_changes_neither_schedule_nor_on_rates():
    torch.manual_seed(0)
    net, plain = Chain(), Chain()
    plain.load_state_dict(net.state_dict())
    made, other = SGD(net.parameters(), lr=0.05), SGD(plain.parameters(), lr=0.05)
    options = {"warmup": 1, "ramp": 6, "refresh": 1, "count_every": 1, "gate": 0.0}
    pruner = BudgetedBroadcast(0.3, **options).attach(net, GIVEN, optimizer=made)
    unskipped = BudgetedBroadcast(0.3, **options).attach(plain, GIVEN, optimizer=other)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    for step in range(5):
        backward(plain, step)
        other.step()
        other.zero_grad()
        unskipped.step()
    done = 0
    for step in (0, 1, 99, 2, 3, 98, 4):
        state = {name: value.clone() for name, value in net.state_dict().items() if "running" in name or "num_" in name}
        given = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        net.train()
        loss = net(given).square().mean()
        scaler.scale(loss * float("inf") if step > 50 else loss).backward()
        scaler.step(made)
        scaler.update(2.0**4)
        made.zero_grad()
        pruner.step()
        done += step <= 50
        assert pruner.steps == done
        if step > 50:  # norm statistics are the network's own; put back so that both runs see the same
            net.load_state_dict(state, strict=False)
    assert (pruner.kept() == unskipped.kept()).all()
    assert pruner.activity.rates() == pytest.approx(unskipped.activity.rates(), abs=1e-12)


def test_accumulated_gradients_count_as_one_step_and_all_their_passes():
    torch.manual_seed(0)
    net = Chain(norm=False)
    whole = copy.deepcopy(net)
    made, other = SGD(net.parameters(), lr=0.0), SGD(whole.parameters(), lr=0.0)
    options = {"warmup": 10, "ramp": 10, "count_every": 1}
    pruner = BudgetedBroadcast(0.3, **options).attach(net, GIVEN, optimizer=made)
    at_once = BudgetedBroadcast(0.3, **options).attach(whole, GIVEN, optimizer=other)
    given = torch.randn(4, 1, 8, 8)
    for part in given.split(1):
        net(part).sum().backward()
    made.step()
    pruner.step()
    whole(given).sum().backward()
    other.step()
    at_once.step()
    assert pruner.steps == at_once.steps == 1
    assert pruner.activity.rates().tolist() == at_once.activity.rates().tolist()


# ---- copies ----


def test_an_averaged_copy_carries_the_same_masks():
    torch.manual_seed(0)
    net = Chain()
    made = AdamW(net.parameters(), lr=0.01)
    pruner = Magnitude(0.3, warmup=2, ramp=8, refresh=2).attach(net, GIVEN, optimizer=made)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    pruner.follow(average)
    for step in range(14):
        train(net, pruner, made, range(step, step + 1))
        average.update_parameters(net)
        for name, mask in pruner.masks.items():
            weight = average.get_submodule(f"module.{name}").weight
            assert (weight[~mask.expand_as(weight)] == 0).all(), step
    assert (average.module.second.weight[pruner.masks["second"].expand_as(average.module.second.weight)] != 0).any()
    with pytest.raises(SynbbError, match="no weight layer 'second'"):
        pruner.follow(nn.Linear(2, 2))


# ---- files ----


def test_masks_survive_a_file_and_fit_only_their_own_network(tmp_path):
    net = Chain()
    made = SGD(net.parameters(), lr=0.05)
    pruner = Magnitude(0.3, warmup=0, ramp=0).attach(net, GIVEN, optimizer=made)
    train(net, pruner, made, range(1))
    save_masks(pruner.masks, tmp_path / "masks.safetensors")
    found = load_masks(tmp_path / "masks.safetensors")
    assert found.keys() == pruner.masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in pruner.masks.items())
    fresh = Chain()
    apply_masks(fresh, found)
    assert (fresh.second.weight[~found["second"].expand_as(fresh.second.weight)] == 0).all()
    with pytest.raises(SynbbError, match="cannot be read"):
        load_masks(tmp_path / "none.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"no masks")
    with pytest.raises(SynbbError, match=r"other.safetensors cannot be read"):
        load_masks(tmp_path / "other.safetensors")
    narrow = Chain(6)
    there = Magnitude(0.3, warmup=0, ramp=9).attach(narrow, GIVEN, optimizer=SGD(narrow.parameters(), lr=0.05))
    with pytest.raises(SynbbError, match=r"masks of another network: second has \(8, 8, 1, 1\)"):
        there.begin_with(found)
    assert there.density() == 1


def test_beginning_with_masks_holds_them_until_a_refresh_and_brings_latent_weights_back():
    torch.manual_seed(0)
    net = Chain()
    made = SGD(net.parameters(), lr=0.05)
    first = Magnitude(0.25, warmup=0, ramp=0).attach(net, GIVEN, optimizer=made)
    train(net, first, made, range(3))
    masks, latent = first.masks, first.state_dict()["latent"]
    first.detach()
    later = SGD(net.parameters(), lr=0.05)
    second = Magnitude(0.5, warmup=0, ramp=4, refresh=4).attach(net, GIVEN, optimizer=later)
    second.begin_with(masks, latent)
    assert second.density() == 0.25
    train(net, second, later, range(3))
    assert second.density() == 0.25
    assert (net.second.weight[~masks["second"].expand_as(net.second.weight)] == 0).all()
    train(net, second, later, range(3, 4))
    assert second.density() == 0.5
    grown = second.masks["second"] & ~masks["second"]
    assert grown.any()
    back = grown.expand_as(net.second.weight)
    assert torch.equal(net.second.weight[back], latent["second"][back])


@pytest.mark.parametrize(
    "make",
    [lambda: RigL(0.25, ramp=20), lambda: BudgetedBroadcast(0.25, from_start=True, ramp=20, gate=0.0)],
    ids=["rigl", "bb"],
)
def test_beginning_with_masks_takes_back_what_a_method_cut_when_it_was_attached(make):
    torch.manual_seed(0)
    net = Chain()
    masks = {name: torch.rand(8, 8, 1, 1) < 0.25 for name in ("second", "third")}
    apply_masks(net, masks)
    before = {name: net.get_submodule(name).weight.detach().clone() for name in masks}
    pruner = make().attach(net, GIVEN, optimizer=SGD(net.parameters(), lr=0.05))
    assert any(not torch.equal(net.get_submodule(name).weight, before[name]) for name in masks)
    pruner.begin_with(masks)
    assert all(torch.equal(net.get_submodule(name).weight, before[name]) for name in masks)
    assert all(torch.equal(pruner.masks[name], masks[name]) for name in masks)
    assert all((latent == 0).all() for latent in pruner.state_dict()["latent"].values())
    with pytest.raises(SynbbError, match="masks of another network"):
        pruner.begin_with({name: mask[:4] for name, mask in masks.items()})
    assert all(torch.equal(net.get_submodule(name).weight, before[name]) for name in masks)


def test_beginning_with_masks_masks_an_average_too():
    torch.manual_seed(0)
    net = Chain()
    pruner = Magnitude(0.25, warmup=9, ramp=9).attach(net, GIVEN, optimizer=SGD(net.parameters(), lr=0.05))
    average = AveragedModel(net)
    pruner.follow(average)
    masks = {name: torch.rand(8, 8, 1, 1) < 0.25 for name in ("second", "third")}
    pruner.begin_with(masks)
    assert all((average.module.get_submodule(n).weight[~m.expand(8, 8, 3, 3)] == 0).all() for n, m in masks.items())


# ---- the gate ----


def test_the_gate_waits_until_on_rates_differ():
    torch.manual_seed(0)
    net = Chain()
    made = SGD(net.parameters(), lr=0.0)  # nothing moves: on-rates stay where they began
    pruner = BudgetedBroadcast(0.3, warmup=0, ramp=6, refresh=1, gate=0.3, count_every=1)
    pruner.attach(net, GIVEN, optimizer=made)
    train(net, pruner, made, range(5))
    assert pruner.spread() < 0.3
    assert pruner.density() == 1
    with pytest.warns(UserWarning, match=r"below the gate of 0.3, at the last step"):
        train(net, pruner, made, range(5, 6))
    assert pruner.density() == pytest.approx(0.3, abs=0.01)

    opened = BudgetedBroadcast(0.3, warmup=0, ramp=6, refresh=1, gate=pruner.spread() / 2, count_every=1)
    fresh = Chain()
    fresh.load_state_dict(net.state_dict())
    opened.attach(fresh, GIVEN, optimizer=SGD(fresh.parameters(), lr=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(fresh, opened, SGD(fresh.parameters(), lr=0.0), range(0))
    assert opened.spread() == 0.0  # nothing counted yet is no spread


def test_rates_that_were_never_counted_are_an_error_at_the_refresh():
    net = Chain()
    made = SGD(net.parameters(), lr=0.05)
    pruner = BudgetedBroadcast(0.3, warmup=0, ramp=2, refresh=1, gate=0.0).attach(net, GIVEN, optimizer=made)
    net.eval()  # no pass is a training pass
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    made.step()
    with pytest.raises(SynbbError, match="never counted"):
        pruner.step()
    assert np.isnan(pruner.activity.rates()).all()
