"""From the outputs of connectionist temporal classification (CTC) to token sequences.

A CTC network gives each frame a distribution over tokens and a blank. An *alignment* is one token or blank a frame; it
spells a sequence once repeats are merged and then blanks dropped, and a sequence is as probable as all its alignments
together (Graves et al. 2006, *Connectionist Temporal Classification*).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

BLANK = 0
"""Number of the blank."""


@dataclass(frozen=True)
class Hypothesis:
    """A decoded sequence.

    Attributes:
        tokens: without blanks, start and end.
        score: natural logarithm; of what, the function that found it says.
    """

    tokens: tuple[int, ...]
    score: float


def greedy(log_probabilities: Tensor, lengths: Tensor) -> list[list[int]]:
    """The sequence that each utterance's most probable alignment spells (best path decoding).

    Args:
        log_probabilities: (N, T, V).
        lengths: (N,) frames of each utterance; later ones are padding.

    Returns:
        N lists of tokens.

    Raises:
        SynbbError: an utterance has more frames than there are.
    """
    best = log_probabilities.argmax(dim=-1).cpu()
    frames = [int(length) for length in lengths]
    if max(frames, default=0) > best.shape[1]:
        raise SynbbError(f"an utterance of {max(frames)} frames cannot be decoded from {best.shape[1]} of them")
    merged = (torch.unique_consecutive(row[:length]) for row, length in zip(best, frames, strict=True))
    return [[token for token in row.tolist() if token != BLANK] for row in merged]


def prefix_beam_search(log_probabilities: Tensor, beam: int, *, least: float | None = None) -> list[Hypothesis]:
    """The most probable sequences, by prefix beam search.

    The algorithm is that of Hannun et al. 2014 (*First-Pass Large Vocabulary Continuous Speech Recognition using
    Bi-Directional Recurrent DNNs*) without a language model, in logarithms.

    Frame by frame, the ``beam`` most probable prefixes are kept, each with the probability of its alignments that end
    in a blank and of those that end in its last token. Alignments of a prefix that fell out of the beam are lost, also
    when the prefix comes back; so a score never exceeds the sequence's log probability, and equals it when ``beam``
    holds every prefix.

    Args:
        log_probabilities: (T, V) of one utterance, natural logarithms, each row a distribution.
        beam: prefixes that are kept.
        least: tokens (the blank too) whose log probability lies more than this below the frame's best are left out;
            all are tried when None. 0 leaves the most probable alignment alone. It saves time where there are hundreds
            of tokens, not with tens.

    Returns:
        At most ``beam`` sequences, the best first, scored by the log probability of the alignments that were kept.

    Raises:
        SynbbError: a beam below 1, a negative ``least``, or a value that is no number.
    """
    if beam < 1:
        raise SynbbError(f"a beam of {beam} keeps nothing: at least 1")
    if least is not None and not least >= 0:
        raise SynbbError(f"least {least} would leave out every token: 0 or more")
    frames = log_probabilities.detach().cpu().numpy().astype(np.float64)
    if np.isnan(frames).any():
        raise SynbbError("CTC log probabilities hold values that are not numbers (nan)")
    if least is not None:
        frames = np.where(frames < frames.max(axis=1, keepdims=True) - least, -np.inf, frames)
    prefixes = _Prefixes(beam)
    for frame in frames:
        # Columns that are left out everywhere need not be tried; staying costs two look-ups in the whole row.
        prefixes.advance(frame, None if least is None else np.flatnonzero(frame > -np.inf))
    return prefixes.found()


class _Prefixes:
    """Prefixes of one frame, best first, as nodes of a tree: a prefix that comes back must be the same node again."""

    def __init__(self, beam: int) -> None:
        self._beam = beam
        self._children: dict[tuple[int, int], int] = {}
        self._parent, self._token = [-1], [BLANK]
        self._nodes = [0]
        self._blank, self._spoken = np.zeros(1), np.full(1, -np.inf)  # log probability by what alignments end in

    def advance(self, frame: NDArray[np.float64], kept: NDArray[np.int64] | None) -> None:
        """Take in a row (V,) of log probabilities; only tokens ``kept`` continue a prefix (None: all)."""
        nodes, held = self._nodes, len(self._nodes)
        last = [self._token[node] for node in nodes]
        total = np.logaddexp(self._blank, self._spoken)
        ends = frame[last]
        blank, spoken = total + frame[BLANK], self._spoken + ends
        wider = total[:, None] + frame
        # A token that repeats the last is a new one only behind a blank.
        wider[np.arange(held), last] = self._blank + ends
        wider[:, BLANK] = -np.inf
        place_of = {node: place for place, node in enumerate(nodes)}
        for place, node in enumerate(nodes):
            parent = place_of.get(self._parent[node])
            if parent is not None:  # its parent, continued, is this very prefix
                spoken[place] = np.logaddexp(spoken[place], wider[parent, last[place]])
                wider[parent, last[place]] = -np.inf
        tried = wider if kept is None else wider[:, kept]
        scores = np.concatenate([np.logaddexp(blank, spoken), tried.ravel()])
        best = scores.argpartition(-self._beam)[-self._beam :] if len(scores) > self._beam else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        chosen = best[scores[best] > -np.inf]
        stays = chosen < held
        own = np.where(stays, chosen, 0)
        self._blank = np.where(stays, blank[own], -np.inf)
        self._spoken = np.where(stays, spoken[own], scores[chosen])
        width = tried.shape[1]
        self._nodes = []
        for each in chosen.tolist():
            if each < held:
                self._nodes.append(nodes[each])
            else:
                parent, column = divmod(each - held, width)
                self._nodes.append(self._child(nodes[parent], column if kept is None else int(kept[column])))

    def _child(self, parent: int, token: int) -> int:
        node = self._children.setdefault((parent, token), len(self._parent))
        if node == len(self._parent):
            self._parent.append(parent)
            self._token.append(token)
        return node

    def found(self) -> list[Hypothesis]:
        """Prefixes and their log probabilities."""
        scores = np.logaddexp(self._blank, self._spoken).tolist()
        return [Hypothesis(self._spelt(node), score) for node, score in zip(self._nodes, scores, strict=True)]

    def _spelt(self, node: int) -> tuple[int, ...]:
        tokens = []
        while node:
            tokens.append(self._token[node])
            node = self._parent[node]
        return tuple(reversed(tokens))
