"""The statistics of an on-rate: worked numbers, number types, axes, masks, and values that are not finite."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synbb.errors import SynbbError
from synbb.pruning.statistics import RUN, check_statistic, count_true, rates, statistic_of, sums

BEFORE = torch.tensor([[-2.0, -1.0, 1.0, 3.0], [-1.0, -1.0, -1.0, 4.0]])
"""Pre-activations of two units at four positions."""

ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.5),
    "prelu": lambda x: F.prelu(x, torch.tensor(0.25)),
    "gelu": F.gelu,
    "silu": F.silu,
}

# Worked by hand from the values below, to four digits; (E|h|)² / E h² = (sum |h|)² / (4 sum h²).
#   relu        0 0 1 3        | 0 0 0 4                        mean 1      16 / 40            | 16 / 64
#   leaky_relu  -1 -.5 1 3     | -.5 -.5 -.5 4                  mean .625   5.5² / (4 11.25)   | 5.5² / (4 16.75)
#   prelu       -.5 -.25 1 3   | -.25 -.25 -.25 4               mean .8125  4.75² / (4 10.3125)| 4.75² / (4 16.1875)
#   gelu        -.0455 -.1587 .8413 2.9960 | -.1587 (3 times) 3.9999        4.0415² / (4 9.7111) | 4.4759² / (4 16.0744)
#   silu        -.2384 -.2689 .7311 2.8577 | -.2689 (3 times) 3.9281        4.0961² / (4 8.8302) | 4.7349² / (4 15.6466)
WORKED = {
    ("relu", "sign"): (0.5, 0.25),
    ("relu", "above_mean"): (0.25, 0.25),  # 1 is not above the mean of 1
    ("relu", "treves_rolls"): (0.4, 0.25),
    ("leaky_relu", "sign"): (0.5, 0.25),
    ("leaky_relu", "above_mean"): (0.5, 0.25),
    ("leaky_relu", "treves_rolls"): (0.6722, 0.4515),
    ("prelu", "sign"): (0.5, 0.25),
    ("prelu", "above_mean"): (0.5, 0.25),
    ("prelu", "treves_rolls"): (0.5470, 0.3485),
    ("gelu", "sign"): (0.5, 0.25),
    ("gelu", "above_mean"): (0.25, 0.25),  # the mean is 0.89
    ("gelu", "treves_rolls"): (0.4205, 0.3116),
    ("silu", "sign"): (0.5, 0.25),
    ("silu", "above_mean"): (0.25, 0.25),  # the mean is 0.77
    ("silu", "treves_rolls"): (0.4750, 0.3582),
}


def rate(statistic: str, values: Tensor, axis: int = 1, valid: Tensor | None = None) -> np.ndarray:
    found = sums(statistic, values, axis, valid).numpy()
    units = values.shape[axis]
    positions = values.numel() // units if valid is None else int(valid.sum())
    return rates(statistic, found, np.full(units, float(positions)))


@pytest.mark.parametrize(("activation", "statistic"), WORKED)
def test_worked_numbers(activation: str, statistic: str) -> None:
    values = ACTIVATIONS[activation](BEFORE)[None]
    assert rate(statistic, values) == pytest.approx(WORKED[activation, statistic], abs=6e-5)


@pytest.mark.parametrize("statistic", ["sign", "treves_rolls", "above_mean"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 9000), (7, 3), (4, 3, 1)])
def test_axes_and_valid_positions(statistic: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = F.silu(torch.randn(shape, generator=generator))
    valid = torch.rand((shape[0], 1, *shape[2:]), generator=generator) < 0.6
    flat = values.movedim(1, 0).flatten(1).double().numpy()
    kept = flat[:, valid.flatten().numpy()]

    def expected(h: np.ndarray) -> np.ndarray:
        if statistic == "treves_rolls":
            return np.abs(h).mean(1) ** 2 / (h**2).mean(1)
        return (h > (h.mean() if statistic == "above_mean" else 0)).mean(1)

    wrong = torch.where(valid, values, 1e6)  # what is not valid may be anything
    for axis in range(len(shape)):
        moved, there = wrong.movedim(1, axis), valid.movedim(1, axis)
        assert rate(statistic, moved, axis, there) == pytest.approx(expected(kept), rel=1e-6)
        assert rate(statistic, values.movedim(1, axis), axis) == pytest.approx(expected(flat), rel=1e-6)


@given(st.floats(0.01, 0.99), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_the_ratio_of_a_binary_unit_is_its_on_rate_at_any_gain(share: float, gain: float, seed: int) -> None:
    on = torch.rand(1, 2, 500, generator=torch.Generator().manual_seed(seed)) < share
    values = on.float() * gain
    assert rate("treves_rolls", values) == pytest.approx(on.double().mean((0, 2)).numpy(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_loses_no_positions(dtype: torch.dtype) -> None:
    """70,000 ones overflow float16, and bfloat16 stops counting at 256."""
    values = torch.ones(1, 2, 70_000, dtype=dtype)
    values[0, 1, 1::2] = 0
    found = sums("treves_rolls", values, 1)
    assert found.dtype == torch.float64
    assert found[0].tolist() == [70_000, 35_000]
    assert found[1].tolist() == pytest.approx([70_000, 35_000], rel=1e-6)
    assert sums("sign", values, 1).tolist() == [[70_000, 35_000]]
    assert sums("above_mean", values, 1).tolist() == [[70_000, 35_000]]
    squares = sums("treves_rolls", torch.full((1, 1, 8), 60_000 if dtype == torch.float16 else 1e6, dtype=dtype), 1)[1]
    assert np.isfinite(squares.item())


def test_runs_in_float32_stay_close_to_float64() -> None:
    values = torch.randn(2, 3, 20 * RUN + 17, generator=torch.Generator().manual_seed(0)) * 7
    exact = values.double()
    expected = torch.stack([exact.abs().sum((0, 2)), exact.square().sum((0, 2))])
    assert torch.allclose(sums("treves_rolls", values, 1), expected, rtol=1e-6, atol=0)


def test_sums_add_up_over_parts() -> None:
    values = torch.randn(6, 3, 40, generator=torch.Generator().manual_seed(0))
    for statistic in ("sign", "treves_rolls"):
        parts = sum(sums(statistic, part, 1) for part in values.split(2))
        assert torch.allclose(parts.double(), sums(statistic, values, 1).double(), rtol=1e-6)


def test_a_silent_unit_has_rate_zero_and_an_unseen_one_none() -> None:
    for statistic in ("sign", "treves_rolls", "above_mean"):
        assert rate(statistic, torch.zeros(2, 1, 5)).tolist() == [0.0]
        assert np.isnan(rates(statistic, np.zeros((2, 1)), np.zeros(1))).all()
        nothing = torch.zeros(2, 1, 5, dtype=torch.bool)
        assert sums(statistic, torch.ones(2, 1, 5), 1, nothing).sum() == 0
    assert sums("treves_rolls", torch.zeros(0, 3, 4), 1).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_give_no_rate(value: float) -> None:
    values = torch.ones(1, 2, 5)
    values[0, 0, 3] = value
    found = rate("treves_rolls", values)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(1.0)


def test_the_statistic_of_a_group() -> None:
    for activation in ("relu", "relu6", "threshold"):
        assert statistic_of(SimpleNamespace(activation=activation, gated=True), "auto") == "sign"
    for activation in ("gelu", "silu", "leaky_relu", "prelu", "elu"):
        group = SimpleNamespace(activation=activation, gated=True)
        assert statistic_of(group, "auto") == "treves_rolls"
        assert statistic_of(group, "sign") == "sign"
        assert statistic_of(group, "above_mean") == "above_mean"
    for asked in ("sign", "above_mean", "treves_rolls", "auto"):
        assert statistic_of(SimpleNamespace(activation="relu", gated=False), asked) == "treves_rolls"
    with pytest.raises(SynbbError, match="statistic 'mean' is not one of sign, treves_rolls, above_mean, auto"):
        check_statistic("mean")


# ---- counting ----


@given(
    st.lists(st.integers(1, 5), min_size=0, max_size=2),
    st.sampled_from([1, 7, 8, 255, 2040, 2048, 4081, 8 * 255 * 3 + 16]),
    st.integers(0, 1),
    st.floats(0, 1),
)
def test_counting_by_words_is_counting(lead: list[int], length: int, axis: int, share: float) -> None:
    shape = [2, 3, *lead, length]
    on = torch.rand(shape, generator=torch.Generator().manual_seed(length)) < share
    expected = on.transpose(0, axis).flatten(1).sum(1)
    assert torch.equal(count_true(on, axis), expected)
    strided = on.transpose(2, -1)
    assert torch.equal(count_true(strided, axis), expected)


def test_counting_by_words_cannot_overflow_a_byte() -> None:
    assert count_true(torch.ones(2, 3, 8 * 255 * 40, dtype=torch.bool), 1).tolist() == [2 * 8 * 255 * 40] * 3
