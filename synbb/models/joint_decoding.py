"""Decoding by an encoder's CTC output and an attention decoder together, in one pass (Watanabe et al. 2017).

*Hybrid CTC/Attention Architecture for End-to-End Speech Recognition*, IEEE J. Sel. Top. Signal Process. 11: sequences
grow token by token, as the decoder needs it, and CTC scores a sequence that has only begun by its prefix probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from synbb.errors import SynbbError
from synbb.models.ctc import BLANK, Hypothesis

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LOWEST = -1e4
"""Log probabilities of CTC below this count as this: the scorer subtracts sums of them, which must stay finite."""


FAINT = 1e-280
"""Products of probabilities relative to their largest; what float64 cannot hold (1e-308) is nothing beside more."""


@dataclass(frozen=True)
class Prefixes:
    """Sequences that may go on, and log probabilities of their alignments with the first frames.

    Attributes:
        last: (B,) last token of each; the blank for an empty one.
        spoken: (B, T + 1) after 0 to T frames, of alignments that spell the sequence and end in its last token.
        blank: the same of those that end in a blank.
    """

    last: Tensor
    spoken: Tensor
    blank: Tensor


class PrefixScorer:
    """CTC probabilities of prefixes and complete sequences (algorithm 2 of Watanabe et al. 2017), in logarithms.

    All prefixes, tokens and frames are computed at once: the algorithm's recursions over frames are linear, so they
    are cumulative sums.

    Args:
        log_probabilities: (T, V) of one utterance, natural logarithms, each row a distribution.
    """

    def __init__(self, log_probabilities: Tensor) -> None:
        self._frames = log_probabilities.detach().cpu().double().clamp(min=LOWEST)
        self._tops = self._frames.amax(0) if len(self._frames) else self._frames.new_zeros(self._frames.shape[1])
        self._relative = (self._frames - self._tops).exp()

    def empty(self) -> Prefixes:
        """The empty sequence, as a batch of one."""
        blank = torch.cat([torch.zeros(1, dtype=torch.float64), self._frames[:, BLANK].cumsum(0)])[None]
        return Prefixes(torch.tensor([BLANK]), torch.full_like(blank, -torch.inf), blank)

    def continued(self, prefixes: Prefixes) -> Tensor:
        """Log probability (B, V) that an output begins with each prefix followed by each token.

        The blank's column has no meaning.
        """
        total = torch.logaddexp(prefixes.spoken, prefixes.blank)[:, :-1]
        scores = self._sums_over_frames(total)
        # The last token again is a new one only behind a blank.
        repeated = torch.logsumexp(prefixes.blank[:, :-1] + self._frames[:, prefixes.last].T, dim=1)
        return scores.scatter(1, prefixes.last[:, None], repeated[:, None])

    def _sums_over_frames(self, total: Tensor) -> Tensor:
        """Log (B, V) of the sums over t of exp(``total`` (B, T)) p_t: a matrix product, in units of the largest."""
        top = total.amax(1, keepdim=True).clamp(min=-1e300) if total.shape[1] else total.new_zeros(len(total), 1)
        sums = (total - top).exp() @ self._relative
        if (sums < FAINT).any():  # small numbers may have become zeros on the way: slow, but none is lost
            return torch.logsumexp(total[:, :, None] + self._frames, dim=1)
        return sums.log() + top + self._tops

    def complete(self, prefixes: Prefixes) -> Tensor:
        """Log probability (B,) that the output is each prefix and no more."""
        return torch.logaddexp(prefixes.spoken[:, -1], prefixes.blank[:, -1])

    def extend(self, prefixes: Prefixes, rows: Tensor, tokens: Tensor) -> Prefixes:
        """Prefixes ``rows`` (K,), each with one of ``tokens`` (K,) appended."""
        spoken, blank = prefixes.spoken[rows], prefixes.blank[rows]
        new = (tokens != prefixes.last[rows])[:, None]
        arriving = torch.where(new, torch.logaddexp(spoken, blank), blank)
        spoken = _carried(arriving, self._frames[:, tokens].T)
        return Prefixes(tokens, spoken, _carried(spoken, self._frames[:, BLANK].expand(len(tokens), -1)))


def _carried(arriving: Tensor, staying: Tensor) -> Tensor:
    """Log of x with x_0 = 0 and x_t = (x_(t-1) + a_(t-1)) p_t, from log a (K, T + 1) and log p (K, T).

    With P_t = p_1 ... p_t, x_t = P_t (a_0 / P_0 + ... + a_(t-1) / P_(t-1)).
    """
    survival = torch.nn.functional.pad(staying.cumsum(1), (1, 0))
    sums = torch.logcumsumexp(arriving[:, :-1] - survival[:, :-1], dim=1)
    return torch.nn.functional.pad(sums + survival[:, 1:], (1, 0), value=-torch.inf)


def joint_beam_search(
    ctc: Tensor,
    next_scores: Callable[[Tensor], Tensor],
    *,
    start: int,
    end: int,
    beam: int,
    ctc_weight: float,
    longest: int,
    wanted: int = 1,
) -> list[Hypothesis]:
    """The best sequences by ``ctc_weight`` log p_CTC + (1 - ``ctc_weight``) log p_attention.

    Sequences grow by a token at a time; of those that may go on the best ``beam`` are kept, those that have ended wait
    beside them (algorithm 1 of Watanabe et al. 2017). Neither probability grows with the length, so the score of an
    unfinished sequence bounds all that may come of it: the search ends when none in the beam can overtake the
    ``wanted`` best ended ones, which loses nothing, unlike the paper's threshold.

    Args:
        ctc: (T, V) log probabilities of one utterance, token 0 the blank; T also limits the length.
        next_scores: from sequences (B, U) int64 on the device of ``ctc``, ``start`` first, to log probabilities (B, V)
            of the next token; those of the blank and of ``start`` are passed over. Not called when ``ctc_weight`` is 1.
        start: number of the token that begins a sequence; never decoded.
        end: number of the token that ends one; may equal ``start``. Its column in ``ctc`` is passed over: CTC scores
            the end by the probability of the complete sequence.
        beam: unfinished sequences that are kept.
        ctc_weight: 0 is attention alone, 1 CTC alone.
        longest: most tokens of a sequence, without start and end; a sequence that long must end.
        wanted: sequences that are returned.

    Returns:
        At most ``wanted`` ended sequences, the best first; none when no end has a probability above zero.

    Raises:
        SynbbError: a beam, weight, length or count that makes no search, or a score that is no number.
    """
    _check(beam, ctc_weight, longest, wanted)
    scorer = PrefixScorer(ctc)
    prefixes = scorer.empty()
    sequences = torch.full((1, 1), start)
    attention = torch.zeros(1, dtype=torch.float64)
    limit = min(longest, len(ctc))
    found: list[Hypothesis] = []
    for length in range(limit + 1):
        scores = torch.zeros(len(sequences), ctc.shape[1], dtype=torch.float64)
        decoded = scores
        if ctc_weight < 1:
            decoded = attention[:, None] + next_scores(sequences.to(ctc.device)).detach().cpu().double()
            scores = scores + (1 - ctc_weight) * decoded
        if ctc_weight > 0:
            heard = scorer.continued(prefixes)
            heard[:, end] = scorer.complete(prefixes)
            scores = scores + ctc_weight * heard
        if scores.isnan().any():
            raise SynbbError(f"scores of token {length + 1} hold values that are not numbers (nan)")
        ended = zip(sequences[:, 1:].tolist(), scores[:, end].tolist(), strict=True)
        found += [Hypothesis(tuple(tokens), score) for tokens, score in ended if score > -torch.inf]
        found = sorted(found, key=lambda each: -each.score)[:wanted]
        bar = found[-1].score if len(found) == wanted else -torch.inf
        scores[:, [BLANK, start, end]] = -torch.inf
        best, places = scores.flatten().topk(min(beam, scores.numel()))
        places = places[best > bar]
        if length == limit or not len(places):
            break
        rows, tokens = places // scores.shape[1], places % scores.shape[1]
        sequences = torch.cat([sequences[rows], tokens[:, None]], dim=1)
        attention = decoded[rows, tokens]
        if ctc_weight > 0:
            prefixes = scorer.extend(prefixes, rows, tokens)
    return found


def _check(beam: int, ctc_weight: float, longest: int, wanted: int) -> None:
    if min(beam, wanted) < 1:
        raise SynbbError(f"a beam of {beam} and {wanted} wanted sequences: both must be at least 1")
    if not 0 <= ctc_weight <= 1:
        raise SynbbError(f"ctc_weight {ctc_weight} is no share: 0 (attention alone) to 1 (CTC alone)")
    if longest < 0:
        raise SynbbError(f"a longest sequence of {longest} tokens: 0 or more")
