"""When masks change, and how many connections they leave."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.pruning import CubicSchedule

schedules = st.builds(
    CubicSchedule,
    density=st.floats(0.01, 1),
    warmup=st.integers(0, 30),
    ramp=st.integers(0, 30),
    refresh=st.integers(1, 40),
)


@given(schedules)
def test_density_falls_from_dense_to_the_one_asked_for(schedule):
    targets = [schedule.target(step) for step in range(schedule.end + 10)]
    assert all(after <= before for before, after in pairwise(targets))
    assert all(target == 1 for target in targets[: schedule.warmup])
    assert targets[-1] == schedule.density


@given(schedules)
def test_masks_change_in_the_ramp_only_and_last_at_its_end(schedule):
    changes = [step for step in range(1, schedule.end + 50) if schedule.refreshes(step)]
    if schedule.density == 1:
        assert not changes
        return
    assert changes[-1] == max(schedule.end, 1)
    assert schedule.target(changes[-1]) == schedule.density
    assert all(step > schedule.warmup or step == changes[-1] for step in changes)
    assert not any(schedule.is_final(step) for step in range(changes[-1]))
    assert schedule.is_final(changes[-1])


def test_ramp_is_cubic():
    schedule = CubicSchedule(0.2, 100, 200, 10)
    assert schedule.target(200) == pytest.approx(0.2 + 0.8 / 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 1, 1), "density 0 must"),
        ((1.5, 1, 1, 1), r"density 1\.5"),
        ((0.5, -1, 1, 1), "warmup of -1"),
        ((0.5, 1, -2, 1), "ramp of -2"),
        ((0.5, 1, 1, 0), "refresh of 0"),
    ],
)
def test_impossible_schedules(values, message):
    with pytest.raises(SynbbError, match=message):
        CubicSchedule(*values)
