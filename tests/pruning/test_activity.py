"""On-rates: what is counted, where, exactly, and across processes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from joint_refresh import one_refresh, second_of_two
from pruning_networks import Chain, FramesAndTokens, Residual, Tokens
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast, Waypoints, trace
from synbb.pruning.activity import OnRates, check_places
from synbb.pruning.observing import ValidMask
from synbb.pruning.wiring import Observer, UnitGroup

if TYPE_CHECKING:
    from pathlib import Path

    from synbb.pruning import Valid


def watching(
    net: nn.Module, given: Tensor, *, every: int = 1, decay: float = 0.9, statistic: str = "sign", **options: int
) -> OnRates:
    return OnRates(net, trace(net, given, **options).groups, decay=decay, every=every, statistic=statistic)


def brute_force(net: Chain, batches: list[Tensor], mask: Tensor | None = None) -> np.ndarray:
    """P(h > 0) of every unit of a chain, by its activation modules' outputs."""
    on, total = [0, 0, 0], [0, 0, 0]

    def note(index: int) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            valid = torch.ones_like(output[:, :1], dtype=torch.bool) if mask is None else mask
            on[index] = on[index] + ((output > 0) & valid).double().sum((0, 2, 3))
            total[index] += int(valid.sum())

        handles.append(net.acts[index].register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for index in range(3):
        note(index)
    for batch in batches:
        net(batch)
    for handle in handles:
        handle.remove()
    return torch.cat([a / b for a, b in zip(on, total, strict=True)]).numpy()


@pytest.fixture
def chain() -> Chain:
    torch.manual_seed(0)
    return Chain(4, norm=False).train()


def test_rates_are_the_share_of_positions_above_zero(chain):
    given = torch.randn(3, 1, 9, 7)
    rates = watching(chain, given)
    expected = brute_force(chain, [given])
    rates.commit()
    assert rates.rates() == pytest.approx(expected, abs=1e-15)
    assert expected.std() > 0.1


def test_positions_outside_the_valid_mask_do_not_count(chain):
    given = torch.randn(2, 1, 8, 8)
    mask = torch.rand(2, 1, 8, 8) > 0.4
    rates = watching(chain, given)
    for shape in (mask, mask[:, 0]):  # with and without a channel axis
        with rates.valid(shape):
            expected = brute_force(chain, [given], mask)
        rates.commit()
        assert rates.rates() == pytest.approx(expected, abs=1e-15)


def test_nothing_valid_changes_nothing(chain):
    given = torch.randn(2, 1, 8, 8)
    rates = watching(chain, given)
    chain(given)
    rates.commit()
    before = rates.rates()
    with rates.valid(torch.zeros(2, 1, 8, 8, dtype=torch.bool)):
        chain(given)
    rates.commit()
    assert rates.rates().tolist() == before.tolist()


def test_coarser_levels_go_by_the_majority_of_what_they_cover():
    class Coarser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.head = nn.Conv2d(1, 3, 2, stride=2), nn.Conv2d(3, 1, 1)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.down(x)))

    torch.manual_seed(1)
    net, given = Coarser().train(), torch.randn(2, 1, 4, 4)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, :2, :2] = True  # all four of a coarse voxel
    mask[0, 0, 2:, 0] = True  # two of four: counts
    mask[1, 0, 3, 3] = True  # one of four: does not
    rates = watching(net, given)
    with rates.valid(mask):
        net(given)
    rates.commit()
    hidden = F.relu(net.down(given))
    expected = (hidden[0, :, :, 0] > 0).float().mean(1)
    assert rates.rates() == pytest.approx(expected.detach().numpy())


def test_after_a_mean_over_space_a_sample_counts_when_any_of_it_is_valid():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), nn.Linear(2, 1)).train()
    given = torch.randn(3, 1, 4, 4)
    mask = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    mask[1, 0, 2, 2] = True
    rates = watching(net, given)
    with rates.valid(mask):
        net(given)
    rates.commit()
    assert rates.rates() == pytest.approx((net[:4](given)[1] > 0).float().numpy())


