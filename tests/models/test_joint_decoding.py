"""Joint decoding against the enumeration of alignments, and of sequences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from synbb.errors import SynbbError
from synbb.models.ctc import BLANK, Hypothesis, prefix_beam_search
from synbb.models.joint_decoding import PrefixScorer, joint_beam_search

TOKENS = 5
EDGE = 4  # start and end are one token here, as in most toolkits


def outputs(seed: int, frames: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(frames, tokens, generator=generator, dtype=torch.float64)).log_softmax(-1)


def without_edge(log_probabilities: Tensor) -> Tensor:
    """CTC outputs that never hold the token of start and end."""
    return torch.cat([log_probabilities, torch.full((len(log_probabilities), 1), -torch.inf)], dim=1)


class Table:
    """A decoder whose next token depends on the last one and the length, from a random table."""

    def __init__(self, seed: int, tokens: int = TOKENS, ends: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(40, tokens, tokens, generator=generator, dtype=torch.float64)
        logits[:, :, EDGE] += ends
        self.table = logits.log_softmax(-1)
        self.calls = 0

    def __call__(self, sequences: Tensor) -> Tensor:
        assert (sequences[:, 0] == EDGE).all()
        self.calls += 1
        return self.table[sequences.shape[1] - 1, sequences[:, -1]]

    def score(self, tokens: tuple[int, ...]) -> float:
        whole = (EDGE, *tokens, EDGE)
        return sum(float(self.table[i, a, b]) for i, (a, b) in enumerate(itertools.pairwise(whole)))


def begins(alignment: tuple[int, ...], prefix: tuple[int, ...]) -> bool:
    spelt = [token for token, _ in itertools.groupby(alignment) if token != BLANK]
    return tuple(spelt[: len(prefix)]) == prefix


def by_torch(ctc: Tensor, tokens: tuple[int, ...]) -> float:
    """Log probability of a sequence by torch's CTC loss; -inf where it needs more frames."""
    lengths = torch.tensor([len(ctc)]), torch.tensor([len(tokens)])
    target = torch.tensor([tokens], dtype=torch.int64)
    return -float(F.ctc_loss(ctc[:, None], target, *lengths, blank=BLANK, reduction="sum"))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 5))
def test_prefix_scores_are_sums_over_alignments(seed: int, frames: int) -> None:
    tokens = 3
    ctc = outputs(seed, frames, tokens)
    alignments = list(itertools.product(range(tokens), repeat=frames))
    scores = [sum(float(ctc[t, k]) for t, k in enumerate(each)) for each in alignments]
    scorer = PrefixScorer(ctc)
    prefixes, spelt = scorer.empty(), [()]
    for _ in range(4):  # beyond what some numbers of frames can spell
        found = scorer.continued(prefixes)
        for row, prefix in enumerate(spelt):
            for token in range(1, tokens):
                wanted = [s for a, s in zip(alignments, scores, strict=True) if begins(a, (*prefix, token))]
                assert float(found[row, token]) == pytest.approx(np.logaddexp.reduce(wanted or [-math.inf]), abs=1e-9)
        for prefix, score in zip(spelt, scorer.complete(prefixes).tolist(), strict=True):
            assert score == pytest.approx(by_torch(ctc, prefix), abs=1e-9)
        rows = torch.arange(len(spelt)).repeat_interleave(tokens - 1)
        added = torch.arange(1, tokens).repeat(len(spelt))
        prefixes = scorer.extend(prefixes, rows, added)
        spelt = [(*prefix, token) for prefix in spelt for token in range(1, tokens)]


