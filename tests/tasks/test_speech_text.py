"""Transcripts and tokens."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.tasks.speech_text import (
    Characters,
    Subwords,
    characters_of,
    normalised,
    restore_vocabulary,
)

TEXTS = ["GO TO FIVE", "ENTER SIX SEVEN", "STOP", "HELP ME", "GO BACK", "SEVEN ELEVEN", "NO"] * 8


def test_one_case_and_single_spaces():
    assert normalised("  Go\tto  Ä ", "upper") == "GO TO Ä"
    assert normalised("Go On", "lower") == "go on"
    assert normalised("Go  On", "keep") == "Go On"


@pytest.mark.parametrize("case", ["upper", "lower", "keep"])
@pytest.mark.parametrize("text", ["é café", "ΐ ά", "ḯ"])
def test_a_letter_is_one_however_its_accents_are_stored(case, text):
    composed, apart = (normalised(unicodedata.normalize(form, text), case) for form in ("NFC", "NFD"))
    assert composed == apart == unicodedata.normalize("NFC", composed)
    assert characters_of([composed]).unknown(apart) == ""


@given(st.lists(st.text(alphabet="AB' É", min_size=1), min_size=1))
def test_characters_come_back(texts):
    vocabulary = characters_of(texts)
    for text in texts:
        tokens = vocabulary.encode(normalised(text, "keep"))
        assert all(0 < token < vocabulary.size for token in tokens)
        assert vocabulary.decode(tokens) == normalised(text, "keep")
        assert vocabulary.unknown(text) == ""


def test_characters_outside_the_alphabet_are_named_once():
    assert Characters(" ABC").unknown("A FACE, FACED") == "FE,D"


def test_subwords_come_back_and_are_what_was_learnt():
    vocabulary = Subwords.learn(TEXTS, 28)
    assert vocabulary.size == 29
    for text in TEXTS:
        tokens = vocabulary.encode(text)
        assert all(0 < token < vocabulary.size for token in tokens)
        assert vocabulary.decode(tokens) == text
    assert sum(len(vocabulary.encode(text)) for text in TEXTS) < 0.8 * sum(map(len, TEXTS))
    assert vocabulary.unknown("GO Q! SEVEN Q") == "Q!"


@pytest.mark.parametrize("vocabulary", [characters_of(TEXTS), Subwords.learn(TEXTS, 24)])
def test_a_run_restores_its_vocabulary(vocabulary):
    again = restore_vocabulary(vocabulary.facts())
    assert again.size == vocabulary.size
    assert [again.encode(text) for text in TEXTS] == [vocabulary.encode(text) for text in TEXTS]


def test_too_many_subwords_are_refused():
    with pytest.raises(SynbbError, match=r"data.vocabulary.size=500: .* 56 training transcripts"):
        Subwords.learn(TEXTS, 500)