def test_masks_over_time_for_tokens():
    net = Tokens().train()
    given = torch.randn(2, 6, 5)
    seen: list[Tensor] = []
    net.encoder.layers[0].dropout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    rates = watching(net, given, channel_axis=-1)
    seen.clear()
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    with rates.valid(mask):
        net(given)
    rates.commit()
    assert rates.rates() == pytest.approx((seen[0][mask] > 0).double().mean(0).numpy())


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (2, 1, 8), (2,), (2, 8, 8, 8)])
def test_a_mask_that_does_not_fit_is_refused(chain, shape):
    rates = watching(chain, torch.zeros(2, 1, 8, 8))
    with rates.valid(torch.ones(shape, dtype=torch.bool)), pytest.raises(SynbbError, match="valid mask of shape"):
        chain(torch.zeros(2, 1, 8, 8))


FRAMES = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
WORDS = torch.tensor([[True, True, False], [True, False, False]])
EVERY = torch.ones(2, 7, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)

# Which frames and tokens count for the units of encoder.1, decoder.1 and decoder.3.
MASKS = [
    ({"decoder*": WORDS, "*": FRAMES}, [FRAMES, WORDS, WORDS]),
    ({"encoder.*": FRAMES[:, None], "*": WORDS}, [FRAMES, WORDS, WORDS]),
    ({"decoder.1": None, "decoder*": WORDS}, [EVERY[0], EVERY[1], WORDS]),  # the first that fits; none fits the encoder
    ({"*": None, "decoder*": WORDS}, [*EVERY, EVERY[1]]),
    ({"frames": FRAMES[:1]}, [*EVERY, EVERY[1]]),  # fits no module: its shape is nobody's business
    ({}, [*EVERY, EVERY[1]]),
    (None, [*EVERY, EVERY[1]]),
]


@pytest.mark.parametrize(("valid", "expected"), MASKS)
def test_masks_by_the_modules_at_which_units_are_seen(valid: Valid, expected: list[Tensor]):
    torch.manual_seed(0)
    net, given = FramesAndTokens().train(), (torch.randn(2, 7, 3), torch.randn(2, 3, 3))
    groups = trace(net, given, channel_axis=-1).groups
    assert [group.observer.module for group in groups] == ["encoder.1", "decoder.1", "decoder.3"]
    rates = OnRates(net, groups, decay=0.9, every=1)
    with rates.valid(valid):
        net(*given)
    rates.commit()
    with torch.no_grad():  # not counted
        heard = given[1] + net.encoder(given[0]).mean(1, keepdim=True)
        values = [net.encoder[:2](given[0]), net.decoder[:2](heard), net.decoder(heard)]
    counted = [(h[mask] > 0).double().mean(0) for h, mask in zip(values, expected, strict=True)]
    assert rates.rates() == pytest.approx(torch.cat(counted).numpy(), abs=1e-12)
    assert rates._total.tolist() == [int(mask.sum()) for mask in expected]
    net(*given)  # behind the context all positions count again
    rates.commit()
    assert rates._total == pytest.approx([0.9 * int(mask.sum()) + mask.numel() for mask in expected])


@pytest.mark.parametrize("valid", [np.ones((2, 7), dtype=bool), [[True]], {"*": "all"}, "decoder*", 1])
def test_a_mask_that_is_no_tensor_is_refused(chain, valid: object):
    rates = watching(chain, torch.zeros(2, 1, 8, 8))
    with pytest.raises(SynbbError, match=r"valid mask of type \w+ is no tensor; give bool"), rates.valid(valid):
        pass


def test_a_mask_that_does_not_fit_the_units_it_is_for_is_refused():
    net, given = FramesAndTokens().train(), (torch.zeros(2, 7, 3), torch.zeros(2, 3, 3))
    rates = OnRates(net, trace(net, given, channel_axis=-1).groups, decay=0.9, every=1)
    with rates.valid({"decoder*": WORDS[:1]}), pytest.raises(SynbbError, match=r"valid mask of shape \(1, 3\)"):
        net(*given)


def test_only_training_passes_count(chain):
    given = torch.randn(2, 1, 8, 8)
    rates = watching(chain, given)
    chain.eval()(given)
    with torch.no_grad():
        chain.train()(given)  # as when norm statistics are estimated anew
    rates.commit()
    assert np.isnan(rates.rates()).all()


def test_passes_of_a_copy_do_not_count(chain):
    """A mean of weights or a teacher is a deep copy, which takes hooks along."""
    given = torch.randn(2, 1, 8, 8)
    rates = watching(chain, given)
    expected = brute_force(chain, [given])
    copy.deepcopy(chain)(torch.randn(2, 1, 8, 8))
    rates.commit()
    assert rates.rates() == pytest.approx(expected, abs=1e-12)


