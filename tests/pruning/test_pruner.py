"""What a training loop sees: weights, optimisers, schedules, checkpoints, errors."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_networks import Chain, Residual, SumOfUnits, Tokens, train
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from synbb.errors import SynbbError
from synbb.models.unet import build_unet
from synbb.pruning import BudgetedBroadcast, Evidence, Magnitude, Pruner, RandomMask

GIVEN = torch.zeros(1, 1, 8, 8)
METHODS = {"bb": BudgetedBroadcast, "magnitude": Magnitude, "random": RandomMask}
OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
}


def attached(
    method: str = "bb", optimizer: str = "adamw", density: float = 0.3, **options: Any
) -> tuple[Chain, Pruner, Optimizer]:
    torch.manual_seed(0)
    net = Chain()
    made = OPTIMIZERS[optimizer](net.parameters())
    settings_ = {"warmup": 2, "ramp": 8, "refresh": 2, "count_every": 2, "gate": 0.0} | options
    return net, METHODS[method](density, **settings_).attach(net, GIVEN, optimizer=made), made


def weights(net: nn.Module, pruner: Pruner) -> dict[str, torch.Tensor]:
    return {name: net.get_submodule(name).weight for name in pruner.masks}


# ---- masked weights ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("connection", ["kernel", "weight"])
def test_cut_weights_stay_exactly_zero_and_live_ones_do_not(method, optimizer, connection):
    net, pruner, made = attached(method, optimizer, connection=connection)
    cut_at_times = 0
    for step in range(20):
        train(net, pruner, made, range(step, step + 1))
        for name, weight in weights(net, pruner).items():
            mask = pruner.masks[name].expand_as(weight)
            assert (weight[~mask] == 0).all()
            cut_at_times += int((~mask).sum())
            if step < 19:
                continue
            assert (weight[mask] != 0).all()
            for value in made.state[weight].values():
                if value.shape == weight.shape:
                    assert (value[~mask] == 0).all()
    assert cut_at_times > 0


def test_without_the_optimizer_weights_are_masked_all_the_same():
    torch.manual_seed(0)
    net = Chain()
    made = SGD(net.parameters(), lr=0.05, momentum=0.9)
    with pytest.warns(UserWarning, match="synbb: attach.. without optimizer="):
        pruner = Magnitude(0.3, warmup=2, ramp=4, refresh=2).attach(net, GIVEN)
    train(net, pruner, made, range(20))
    for name, weight in weights(net, pruner).items():
        assert (weight[~pruner.masks[name].expand_as(weight)] == 0).all()


def test_weight_decay_does_not_move_what_a_cut_weight_was():
    net, pruner, made = attached("magnitude", "adamw", warmup=0, ramp=0)
    before = {name: weight.detach().clone() for name, weight in weights(net, pruner).items()}
    for group in made.param_groups:
        group["lr"] = 0.0
    train(net, pruner, made, range(1))
    for group in made.param_groups:
        group["lr"] = 0.1
    train(net, pruner, made, range(1, 30))
    for name, latent in pruner.state_dict()["latent"].items():
        mask = pruner.masks[name].expand_as(latent)
        assert torch.equal(latent[~mask], before[name][~mask])
        assert (latent[mask] == 0).all()


class Chosen(Pruner):
    """Keeps what it is told."""

    method = "chosen"
    choice: np.ndarray

    def choose(self, share: float, evidence: Evidence) -> np.ndarray:
        self.seen = evidence.weights
        return self.choice if hasattr(self, "choice") else np.ones(self.table.count, dtype=bool)


def idle_step(pruner: Pruner, optimizer: Optimizer) -> None:
    """An optimiser step that took place and moved nothing."""
    optimizer.zero_grad()
    optimizer.step()
    pruner.step()


def test_a_connection_that_grows_back_has_its_old_value_and_no_moments():
    torch.manual_seed(0)
    net = Chain(4)
    made = Adam(net.parameters(), lr=0.01)
    pruner = Chosen(0.5, warmup=0, ramp=100, refresh=1).attach(net, GIVEN, optimizer=made)
    train(net, pruner, made, range(3))
    before = net.second.weight.detach().clone()
    pruner.choice = np.ones(pruner.table.count, dtype=bool)
    pruner.choice[[0, 5]] = False  # slices (0, 0) and (1, 1) of the second layer
    idle_step(pruner, made)
    assert (net.second.weight[1, 1] == 0).all()
    train(net, pruner, made, range(3, 8))
    assert pruner.seen[5] == pytest.approx(float(before[1, 1].square().mean().sqrt()))  # ranked by its latent value
    pruner.choice[5] = True
    idle_step(pruner, made)
    assert torch.equal(net.second.weight[1, 1], before[1, 1])
    assert (net.second.weight[0, 0] == 0).all()
    assert (made.state[net.second.weight]["exp_avg"][1, 1] == 0).all()
    assert (made.state[net.second.weight]["exp_avg_sq"][1, 1] == 0).all()
    assert pruner.churn == pytest.approx(1 / (pruner.table.count - 2))


def test_overflowing_gradients_do_not_reach_cut_weights():
    net, pruner, made = attached("magnitude", "sgd", warmup=0, ramp=0)
    train(net, pruner, made, range(1))
    made.zero_grad()
    (net(torch.randn(1, 1, 8, 8)) * torch.inf).sum().backward()
    name, weight = next(iter(weights(net, pruner).items()))
    assert not weight.grad.isfinite().all()
    assert (weight.grad[~pruner.masks[name].expand_as(weight)] == 0).all()


def test_keys_of_the_model_and_the_learning_rate_are_left_alone():
    rates = []
    keys = list(Chain().state_dict())
    for prune in (True, False):
        net, pruner, made = attached("bb", "sgd")
        scheduler = torch.optim.lr_scheduler.OneCycleLR(made, max_lr=0.1, total_steps=15)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns when a scheduler finds optimizer.step replaced
            train(net, pruner if prune else None, made, range(12), scheduler=scheduler)
        rates.append(scheduler.get_last_lr())
        assert list(net.state_dict()) == keys
    assert rates[0] == rates[1]


def test_the_fused_path_of_a_stock_encoder_sees_the_masks(monkeypatch):
    torch.manual_seed(0)
    net = Tokens(layers=2)
    made = AdamW(net.parameters(), lr=0.01)
    pruner = BudgetedBroadcast(0.4, warmup=1, ramp=4, refresh=2, actuator="fan_out", count_every=1)
    pruner.attach(net, torch.zeros(2, 6, 5), optimizer=made, channel_axis=-1)
    train(net, pruner, made, range(8), shape=(4, 6, 5))
    assert set(pruner.masks) >= {"encoder.layers.0.linear2", "encoder.layers.1.linear2"}
    reference = copy.deepcopy(net).eval()
    with torch.no_grad():
        for name, mask in pruner.masks.items():
            reference.get_submodule(name).weight.mul_(mask)
        for module in reference.modules():  # hooks keep the fused path from being taken
            module.register_forward_hook(lambda *_: None)
        pruner.detach()
        given, fused = torch.randn(4, 6, 5), torch._transformer_encoder_layer_fwd
        calls = []
        monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *a: (calls.append(1), fused(*a))[1])
        assert torch.allclose(net.eval()(given), reference(given), atol=1e-6)
        assert len(calls) == 2  # each layer of the pruned network, none of the reference


@pytest.mark.parametrize("method", METHODS)
def test_density_one_is_no_pruning_bit_for_bit(method):
    net, pruner, made = attached(method, density=1.0)
    train(net, pruner, made, range(15))
    assert pruner.final
    assert pruner.density() == 1
    torch.manual_seed(0)
    fresh = Chain()
    train(fresh, None, OPTIMIZERS["adamw"](fresh.parameters()), range(15))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values(), strict=True))


# ---- schedule ----


@pytest.mark.parametrize("scope", ["layer", "network"])
@pytest.mark.parametrize("actuator", ["fan_in", "fan_out", "both", "matched"])
def test_dense_then_falling_then_at_the_target_and_frozen(actuator, scope):
    net, pruner, made = attached("bb", actuator=actuator, scope=scope, density=0.37, warmup=3, ramp=7, refresh=2)
    densities, changed = [], []
    for step in range(14):
        before = pruner.kept()
        train(net, pruner, made, range(step, step + 1))
        densities.append(pruner.density())
        changed.append(bool((pruner.kept() != before).any()))
    assert densities[:4] == [1.0] * 4  # warm-up, and the step before the first refresh of the ramp
    assert densities == sorted(densities, reverse=True)
    assert not any(changed[10:])
    assert pruner.final
    sizes = [pruner.table.count] if scope == "network" else list(pruner.table.layer_sizes)
    kept = [pruner.kept()] if scope == "network" else pruner.table.split(pruner.kept())
    assert [int(each.sum()) for each in kept] == [round(0.37 * size) for size in sizes]
    live = sum(int(torch.count_nonzero(weight.abs().sum((2, 3)))) for weight in weights(net, pruner).values())
    assert live == sum(int(each.sum()) for each in kept)  # in the weights themselves


@settings(max_examples=12, deadline=None)
@given(
    st.floats(0.15, 0.95),
    st.sampled_from([Residual, SumOfUnits]),
    st.sampled_from(["fan_in", "fan_out", "both", "matched"]),
)
def test_realised_density_where_channels_sum_units(density, kind, actuator):
    net = kind()
    shape = (1, 1, 8, 8) if kind is Residual else (1, 1, 8)
    made = SGD(net.parameters(), lr=0.01)
    pruner = BudgetedBroadcast(density, warmup=0, ramp=2, refresh=1, actuator=actuator, minimum=0, count_every=1)
    pruner.attach(net, torch.zeros(shape), optimizer=made)
    train(net, pruner, made, range(3), shape=(2, *shape[1:]))
    for layer, kept in zip(pruner.layers, pruner.table.split(pruner.kept()), strict=True):
        assert kept.sum() == round(density * len(kept)), layer.name


def test_pruning_at_once():
    net, pruner, made = attached("bb", warmup=0, ramp=0, density=0.25)
    assert not pruner.final
    train(net, pruner, made, range(1))
    assert pruner.density() == 0.25
    assert pruner.final


def test_random_masks_are_nested_and_follow_the_seed():
    net, pruner, made = attached("random", seed=3)
    before = pruner.kept()
    for step in range(12):
        train(net, pruner, made, range(step, step + 1))
        assert not (pruner.kept() & ~before).any()
        before = pruner.kept()
    again = attached("random", seed=3)
    other = attached("random", seed=4)
    for made_net, made_pruner, made_optimizer in (again, other):
        train(made_net, made_pruner, made_optimizer, range(12))
    assert (again[1].kept() == before).all()
    assert (other[1].kept() != before).any()


def test_magnitude_keeps_the_largest_slices():
    net, pruner, made = attached("magnitude", warmup=0, ramp=0, density=0.25)
    norms = net.second.weight.detach().square().mean((2, 3)).flatten()
    for group in made.param_groups:
        group["lr"] = 0.0
    train(net, pruner, made, range(1))
    chosen = pruner.masks["second"].flatten()
    assert set(torch.topk(norms, 16).indices.tolist()) == set(torch.nonzero(chosen).flatten().tolist())


# ---- resume ----


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("bb", {}),
        ("magnitude", {}),
        ("bb", {"from_start": True, "regrowth": "random", "drop": 0.6, "gate": 0.06, "ramp": 60}),
    ],
)
@pytest.mark.parametrize("at", [4, 7, 13, 18])
def test_a_resumed_run_is_the_same_to_the_bit(method, own, at):
    """Saved inside the ramp, on and between refreshes; regrowth goes on behind it."""
    options = {"warmup": 2, "ramp": 24, "refresh": 3, "count_every": 2, "optimizer": "adamw", "density": 0.2} | own

    def start() -> tuple[Chain, Pruner, Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        net, pruner, made = attached(method, **options)
        return net, pruner, made, torch.optim.lr_scheduler.OneCycleLR(made, max_lr=0.3, total_steps=40)

    net, pruner, made, scheduler = start()
    train(net, pruner, made, range(at), scheduler=scheduler)
    stored = io.BytesIO()
    parts = (net, pruner, made, scheduler)
    torch.save([part.state_dict() for part in parts], stored)
    stored.seek(0)
    later = start()
    train(later[0], None, later[2], range(50, 53))  # whatever was there before is overwritten
    for part, state in zip(later, torch.load(stored, weights_only=True), strict=True):
        part.load_state_dict(state)
    regrown = 0
    for step in range(at, 30):
        before = pruner.kept()
        train(net, pruner, made, range(step, step + 1), scheduler=scheduler)
        train(later[0], later[1], later[2], range(step, step + 1), scheduler=later[3])
        regrown += int((pruner.kept() & ~before).any())
        assert (pruner.kept() == later[1].kept()).all()
    assert regrown >= 2
    ours, theirs = pruner.state_dict(), later[1].state_dict()
    for name in ours["masks"]:
        assert torch.equal(ours["latent"][name], theirs["latent"][name])
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), later[0].state_dict().values(), strict=True)
    )
    assert pruner.activity.rates().tolist() == later[1].activity.rates().tolist()
    assert pruner.churn == later[1].churn


def test_a_state_does_not_change_with_the_run_it_was_taken_from():
    net, pruner, made = attached("bb")
    train(net, pruner, made, range(6))
    state = pruner.state_dict()
    before = copy.deepcopy(state)
    train(net, pruner, made, range(6, 12))
    assert all(torch.equal(state["latent"][name], before["latent"][name]) for name in state["latent"])
    assert all(torch.equal(state["masks"][name], before["masks"][name]) for name in state["masks"])
    counted, then = state["activity"]["sums"], before["activity"]["sums"]
    assert [each.tolist() for each in counted] == [each.tolist() for each in then]


# ---- errors ----


def test_a_state_of_something_else_is_refused_and_changes_nothing():
    net, pruner, made = attached("bb")
    train(net, pruner, made, range(8))
    state = pruner.state_dict()
    with pytest.raises(SynbbError, match="state of method 'bb' does not fit method 'magnitude'"):
        attached("magnitude")[1].load_state_dict(state)
    other = Chain(6)
    larger = BudgetedBroadcast(0.3, warmup=1, ramp=1).attach(other, GIVEN, optimizer=SGD(other.parameters(), lr=0.1))
    with pytest.raises(SynbbError, match=r"pruner state of another network: (second|third) has"):
        larger.load_state_dict(state)
    state["activity"]["sums"] = state["activity"]["sums"][:1]
    fresh = attached("bb")[1]
    with pytest.raises(SynbbError, match="unit groups of sizes"):
        fresh.load_state_dict(state)
    assert fresh.density() == 1
    assert fresh.steps == 0


def test_attaching_twice_is_refused():
    net, pruner, made = attached()
    with pytest.raises(SynbbError, match="attached already"):
        pruner.attach(net, GIVEN, optimizer=made)


def test_exclude_names_layers():
    _, pruner, _ = attached(exclude=["thi*"])
    assert list(pruner.masks) == ["second"]
    with pytest.raises(SynbbError, match=r"'fourth\*' fits no layer; there are first, second, third, head"):
        attached(exclude=["fourth*"])
    with pytest.raises(SynbbError, match="no layer is left to prune"):
        attached(exclude=["second", "third"])


@pytest.mark.parametrize("actuator", ["fan_in", "fan_out", "both", "matched"])
def test_a_density_out_of_reach_is_refused_at_the_start_and_leaves_no_hooks(actuator):
    net = Chain()
    pruner = BudgetedBroadcast(0.01, warmup=1, ramp=1, actuator=actuator)
    with pytest.raises(SynbbError, match="out of reach"):
        pruner.attach(net, GIVEN, optimizer=SGD(net.parameters(), lr=0.1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 1.2}, "density"),
        ({"connection": "unit"}, "connection 'unit' is not one of kernel, weight"),
        ({"scope": "block"}, "scope 'block'"),
        ({"actuator": "out"}, "actuator 'out'"),
        ({"beta": 0.0}, "beta"),
        ({"minimum": -1}, "minimum"),
        ({"count_every": 0}, "count_every"),
        ({"decay": 0.0}, "decay"),
    ],
)
def test_impossible_options(values, message):
    with pytest.raises(SynbbError, match=message):
        attached("bb", **values)


def test_operations_that_hide_units_are_an_error_and_can_be_masked_per_consumer():
    class Hidden(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.acts[0](self.first(x))
            return self.head(self.acts[2](self.third(self.acts[1](self.second(x)).cumsum(1) + x)))

    net = Hidden(4)
    made = SGD(net.parameters(), lr=0.1)
    with pytest.raises(SynbbError, match=r"layer 'third' reads units through cumsum.*per_consumer=\['third'\]"):
        Magnitude(0.5, warmup=1, ramp=1).attach(net, GIVEN, optimizer=made)
    pruner = BudgetedBroadcast(0.5, warmup=1, ramp=2, refresh=1, gate=0.0, per_consumer=["third"], count_every=1)
    pruner.attach(net, GIVEN, optimizer=made)
    train(net, pruner, made, range(4))
    assert pruner.layer_densities() == {"second": 0.5, "third": 0.5}
    assert not np.isnan(pruner.activity.rates()).any()


def test_detached_means_untouched():
    net, pruner, made = attached()
    train(net, pruner, made, range(12))
    pruner.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    name, weight = next(iter(weights(net, pruner).items()))
    assert (weight[~pruner.masks[name].expand_as(weight)] == 0).all()
    assert (weight.grad[~pruner.masks[name].expand_as(weight)] != 0).any()


def test_the_default_network_end_to_end():
    torch.manual_seed(0)
    net = build_unet((50, 9.2, 9.2), filters=(8, 16, 32))
    made = SGD(net.parameters(), lr=0.01, momentum=0.9)
    pruner = BudgetedBroadcast(0.25, warmup=1, ramp=4, refresh=2).attach(
        net, torch.zeros(1, 1, 2, 8, 8), optimizer=made
    )
    train(net, pruner, made, range(6), shape=(2, 1, 2, 16, 16))
    assert pruner.density() == 0.25
    assert set(pruner.layer_densities().values()) == {0.25}


def test_a_step_before_attach_says_what_to_do():
    with pytest.raises(SynbbError, match="attach"):
        BudgetedBroadcast(0.5, warmup=1, ramp=1).step()