def test_prefix_scores_of_a_long_utterance_keep_their_digits() -> None:
    # Sums of logarithms go to -10000 here; an improbable sequence meets the same probability as in torch.
    ctc = (12 * torch.randn(900, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).log_softmax(-1)
    scorer, tokens = PrefixScorer(ctc), (3, 3, 7, 1, 19)
    prefixes = scorer.empty()
    for token in tokens:
        before = float(scorer.continued(prefixes)[0, token])
        prefixes = scorer.extend(prefixes, torch.tensor([0]), torch.tensor([token]))
    assert float(scorer.complete(prefixes)) == pytest.approx(by_torch(ctc, tokens), rel=1e-12)
    assert before > float(scorer.complete(prefixes))


@pytest.mark.parametrize("certain", [5.0, 300.0, 2000.0])
def test_prefix_scores_beyond_what_products_of_probabilities_hold(certain: float) -> None:
    # 1 or 2 at first, then nothing: the more certain, the fainter is 1 behind 2. e^-2000 is 0 in float64.
    ctc = outputs(4, 8, 3)
    ctc[torch.arange(8), torch.tensor([1, 0, 0, 0, 0, 0, 0, 0])] += certain
    ctc[0, 2] += certain
    ctc = ctc.log_softmax(-1)
    scorer = PrefixScorer(ctc)
    prefixes = scorer.extend(scorer.empty(), torch.tensor([0, 0]), torch.tensor([1, 2]))
    before = torch.logaddexp(prefixes.blank, prefixes.spoken)[:, :-1]
    found = scorer.continued(prefixes)
    for row, token in [(0, 2), (1, 1)]:
        wanted = np.logaddexp.reduce((before[row] + ctc[:, token]).numpy())
        assert float(found[row, token]) == pytest.approx(wanted, rel=1e-12)
    assert by_torch(ctc, (2,)) == pytest.approx(float(scorer.complete(prefixes)[1]), rel=1e-12)


@given(seed=st.integers(0, 10**6), frames=st.integers(0, 6))
def test_ctc_alone_finds_what_prefix_search_finds(seed: int, frames: int) -> None:
    ctc = without_edge(outputs(seed, frames, EDGE))

    def nothing(sequences: Tensor) -> Tensor:
        raise AssertionError("attention has no weight")

    wanted = prefix_beam_search(ctc, 2000)
    found = joint_beam_search(ctc, nothing, start=EDGE, end=EDGE, beam=800, ctc_weight=1.0, longest=9, wanted=3)
    assert [each.tokens for each in found] == [each.tokens for each in wanted[:3]]
    assert [each.score for each in found] == pytest.approx([each.score for each in wanted[:3]], abs=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), weight=st.sampled_from([0.0, 0.3, 0.8, 1.0]), longest=st.integers(0, 4))
def test_a_wide_beam_finds_the_best_of_all_sequences(seed: int, weight: float, longest: int) -> None:
    table, ctc = Table(seed), without_edge(outputs(seed + 1, 4, EDGE))

    def score(tokens: tuple[int, ...]) -> float:
        attention = (1 - weight) * table.score(tokens) if weight < 1 else 0.0
        return attention + (weight * by_torch(ctc, tokens) if weight > 0 else 0.0)

    every = [each for n in range(longest + 1) for each in itertools.product(range(1, EDGE), repeat=n)]
    wanted = sorted(((score(each), each) for each in every), reverse=True)[:5]
    wanted = [each for each in wanted if each[0] > -math.inf]
    found = joint_beam_search(ctc, table, start=EDGE, end=EDGE, beam=100, ctc_weight=weight, longest=longest, wanted=5)
    assert [each.score for each in found[: len(wanted)]] == pytest.approx([each[0] for each in wanted], abs=1e-9)
    assert [each.tokens for each in found[: len(wanted)]] == [each[1] for each in wanted]