def test_replicas_of_data_parallel_count(chain):
    given = torch.randn(2, 1, 8, 8)
    rates = watching(chain, given)
    chain.acts[0]._replicate_for_data_parallel()(torch.randn(2, 4, 8, 8, requires_grad=True))
    rates.commit()
    assert np.isfinite(rates.rates()[:4]).all()


def test_micro_batches_of_a_step_count_together_and_decay_once(chain):
    first, *later = (torch.randn(2, 1, 8, 8) for _ in range(4))
    rates = watching(chain, first, decay=0.5)
    of_first, of_later = brute_force(chain, [first]), None
    rates.commit()
    of_later = brute_force(chain, later)
    rates.commit()
    expected = (0.5 * of_first + 3 * of_later) / 3.5
    assert rates.rates() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("statistic", ["sign", "treves_rolls", "above_mean"])
def test_counting_some_steps_is_unbiased(chain, statistic):
    full = watching(chain, torch.zeros(2, 1, 8, 8), decay=1.0, statistic=statistic)
    sampled = OnRates(chain, full._groups, decay=1.0, every=4, statistic=statistic)
    generator = torch.Generator().manual_seed(0)
    for _ in range(240):
        chain(torch.randn(2, 1, 8, 8, generator=generator))
        full.commit()
        sampled.commit()
    errors = sampled.rates() - full.rates()
    # 60 of 240 steps; the SD of one step's on-rate over steps is below 0.05, so of their mean below 0.0065.
    assert np.abs(errors).max() < 0.026
    assert abs(errors.mean()) < 0.005
    assert full._total[0] == 4 * sampled._total[0]


@pytest.mark.parametrize("statistic", ["sign", "treves_rolls", "above_mean"])
def test_passes_of_a_step_accumulate_and_decay_once(chain, statistic):
    """Sums of several passes before one commit are one step's; only above_mean looks at each pass by itself."""
    first, *later = (torch.randn(2, 1, 8, 8) for _ in range(4))
    apart = watching(chain, first, decay=0.5, statistic=statistic)
    chain(first)
    apart.commit()
    for batch in later:
        chain(batch)
    apart.commit()
    apart.close()
    seen: list[Tensor] = []
    handle = chain.acts[1].register_forward_hook(lambda _, __, output: seen.append(output.detach().double()))
    for batch in (first, *later):
        chain(batch)
    handle.remove()
    if statistic == "treves_rolls":
        absolute, squares = ([f(h).sum((0, 2, 3)) for h in seen] for f in (torch.abs, torch.square))
        absolute, squares = (0.5 * each[0] + sum(each[1:]) for each in (absolute, squares))
        expected = absolute**2 / squares / (128 * 3.5)
    else:
        on = [(h > (h.mean() if statistic == "above_mean" else 0)).double().sum((0, 2, 3)) for h in seen]
        expected = (0.5 * on[0] + sum(on[1:])) / (128 * 3.5)
    assert apart.rates()[4:8] == pytest.approx(expected.numpy(), rel=1e-5)


@pytest.mark.parametrize("statistic", ["sign", "treves_rolls"])
def test_a_discarded_step_leaves_no_trace(chain, statistic):
    given = [torch.randn(2, 1, 8, 8) for _ in range(6)]
    whole = watching(chain, given[0], every=2, statistic=statistic)
    skipping = OnRates(chain, whole._groups, decay=0.9, every=2, statistic=statistic)
    for step, batch in enumerate(given):
        if step == 2:  # a counted step: of the skipping one it did not take place, so the next pass is counted
            whole.close()
            chain(torch.full((2, 1, 8, 8), 50.0))
            skipping.discard()
            assert not skipping._pending
            whole = restored(whole, chain, every=2, statistic=statistic)
        chain(batch)
        whole.commit()
        skipping.commit()
    assert skipping.state_dict()["steps"] == whole.state_dict()["steps"] == 6
    assert skipping.rates().tolist() == whole.rates().tolist()


def restored(rates: OnRates, net: nn.Module, **options: object) -> OnRates:
    """Another one with the same state, watching again."""
    again = OnRates(net, rates._groups, decay=0.9, **options)
    again.load_state_dict(rates.state_dict())
    return again


def test_skipped_steps_cost_no_counting(chain):
    rates = watching(chain, torch.zeros(1, 1, 8, 8), every=3)
    counted = []
    for _ in range(7):
        chain(torch.randn(1, 1, 8, 8))
        counted.append(bool(rates._pending))
        rates.commit()
    assert counted == [True, False, False, True, False, False, True]


