"""Word and character error rates, by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.evaluation.words import (
    THIRDS,
    UNSEEN,
    Edits,
    errors_by_frequency,
    frequency_thirds,
    score_words,
    sum_by_unit,
)
from synbb.pruning.resampling import Resampled

texts = st.lists(st.sampled_from(["a", "b", "ab", "c"]), max_size=5).map(" ".join)


def columns(edits: Edits) -> list[list[int]]:
    return np.stack([edits.reference, edits.substitutions, edits.deletions, edits.insertions], axis=1).tolist()


def test_words_by_hand() -> None:
    references = ["the cat sat", "on the mat", "so it is"]
    hypotheses = ["the bat sat down", "on mat", ""]  # replaced and inserted; left out; nothing heard
    found = score_words(references, hypotheses)
    assert columns(found.words) == [[3, 1, 0, 1], [3, 0, 1, 0], [3, 0, 3, 0]]
    assert found.words.counts.tolist() == [[2, 3], [1, 3], [3, 3]]
    assert found.wer == pytest.approx(6 / 9)


def test_characters_by_hand_count_the_spaces() -> None:
    found = score_words(["ab cd", "abc", "ab"], ["ab xd", "ac", "ab c"])
    assert columns(found.characters) == [[5, 1, 0, 0], [3, 0, 1, 0], [2, 0, 0, 2]]
    assert found.cer == pytest.approx(4 / 10)
    assert columns(score_words(["ab cd"], ["abcd"]).characters) == [[5, 0, 1, 0]]


def test_white_space_is_no_word() -> None:
    found = score_words(["a\tb  c ", " d"], ["a b c", "  "])
    assert columns(found.words) == [[3, 0, 0, 0], [1, 0, 1, 0]]
    assert columns(found.characters) == [[5, 0, 0, 0], [1, 0, 1, 0]]


def test_more_may_be_wrong_than_was_said() -> None:
    found = score_words(["a"], ["b c d"])
    assert found.wer == 3.0
    assert Resampled("word_accuracy", {"utterances": found.words.counts}).score() == -2.0


@given(pairs=st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=4))
def test_counts_are_the_distance_of_the_words(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    found = score_words(references, hypotheses).words
    for number, (reference, hypothesis) in enumerate(pairs):
        one, other = reference.split(), hypothesis.split()
        row = np.arange(len(other) + 1)
        for place, word in enumerate(one):  # Wagner and Fischer's table, a row at a time
            above, row = row, np.full(len(other) + 1, place + 1)
            for k, heard in enumerate(other):
                row[k + 1] = min(above[k] + (word != heard), above[k + 1] + 1, row[k] + 1)
        assert found.counts[number].tolist() == [row[-1], len(one)]
        assert len(one) - found.deletions[number] + found.insertions[number] == len(other)


def test_counts_that_are_drawn_again() -> None:
    found = score_words(["a b", "c d e", "f"], ["a b", "c x", "f g"])
    assert Resampled("ratio", {"utterances": found.words.counts}).score() == pytest.approx(found.wer)
    accuracy = Resampled("word_accuracy", {"utterances": found.words.counts})
    assert accuracy.score() == pytest.approx(1 - found.wer)
    assert accuracy.scores({"utterances": np.array([[0, 0, 2]])}) == pytest.approx([0.0])
    by_speaker, names = sum_by_unit(found.words.counts, ["zoe", "amy", "zoe"])
    assert names == ["amy", "zoe"]
    assert by_speaker.tolist() == [[2, 3], [1, 3]]
    assert Resampled("word_accuracy", {"speakers": by_speaker}).score() == pytest.approx(1 - found.wer)


def test_thirds_of_the_vocabulary() -> None:
    thirds = frequency_thirds(["the cat the dog", "the  mat", "a cat"])
    # By count, then by letters: a 1, dog 1, mat 1, cat 2, the 3.
    assert thirds == {"a": "rare", "dog": "rare", "mat": "middle", "cat": "middle", "the": "frequent"}
    assert list(frequency_thirds(["c b a"]).items()) == [("a", "rare"), ("b", "middle"), ("c", "frequent")]
    with pytest.raises(SynbbError, match="2 different words cannot be cut into thirds"):
        frequency_thirds(["a b a", "b"])


@given(data=st.data(), words=st.lists(st.integers(0, 12).map(str), min_size=3, max_size=40))
def test_thirds_are_even_ordered_and_know_no_order_of_texts(data: st.DataObject, words: list[str]) -> None:
    assume(len(set(words)) >= 3)
    thirds = frequency_thirds(words)
    sizes = [list(thirds.values()).count(name) for name in THIRDS]
    assert max(sizes) - min(sizes) <= 1
    counts = {name: [words.count(word) for word, own in thirds.items() if own == name] for name in THIRDS}
    assert max(counts["rare"]) <= min(counts["middle"])
    assert max(counts["middle"]) <= min(counts["frequent"])
    assert frequency_thirds([" ".join(data.draw(st.permutations(words)))]) == thirds


def test_missed_words_by_how_often_training_holds_them() -> None:
    thirds = {"axolotl": "rare", "cat": "middle", "the": "frequent", "a": "frequent"}
    references = ["the axolotl sat", "the cat a cat"]
    hypotheses = ["the axe sat", "uh the cat cat"]  # axolotl replaced; uh inserted, a left out
    found = errors_by_frequency(references, hypotheses, thirds)
    assert {name: counts.tolist() for name, counts in found.counts.items()} == {
        "rare": [[1, 1], [0, 0]],
        "middle": [[0, 0], [0, 2]],
        "frequent": [[0, 1], [1, 2]],
        UNSEEN: [[0, 1], [0, 0]],
    }
    assert found.shares["rare"] == 1.0
    assert found.shares["frequent"] == pytest.approx(1 / 3)
    assert Resampled("ratio", {"utterances": found.counts["frequent"]}).score() == pytest.approx(1 / 3)
    assert np.isnan(errors_by_frequency(["the"], ["the"], thirds).shares["rare"])


@given(pairs=st.lists(st.tuples(texts.filter(bool), texts), max_size=4))
def test_classes_divide_the_errors_that_have_a_reference_word(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [one for one, _ in pairs], [other for _, other in pairs]
    whole = score_words(references, hypotheses).words
    found = errors_by_frequency(references, hypotheses, {"a": "rare", "b": "middle"})
    total = sum(found.counts.values())
    assert total[:, 0].tolist() == (whole.substitutions + whole.deletions).tolist()
    assert total[:, 1].tolist() == whole.reference.tolist()
    assert not found.counts["frequent"].any()


def test_no_utterances_are_no_rate() -> None:
    assert np.isnan(score_words([], []).wer)


def test_transcripts_that_cannot_be_scored() -> None:
    with pytest.raises(SynbbError, match=r"without a word \(numbered from 0\): 1, 2; an error rate"):
        score_words(["a", "", " \t"], ["a", "b", "c"])
    with pytest.raises(SynbbError, match=r"0, 1, 2, 3, 4 and 2 more"):
        errors_by_frequency([""] * 7, ["a"] * 7, {})
    with pytest.raises(SynbbError, match="2 references and 1 hypotheses"):
        score_words(["a", "b"], ["a"])


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(SynbbError, match=r"-e '\.\[speech\]'"):
        score_words(["a"], ["a"])
    with pytest.raises(SynbbError, match=r"-e '\.\[speech\]'"):
        errors_by_frequency(["a"], ["a"], {})
