"""CTC decoding against the enumeration of all alignments."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from synbb.errors import SynbbError
from synbb.models.ctc import BLANK, greedy, prefix_beam_search

Enumerated = dict[tuple[int, ...], float]


def outputs(seed: int, frames: int, tokens: int, sharpness: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(frames, tokens, generator=generator, dtype=torch.float64)).log_softmax(-1)


def spelt(alignment: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(alignment) if token != BLANK)


def enumerate_all(log_probabilities: torch.Tensor) -> Enumerated:
    """Log probability of every sequence: the sum over the alignments that spell it."""
    found: Enumerated = {}
    frames, tokens = log_probabilities.shape
    for alignment in itertools.product(range(tokens), repeat=frames):
        score = sum(float(row[token]) for row, token in zip(log_probabilities, alignment, strict=True))
        found[spelt(alignment)] = np.logaddexp(found.get(spelt(alignment), -math.inf), score)
    return found


def as_by_torch(log_probabilities: torch.Tensor, tokens: tuple[int, ...]) -> float:
    """Log probability of a sequence by torch's CTC loss."""
    target = torch.tensor([tokens], dtype=torch.int64)
    lengths = torch.tensor([len(log_probabilities)]), torch.tensor([len(tokens)])
    return -float(F.ctc_loss(log_probabilities[:, None], target, *lengths, blank=BLANK, reduction="sum"))


def test_greedy_merges_repeats_then_drops_blanks() -> None:
    paths = torch.tensor([[1, 1, 0, 1, 2, 2], [0, 0, 3, 3, 1, 1], [0, 0, 0, 2, 2, 2]])
    log_probabilities = F.one_hot(paths, 4).float().log_softmax(-1)
    assert greedy(log_probabilities, torch.tensor([6, 4, 3])) == [[1, 1, 2], [3], []]
    assert greedy(log_probabilities, torch.tensor([5, 0, 6])) == [[1, 1, 2], [], [2]]
    with pytest.raises(SynbbError, match="an utterance of 7 frames cannot be decoded from 6"):
        greedy(log_probabilities, torch.tensor([6, 7, 3]))


@given(seed=st.integers(0, 10**6), frames=st.integers(0, 5), tokens=st.integers(2, 4))
def test_a_beam_that_holds_everything_is_the_enumeration(seed: int, frames: int, tokens: int) -> None:
    log_probabilities = outputs(seed, frames, tokens)
    wanted = enumerate_all(log_probabilities)
    found = prefix_beam_search(log_probabilities, beam=len(wanted) + 1)
    assert {each.tokens for each in found} == wanted.keys()
    assert len(found) == len(wanted)
    for each in found:
        assert each.score == pytest.approx(wanted[each.tokens], abs=1e-9)
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)


@given(seed=st.integers(0, 10**6), beam=st.integers(1, 6), least=st.none() | st.floats(0, 6))
def test_no_sequence_scores_above_its_probability(seed: int, beam: int, least: float | None) -> None:
    # Twelve frames and few tokens: prefixes fall out of the beam and come back.
    log_probabilities = outputs(seed, 12, 4, sharpness=1.0)
    found = prefix_beam_search(log_probabilities, beam, least=least)
    assert 1 <= len(found) <= beam
    assert len({each.tokens for each in found}) == len(found), "one sequence stands in the beam twice"
    for each in found:
        assert each.score <= as_by_torch(log_probabilities, each.tokens) + 1e-9


def test_a_prefix_that_came_back_meets_its_continuation_again() -> None:
    # The prefix 1 2 falls out of the beam while 1 2 1 stays, and comes back from 1; its 1 2 1 is the one that stayed.
    log_probabilities = torch.tensor(
        [[0.1, 0.8, 0.1], [0.0, 0.7, 0.3], [0.0, 1.0, 0.0], [0.1, 0.5, 0.4], [0.1, 0.9, 0.0]]
    ).log()
    found = prefix_beam_search(log_probabilities, 3)
    assert [each.tokens for each in found] == [(1, 2, 1), (1,), (1, 1)]
    stayed = 0.8 * 0.3 * 1.0 * (0.1 * 0.1 + 0.5 * 0.1 + 0.5 * 0.9)
    came_back = (0.1 + 0.8) * 0.7 * 1.0 * 0.4 * 0.9
    assert math.exp(found[0].score) == pytest.approx(stayed + came_back)


@given(seed=st.integers(0, 10**6), frames=st.integers(1, 20))
def test_only_the_best_token_of_each_frame_is_the_greedy_path(seed: int, frames: int) -> None:
    log_probabilities = outputs(seed, frames, 5)
    (found,) = prefix_beam_search(log_probabilities, 4, least=0.0)
    assert list(found.tokens) == greedy(log_probabilities[None], torch.tensor([frames]))[0]
    assert found.score == pytest.approx(float(log_probabilities.max(dim=1).values.sum()), abs=1e-9)


def test_leaving_out_improbable_tokens_by_hand() -> None:
    log_probabilities = torch.tensor([[0.5, 0.4, 0.1], [0.05, 0.9, 0.05]]).log()
    exact = {each.tokens: math.exp(each.score) for each in prefix_beam_search(log_probabilities, 10)}
    assert exact[(1,)] == pytest.approx(0.5 * 0.9 + 0.4 * 0.9 + 0.4 * 0.05)
    assert exact[(2, 1)] == pytest.approx(0.1 * 0.9)
    few = {each.tokens: math.exp(each.score) for each in prefix_beam_search(log_probabilities, 10, least=math.log(2.0))}
    assert few == {(1,): pytest.approx(0.5 * 0.9 + 0.4 * 0.9)}
    everything = prefix_beam_search(log_probabilities, 10, least=math.inf)
    assert everything == prefix_beam_search(log_probabilities, 10)


def test_the_sum_over_alignments_beats_the_best_one() -> None:
    # Best path: two blanks (0.36). Of all alignments three spell "a": 0.4 * 0.6 * 2 + 0.4 * 0.4.
    log_probabilities = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy(log_probabilities[None], torch.tensor([2])) == [[]]
    best = prefix_beam_search(log_probabilities, 2)[0]
    assert best.tokens == (1,)
    assert math.exp(best.score) == pytest.approx(0.64)


def test_tokens_that_cannot_be() -> None:
    log_probabilities = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]).log()
    found = prefix_beam_search(log_probabilities, 9)
    assert {each.tokens: math.exp(each.score) for each in found} == {
        (1, 1): pytest.approx(0.5),
        (1, 2): pytest.approx(0.5),
    }


def test_searches_that_cannot_be() -> None:
    log_probabilities = outputs(0, 3, 3)
    with pytest.raises(SynbbError, match="a beam of 0"):
        prefix_beam_search(log_probabilities, 0)
    with pytest.raises(SynbbError, match=r"least -1.0 would leave out every token"):
        prefix_beam_search(log_probabilities, 2, least=-1.0)
    log_probabilities[1, 1] = math.nan
    with pytest.raises(SynbbError, match="not numbers"):
        prefix_beam_search(log_probabilities, 2)
