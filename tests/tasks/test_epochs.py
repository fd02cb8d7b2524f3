"""Shuffled epochs: nothing is left out, ranks share a step, and where a run stands is no state."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from synbb.tasks.epochs import Epochs

counts, sizes, seeds = st.integers(1, 40), st.integers(1, 8), st.integers(0, 9)


def places(epochs: Epochs, steps: range) -> list[list[int]]:
    return [[each.place for each in epochs.drawn(step, 0, 1)] for step in steps]


@given(counts, sizes, seeds)
def test_an_epoch_has_every_item_once_in_an_order_of_its_own(count: int, size: int, seed: int) -> None:
    drawn = np.concatenate(places(Epochs(count, seed=seed, batch_size=size), range(count * 2)))
    for first in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[first : first + count]) == list(range(count))


def test_epochs_and_seeds_differ() -> None:
    epochs = [Epochs(30, seed=seed, batch_size=30) for seed in (0, 1)]
    orders = [tuple(batch) for each in epochs for batch in places(each, range(3))]
    assert len(set(orders)) == 6


@given(counts, sizes, seeds, st.integers(1, 4), st.integers(0, 30))
def test_ranks_share_a_step_whoever_asks_and_whenever(count: int, size: int, seed: int, ranks: int, step: int) -> None:
    lengths = [7 * item % 11 for item in range(count)]
    went_on = Epochs(count, seed=seed, batch_size=size, lengths=lengths)
    for earlier in range(step):
        went_on.drawn(earlier, 0, 1)
    whole = went_on.drawn(step, 0, 1)
    begun_here = Epochs(count, seed=seed, batch_size=size, lengths=lengths)
    shares = [begun_here.drawn(step, rank, ranks) for rank in range(ranks)]
    assert [whole[rank::ranks] for rank in range(ranks)] == shares
    assert len({each.seed for each in whole}) == size


def test_batches_are_of_about_one_length_and_come_in_no_order_of_lengths() -> None:
    lengths = np.random.default_rng(3).integers(50, 500, 640)
    batches = places(Epochs(640, seed=1, batch_size=16, lengths=lengths.tolist()), range(40))
    assert sorted(np.concatenate(batches)) == list(range(640))
    spread = [int(np.ptp(lengths[batch])) for batch in batches]
    assert max(spread) < 150  # of 450 over all; a window has 32 batches
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(40))[0, 1]) < 0.5


def test_a_training_set_smaller_than_a_batch_is_taken_more_than_once() -> None:
    (batch,) = places(Epochs(3, seed=0, batch_size=8, lengths=[5, 6, 7]), range(1))
    assert sorted(set(batch)) == [0, 1, 2]
    assert max(batch.count(item) for item in range(3)) == 3