@given(seed=st.integers(0, 10**6), beam=st.integers(1, 4), weight=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_narrow_beam_scores_what_it_returns(seed: int, beam: int, weight: float) -> None:
    table, ctc = Table(seed), without_edge(outputs(seed + 1, 9, EDGE))
    found = joint_beam_search(ctc, table, start=EDGE, end=EDGE, beam=beam, ctc_weight=weight, longest=6, wanted=4)
    assert len({each.tokens for each in found}) == len(found)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    for each in found:
        heard = weight * by_torch(ctc, each.tokens) if weight > 0 else 0.0  # what frames cannot spell has -inf
        exact = (1 - weight) * table.score(each.tokens) + heard
        assert each.score == pytest.approx(exact, abs=1e-9)


def test_ctc_that_is_certain_of_a_frame_keeps_its_digits() -> None:
    # Logarithms of 0 stand in the way of every token: 1 1 and 1 2, by half each.
    ctc = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]).log()
    ctc = torch.cat([ctc, torch.full((4, EDGE - 2), -torch.inf)], dim=1)
    found = joint_beam_search(ctc, Table(0), start=EDGE, end=EDGE, beam=3, ctc_weight=1.0, longest=9, wanted=2)
    assert {each.tokens for each in found} == {(1, 1), (1, 2)}
    assert [math.exp(each.score) for each in found] == pytest.approx([0.5, 0.5])


def test_start_and_end_may_be_two_tokens() -> None:
    # 1 opens, 2 closes; the decoder likes 3 once, and would like to open again if it could.
    table = torch.tensor([[0, 0, 0, 0], [0.01, 0.01, 0.08, 0.9], [0, 0, 0, 0], [0.0, 0.5, 0.4, 0.1]]).log()
    found = joint_beam_search(
        outputs(0, 5, 4), lambda s: table[s[:, -1]], start=1, end=2, beam=3, ctc_weight=0.0, longest=5, wanted=2
    )
    assert [each.tokens for each in found] == [
        (3,),
        (),
    ]
    assert [math.exp(each.score) for each in found] == pytest.approx([0.36, 0.08])


def search(ctc: Tensor, table: Callable[[Tensor], Tensor], weight: float, longest: int = 20) -> list[Hypothesis]:
    return joint_beam_search(ctc, table, start=EDGE, end=EDGE, beam=4, ctc_weight=weight, longest=longest)


def test_the_search_ends_once_nothing_can_overtake() -> None:
    eager = Table(0, ends=12.0)
    assert search(without_edge(outputs(0, 30, EDGE)), eager, 0.0)[0].tokens == ()
    assert eager.calls == 1, "an end of nearly all probability cannot be overtaken"


@pytest.mark.parametrize(("frames", "longest", "length"), [(30, 7, 7), (5, 20, 5), (0, 20, 0), (30, 0, 0)])
def test_a_decoder_that_never_wants_to_end_is_cut(frames: int, longest: int, length: int) -> None:
    endless = Table(0, ends=-200.0)
    ctc = without_edge(outputs(0, frames, EDGE))
    (found,) = search(ctc, endless, 0.0, longest)
    assert found.score < -150
    assert endless.calls == length + 1, "nothing that has ended may stop it: going on costs less"
    assert len(found.tokens) <= length


def test_without_any_end_nothing_is_found() -> None:
    endless = Table(0, ends=-math.inf)
    assert search(without_edge(outputs(0, 6, EDGE)), endless, 0.3) == []


def test_searches_that_cannot_be() -> None:
    ctc, table = without_edge(outputs(0, 6, EDGE)), Table(0)
    common = {"start": EDGE, "end": EDGE, "longest": 3}
    with pytest.raises(SynbbError, match="a beam of 0 and 1 wanted"):
        joint_beam_search(ctc, table, beam=0, ctc_weight=0.5, **common)
    with pytest.raises(SynbbError, match=r"ctc_weight 1.5 is no share"):
        joint_beam_search(ctc, table, beam=2, ctc_weight=1.5, **common)
    with pytest.raises(SynbbError, match="a longest sequence of -1 tokens"):
        joint_beam_search(ctc, table, beam=2, ctc_weight=0.5, **{**common, "longest": -1})
    with pytest.raises(SynbbError, match="scores of token 1 hold values that are not numbers"):
        search(ctc, lambda s: torch.full((len(s), TOKENS), math.nan), 0.3)
