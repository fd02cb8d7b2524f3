"""The pruning settings of a run: what contradicts what, and the pruner they make."""

from __future__ import annotations

from typing import Any

import pytest

from synbb.errors import SynbbError
from synbb.pruning import BudgetedBroadcast
from synbb.schema import validated
from synbb.training.pruning import PruningSettings, make_pruner


def settings(**values: Any) -> PruningSettings:
    return validated(PruningSettings, values, "study")


@pytest.mark.parametrize("method", ["magnitude", "set", "activity-only", "my.module:score"])
def test_a_local_budget_is_for_methods_that_have_one(method: str) -> None:
    with pytest.raises(SynbbError, match=f"tau 0.3 is for method bb and its kin, and method is {method}: remove it"):
        settings(method=method, tau=0.3)


def test_a_score_of_ones_own_is_of_no_whole_units() -> None:
    with pytest.raises(
        SynbbError, match=r"\(mine:score\) is of kernels or weights, not of whole units: give connection"
    ):
        settings(method="mine:score", connection="unit", density=0.3)


def test_a_local_budget_settles_the_density() -> None:
    with pytest.raises(SynbbError, match=r"density 0.1 contradicts tau 0.3, .* leave density out$"):
        settings(density=0.1, tau=0.3)
    given = settings(tau=0.3)
    assert validated(PruningSettings, given.model_dump(), "stored") == given
    for each in (given, settings(tau=0.3, density=1)):
        pruner = make_pruner(each, 100, 0)
        assert isinstance(pruner, BudgetedBroadcast)
        assert (pruner.tau, pruner.schedule.density) == (0.3, 0.3)
    assert settings(method="none", tau=0.3, density=0.1).tau == 0.3  # nothing of it has an effect


def test_a_schedule_ends_at_the_density_or_the_local_budget() -> None:
    points = [[0.1, 1.0], [0.5, 0.3]]
    with pytest.raises(SynbbError, match=r"schedule ends at 0.3, which contradicts density 0.25: make them equal"):
        settings(schedule=points)
    with pytest.raises(SynbbError, match=r"schedule ends at 0.3, which contradicts tau 0.2"):
        settings(schedule=points, tau=0.2)
    pruner = make_pruner(settings(schedule=points, tau=0.3), 100, 0)
    assert pruner is not None
    assert (pruner.schedule.end, pruner.schedule.target(50)) == (50, 0.3)


@pytest.mark.parametrize(("steps", "warmup", "ramp"), [(2003, 0.5, 0.5), (15, 0.1, 0.9)])
def test_masks_are_final_at_the_last_step_however_shares_of_the_steps_round(steps, warmup, ramp):
    pruner = make_pruner(settings(warmup=warmup, ramp=ramp), steps, 0)
    assert pruner is not None
    assert pruner.schedule.end == steps