def test_counts_are_integers_under_autocast(chain):
    given = torch.randn(2, 1, 8, 8)
    rates = watching(chain, given)
    with torch.autocast("cpu", torch.bfloat16):
        chain(given)
    assert {each.dtype for each in rates._pending.values()} == {torch.int64}
    rates.commit()
    on = torch.cat([torch.from_numpy(each) for each in rates._sums], 1)
    assert (on == on.round()).all()
    assert rates._total.tolist() == [128, 128, 128]


@pytest.mark.parametrize("statistic", ["sign", "treves_rolls", "above_mean"])
def test_moments_and_counts_of_autocast_activations(chain, statistic):
    """Bfloat16 activations give the statistic of their own values, not one of rounded sums."""
    given = torch.randn(8, 1, 32, 32)
    rates = watching(chain, given, statistic=statistic)
    seen: list[Tensor] = []
    handle = chain.acts[1].register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    with torch.autocast("cpu", torch.bfloat16):
        chain(given)
    handle.remove()
    rates.commit()
    h = seen[0].double()
    assert seen[0].dtype == torch.bfloat16
    threshold = h.mean() if statistic == "above_mean" else 0
    expected = (h > threshold).double().mean((0, 2, 3))
    if statistic == "treves_rolls":
        expected = h.abs().mean((0, 2, 3)) ** 2 / h.square().mean((0, 2, 3))
    assert rates.rates()[4:8] == pytest.approx(expected.numpy(), rel=1e-5)


def test_more_positions_than_float32_can_count():
    positions = 2**24 + 3
    net = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Identity())
    group = UnitGroup("wide", "relu", 1, 0, Observer("0", "input", 1, 0))
    rates = OnRates(net, [group], decay=1.0, every=1)
    values = torch.ones(1).expand(1, 1, positions)
    net[0].train()(values)
    net[0](torch.full((1, 1, 1), -1.0))
    rates.commit()
    assert rates._sums[0].tolist() == [[positions]]
    assert rates._total.tolist() == [positions + 1]
    for _ in range(3):
        net[0](torch.ones(1, 1, 1))
        rates.commit()
    assert rates._sums[0].tolist() == [[positions + 3]]


def test_one_shared_activation_module_is_told_apart_by_call():
    """Every group of this network is seen in the calls of one module, if nothing better is there."""
    torch.manual_seed(0)
    net, given = Residual().train(), torch.randn(2, 1, 8, 8)
    outputs: list[Tensor] = []
    handle = net.act.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
    net(given)
    handle.remove()
    groups = trace(net, given).groups
    assert {group.observer.call for group in groups if group.observer.module == "act"} <= {0, 1, 2, 3}
    shared = [
        UnitGroup(g.name, g.activation, g.size, g.first, Observer("act", "output", 1, 0, call))
        for call, g in enumerate(groups)
    ]
    for chosen in (groups, shared):
        rates = OnRates(net, chosen, decay=0.9, every=1)
        net(given)
        net(given)
        rates.commit()
        expected = torch.cat([(output > 0).double().mean((0, 2, 3)) for output in outputs])
        assert rates.rates() == pytest.approx(expected.numpy(), abs=1e-12)
        rates.close()


def test_dropout_and_pooling_between_unit_and_reader_do_not_change_its_rate():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1)
            self.drop, self.pool = nn.Dropout(0.5), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(self.drop(F.relu(self.first(x)))))

    torch.manual_seed(0)
    net, given = Pooled().train(), torch.randn(2, 1, 8, 8)
    rates = watching(net, given)
    net(given)
    rates.commit()
    assert rates.rates() == pytest.approx((net.first(given) > 0).double().mean((0, 2, 3)).numpy())


def test_units_that_no_module_shows_have_unknown_rates():
    class Unseen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(2, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.first(x)) + x.sum())

    net = Unseen().train()
    rates = watching(net, torch.zeros(4, 2))
    net(torch.randn(4, 2))
    rates.commit()
    assert np.isnan(rates.rates()).all()


