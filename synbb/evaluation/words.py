"""Word and character error rates of transcripts, counted by utterance; alignments are those of the library jiwer.

Words are what white space separates, compared as they are written: case, punctuation and numbers must have been brought
into one form on both sides. Counts have one row an utterance, so that a bootstrap can draw utterances, or speakers
(:func:`sum_by_unit`), and count again: as ``Resampled("ratio", {"utterances": counts})`` for an error rate or
``Resampled("word_accuracy", ...)`` for 1 less the error rate.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synbb.errors import SynbbError, get_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Integers = NDArray[np.int64]

THIRDS = ("rare", "middle", "frequent")
UNSEEN = "unseen"
"""Class of words that training transcripts do not hold."""


@dataclass(frozen=True)
class Edits:
    """What turns references into hypotheses with the fewest edits.

    Attributes:
        reference: (utterances,) words or characters of each reference.
        substitutions: (utterances,) of them replaced.
        deletions: (utterances,) of them left out.
        insertions: (utterances,) words or characters of the hypothesis beyond those.
    """

    reference: Integers
    substitutions: Integers
    deletions: Integers
    insertions: Integers

    @property
    def counts(self) -> Integers:
        """(utterances, 2): errors, and words or characters of the reference."""
        return np.stack([self.substitutions + self.deletions + self.insertions, self.reference], axis=1)

    @property
    def rate(self) -> float:
        """Errors over reference words or characters; above 1 where much was inserted, nan without utterances."""
        return _share(self.counts)


@dataclass(frozen=True)
class WordErrors:
    """Errors of transcripts.

    Attributes:
        words: in words.
        characters: in characters, of which one space between words is one.
    """

    words: Edits
    characters: Edits

    @property
    def wer(self) -> float:
        """Word error rate."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate."""
        return self.characters.rate


def score_words(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Count the errors of transcripts.

    Args:
        references: what was said, an utterance each.
        hypotheses: what was recognised; may be empty texts.

    Raises:
        SynbbError: references without a word, another number of hypotheses, or jiwer is not installed.
    """
    references, hypotheses = _paired(references, hypotheses)
    library = word_library()
    if not references:
        return WordErrors(_edits([], []), _edits([], []))
    words = library.process_words(references, hypotheses)
    characters = library.process_characters(references, hypotheses)
    return WordErrors(_edits(words.references, words.alignments), _edits(characters.references, characters.alignments))


def frequency_thirds(training_texts: Iterable[str]) -> dict[str, str]:
    """Class of every word of the training transcripts: ``rare``, ``middle`` or ``frequent``.

    Words are put in order by how often they occur, those equally often by their letters (code points), and cut into
    thirds of the vocabulary, not of the running text; where three does not divide it, the rarer thirds are larger by
    one. Words of one count may so fall on both sides of a cut.

    Args:
        training_texts: transcripts, in the spelling of the references.

    Raises:
        SynbbError: fewer than three different words.
    """
    often = Counter(word for text in training_texts for word in text.split())
    if len(often) < len(THIRDS):
        raise SynbbError(f"training transcripts of {len(often)} different words cannot be cut into thirds")
    ordered = sorted(often, key=lambda word: (often[word], word))
    return {word: THIRDS[place * len(THIRDS) // len(ordered)] for place, word in enumerate(ordered)}


@dataclass(frozen=True)
class FrequencyErrors:
    """Reference words that were not recognised, by how frequent they are in training.

    Attributes:
        counts: rare, middle, frequent and unseen → (utterances, 2): reference words of the class that were missed, and
            all of them.
    """

    counts: Mapping[str, Integers]

    @property
    def shares(self) -> dict[str, float]:
        """Missed over all words of each class; nan for a class of none."""
        return {name: _share(counts) for name, counts in self.counts.items()}


def errors_by_frequency(
    references: Sequence[str], hypotheses: Sequence[str], thirds: Mapping[str, str]
) -> FrequencyErrors:
    """Errors of recall by class of word: reference words that jiwer's alignment substitutes or deletes.

    An inserted word stands for no reference word and so belongs to no class: these shares count fewer errors than the
    word error rate. Where several alignments have the fewest edits, jiwer takes one of them, which may move an error to
    a neighbouring word.

    Args:
        references: what was said, an utterance each.
        hypotheses: what was recognised.
        thirds: class of each word (:func:`frequency_thirds`); any other word is ``unseen``.

    Raises:
        SynbbError: as :func:`score_words`.
    """
    references, hypotheses = _paired(references, hypotheses)
    library = word_library()
    classes = (*THIRDS, UNSEEN)
    counts = np.zeros((len(classes), len(references), 2), np.int64)
    aligned = library.process_words(references, hypotheses).alignments if references else []
    for number, (reference, chunks) in enumerate(zip(references, aligned, strict=True)):
        of_word = [classes.index(thirds.get(word, UNSEEN)) for word in reference.split()]
        for chunk in chunks:
            for each in of_word[chunk.ref_start_idx : chunk.ref_end_idx]:  # none of an insertion
                counts[each, number] += (chunk.type != "equal", 1)
    return FrequencyErrors(dict(zip(classes, counts, strict=True)))


def sum_by_unit(counts: Integers, units: Sequence[str]) -> tuple[Integers, list[str]]:
    """Counts of larger resampling units, such as speakers.

    Args:
        counts: (utterances, ...).
        units: name of each utterance's unit.

    Returns:
        (units, ...) sums and the names of the units, sorted: the same order for every run on the same data.
    """
    names = sorted(set(units))
    rows = {name: row for row, name in enumerate(names)}
    sums = np.zeros((len(names), *counts.shape[1:]), np.int64)
    for unit, each in zip(units, counts, strict=True):
        sums[rows[unit]] += each
    return sums, names


def _paired(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both with single spaces (jiwer would take a tab for part of a word)."""
    if len(references) != len(hypotheses):
        raise SynbbError(f"{len(references)} references and {len(hypotheses)} hypotheses do not belong together")
    spaced = [" ".join(text.split()) for text in references]
    empty = [str(number) for number, text in enumerate(spaced) if not text]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise SynbbError(
            f"references without a word (numbered from 0): {', '.join(empty[:5])}{more}; an error rate divides by words"
        )
    return spaced, [" ".join(text.split()) for text in hypotheses]


def word_library() -> Any:
    """The library jiwer.

    Raises:
        SynbbError: it is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise SynbbError(
            f"word error rates are counted with jiwer, which is not installed; {get_extra('speech')}"
        ) from error
    return jiwer


def _edits(references: list[list[str]], alignments: list[list[Any]]) -> Edits:
    """Counts of jiwer's alignments."""
    kinds = ("substitute", "delete", "insert")
    counts = np.zeros((len(kinds), len(references)), np.int64)
    for number, chunks in enumerate(alignments):
        for chunk in chunks:
            if chunk.type in kinds:
                inserted, taken = chunk.hyp_end_idx - chunk.hyp_start_idx, chunk.ref_end_idx - chunk.ref_start_idx
                counts[kinds.index(chunk.type), number] += inserted if chunk.type == "insert" else taken
    return Edits(np.array([len(each) for each in references], np.int64), *counts)


def _share(counts: Integers) -> float:
    """Sum of the first column over that of the second; nan without any."""
    some, every = counts.sum(axis=0).tolist()
    return some / every if every else float("nan")