def test_state_goes_there_and_back(chain):
    given = torch.randn(2, 1, 8, 8)
    one, other = watching(chain, given, every=2), watching(chain, given, every=2)
    for _ in range(3):
        chain(given)
        one.commit()
    other.load_state_dict(one.state_dict())
    for _ in range(2):
        chain(torch.randn(2, 1, 8, 8))
        one.commit()
        other.commit()
    assert one.rates().tolist() == other.rates().tolist()
    assert one.state_dict()["steps"] == other.state_dict()["steps"] == 5


def test_state_of_another_network_is_refused(chain):
    state = watching(Chain(5), torch.zeros(1, 1, 8, 8)).state_dict()
    with pytest.raises(SynbbError, match=r"sizes \[5, 5, 5\] does not fit"):
        watching(chain, torch.zeros(1, 1, 8, 8)).load_state_dict(state)


def test_state_of_another_statistic_is_refused(chain):
    given = torch.zeros(1, 1, 8, 8)
    state = watching(chain, given, statistic="treves_rolls").state_dict()
    for other in ("sign", "above_mean"):
        with pytest.raises(SynbbError, match=f"statistic 'treves_rolls' of first does not fit '{other}'"):
            watching(chain, given, statistic=other).load_state_dict(state)
    again = watching(chain, given, statistic="treves_rolls")
    again.load_state_dict(state)
    with pytest.raises(SynbbError, match="statistic 'treves' is not one of sign"):
        watching(chain, given, statistic="treves")


def test_auto_takes_each_activation_s_own_statistic():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 1)).train()
    given = torch.randn(50, 3)
    rates = watching(net, given, statistic="auto")
    net(given)
    rates.commit()
    h = net[:4](given).detach().double()
    assert rates.state_dict()["statistics"] == ["sign", "treves_rolls"]
    assert rates.rates()[:4] == pytest.approx((net[:2](given) > 0).double().mean(0).numpy())
    assert rates.rates()[4:] == pytest.approx((h.abs().mean(0) ** 2 / h.square().mean(0)).numpy(), rel=1e-5)


def test_rates_that_a_refresh_needs_and_that_are_unknown_are_named(chain):
    rates = watching(chain, torch.zeros(1, 1, 8, 8), statistic="treves_rolls")
    rates.check(np.zeros(0, dtype=np.int64))
    with pytest.raises(SynbbError, match="of second were never counted: run the model in training mode"):
        rates.check(np.array([5, 6]))
    chain(torch.randn(2, 1, 8, 8))
    rates.commit()
    rates.check(np.ones(12, dtype=bool))
    with torch.no_grad():
        chain.third.bias[1] = float("inf")
        chain.norms[2] = nn.Identity()
    chain(torch.randn(2, 1, 8, 8))
    rates.commit()
    rates.check(np.arange(8))
    rates.check(np.array([8, 10]))
    with pytest.raises(SynbbError, match=r"after step 2: values of third are not finite; lower the learning rate$"):
        rates.check(np.arange(12))


def test_rates_that_nothing_shows_are_named():
    groups = [UnitGroup("hidden", "relu", 2, 0, None), UnitGroup("seen", "relu", 2, 2, Observer("0", "output", 1, 0))]
    check_places(groups, np.array([2, 3]))
    with pytest.raises(SynbbError, match="no module reads or returns the units of hidden: make their activation"):
        check_places(groups, np.array([1]))


class Added(nn.Module):
    """x + relu(lin(x)): the activation's output is nobody's, unless it is a module's."""

    def __init__(self, activation: nn.Module | None) -> None:
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 2)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        inner = self.middle(x)
        x = x + (torch.relu(inner) if self.activation is None else self.activation(inner))
        return self.head(x)


def test_units_that_nothing_shows_are_an_error_when_the_pruner_is_attached() -> None:
    for density in (0.5, 1.0):
        net = Added(nn.ReLU())
        BudgetedBroadcast(density).attach(net, torch.zeros(1, 4), optimizer=torch.optim.SGD(net.parameters(), 0.1))
    net = Added(None)
    with pytest.raises(SynbbError, match="pruning needs on-rates, and no module reads or returns the units of"):
        BudgetedBroadcast(0.5).attach(net, torch.zeros(1, 4), optimizer=torch.optim.SGD(net.parameters(), 0.1))
    net = Added(None)
    schedule = Waypoints(((0, 1.0), (4, 0.5), (8, 1.0)), 2)  # it cuts before it ends dense
    with pytest.raises(SynbbError, match="no module reads or returns the units of"):
        BudgetedBroadcast(1.0, schedule=schedule).attach(
            net, torch.zeros(1, 4), optimizer=torch.optim.SGD(net.parameters(), 0.1)
        )
    net = Added(None)
    BudgetedBroadcast(1.0).attach(net, torch.zeros(1, 4), optimizer=torch.optim.SGD(net.parameters(), 0.1))


@pytest.mark.parametrize(("decay", "every"), [(0.0, 1), (1.1, 1), (0.9, 0)])
def test_impossible_settings(chain, decay, every):
    with pytest.raises(SynbbError, match=r"decay|count_every"):
        watching(chain, torch.zeros(1, 1, 8, 8), decay=decay, every=every)


def test_closing_takes_every_hook_off(chain):
    watching(chain, torch.zeros(1, 1, 8, 8)).close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chain.modules())


# ---- two processes ----


def test_two_processes_choose_the_masks_of_one_on_the_joint_batch(tmp_path: Path):
    one_refresh(0, 1, str(tmp_path))
    other = torch.multiprocessing.spawn(second_of_two, (str(tmp_path),), join=False)
    one_refresh(0, 2, str(tmp_path))
    while not other.join():
        pass
    alone, *ranks = (torch.load(tmp_path / f"{name}.pt", weights_only=False) for name in ("1_0", "2_0", "2_1"))
    for method, (masks, _, rates) in alone.items():
        assert rates.min() < rates.max()
        assert not all(mask.all() for mask in masks.values()), method
        exact = method != "treves_rolls"  # moments are sums of floats, counts are not
        for rank in ranks:
            theirs, state, rank_rates = rank[method]
            assert rank_rates == pytest.approx(rates, rel=0 if exact else 1e-5, abs=0 if exact else 1e-7)
            assert all(torch.equal(theirs[name], mask) for name, mask in masks.items()), method
            # Any rank's state is everybody's: rank 0 alone may write the checkpoint.
            ours = ranks[0][method][1]["activity"]["sums"]
            assert [each.tolist() for each in state["activity"]["sums"]] == [each.tolist() for each in ours]
    more_alone, *more = (torch.load(tmp_path / f"more_{name}.pt", weights_only=False) for name in ("alone", 0, 1))
    for theirs in more:
        assert torch.equal(theirs["branches"]["norms"], more[0]["branches"]["norms"])
        assert "weights differ between the processes" in theirs["differing"]
        for name in ("norms", "saliency"):
            expected = more_alone["Taylor"]["gradients"][name]
            torch.testing.assert_close(theirs["Taylor"]["gradients"][name], expected, rtol=1e-5, atol=1e-8)
        assert theirs["Wanda"]["inputs"]["counts"] == more_alone["Wanda"]["inputs"]["counts"]
        torch.testing.assert_close(theirs["Wanda"]["inputs"]["squares"], more_alone["Wanda"]["inputs"]["squares"])
    assert (more[0]["branches"]["norms"] > 0).float().mean() > 0.5  # of both branches


class Recomputed(nn.Module):
    """Convolutions of which the middle ones may be computed again in the backward pass."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.again = again
        self.first, self.act = nn.Conv1d(1, 8, 1), nn.ReLU()
        self.body = nn.Sequential(nn.Conv1d(8, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.ReLU())
        self.head = nn.Conv1d(8, 2, 1)

    def forward(self, given: Tensor) -> Tensor:
        """(n, 1, length) to (n, 2, length)."""
        stream = self.act(self.first(given))
        again = self.again and torch.is_grad_enabled()
        output: Tensor = self.head(checkpoint(self.body, stream, use_reentrant=False) if again else self.body(stream))
        return output


def test_what_checkpointing_computes_again_is_counted_once_and_under_the_mask() -> None:
    given, valid = torch.randn(4, 1, 16), torch.arange(16) < 8
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        net = Recomputed(again=again)
        rates = watching(net, given)
        with rates.valid(valid.expand(4, 1, 16)):
            loss = net(given).square().mean()
        loss.backward()
        rates.commit()
        found.append(rates.rates())
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].max() <= 1


def test_one_mask_for_activations_of_two_batch_sizes_is_refused() -> None:
    mask = ValidMask(torch.ones(2, 4, dtype=torch.bool))
    mask.at(torch.Size((2, 5, 4)), 1)
    with pytest.raises(SynbbError, match=r"valid mask of shape \(2, 4\) does not fit activations of shape \(8, 5, 4\)"):
        mask.at(torch.Size((8, 5, 4)), 1)
