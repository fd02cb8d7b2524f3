"""Transcripts and tokens: characters, or subwords learnt from the training transcripts.

Token 0 is CTC's blank; symbols follow from 1 on.
"""

from __future__ import annotations

import base64
import hashlib
import io
import unicodedata
import zlib
from typing import TYPE_CHECKING, Any, Literal, Protocol

from synbb.errors import SynbbError, get_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

APART = " "

Case = Literal["upper", "lower", "keep"]


def normalised(text: str, case: Case) -> str:
    """``text`` in one case, accents composed (Unicode's NFC), its words one space apart."""
    words = APART.join(_composed(text).split())
    # Again: a change of case may take a letter apart.
    return _composed(words if case == "keep" else words.upper() if case == "upper" else words.lower())


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


class Vocabulary(Protocol):
    """Symbols that a network writes with."""

    @property
    def size(self) -> int:
        """Tokens, the blank among them."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text whose characters are all known."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens without blanks."""

    def unknown(self, text: str) -> str:
        """Characters of ``text`` that cannot be written, each once, in order; empty when there are none."""

    def facts(self) -> dict[str, Any]:
        """What :func:`restore_vocabulary` needs, as plain values."""

    def is_of(self, texts: Sequence[str]) -> bool:
        """Whether it is the vocabulary of these training transcripts."""


class Characters:
    """One token a character.

    Args:
        alphabet: the characters, the space among them, in order.
    """

    def __init__(self, alphabet: str) -> None:
        self._alphabet = alphabet
        self._token = {character: place + 1 for place, character in enumerate(alphabet)}

    @property
    def size(self) -> int:
        """Characters and the blank."""
        return len(self._alphabet) + 1

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""
        return [self._token[character] for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, its words one space apart."""
        return APART.join("".join(self._alphabet[token - 1] for token in tokens).split())

    def unknown(self, text: str) -> str:
        """Characters outside the alphabet."""
        return "".join(dict.fromkeys(character for character in text if character not in self._token))

    def facts(self) -> dict[str, Any]:
        """The alphabet."""
        return {"kind": "characters", "alphabet": self._alphabet}

    def is_of(self, texts: Sequence[str]) -> bool:
        """Whether these transcripts have this alphabet."""
        return characters_of(texts)._alphabet == self._alphabet


class Subwords:
    """Pieces of words by sentencepiece's unigram model (Kudo 2018).

    Args:
        model: what sentencepiece has trained.
        learnt_from: SHA-256 of the transcripts, None where it is not known.
    """

    def __init__(self, model: bytes, learnt_from: str | None) -> None:
        self._model, self._learnt_from = model, learnt_from
        self._pieces = _sentencepiece().SentencePieceProcessor(model_proto=model)

    @classmethod
    def learn(cls, texts: Sequence[str], size: int) -> Subwords:
        """``size`` pieces from training transcripts.

        Raises:
            SynbbError: the transcripts do not hold so many, or sentencepiece is not installed.
        """
        found = io.BytesIO()
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=found,
                vocab_size=size,
                model_type="unigram",
                character_coverage=1.0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                normalization_rule_name="identity",
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            why = str(error).split("] ")[-1].strip()
            raise SynbbError(
                f"data.vocabulary.size={size}: sentencepiece cannot make that many pieces of {len(texts)} training "
                f"transcripts ({why}); change it, or take data.vocabulary.kind=characters"
            ) from None
        return cls(found.getvalue(), _sha256(texts))

    @property
    def size(self) -> int:
        """Pieces and the blank."""
        return int(self._pieces.get_piece_size()) + 1

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""
        return [int(piece) + 1 for piece in self._pieces.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, its words one space apart."""
        return APART.join(self._pieces.decode([token - 1 for token in tokens]).split())

    def unknown(self, text: str) -> str:
        """Characters that no piece holds."""
        strange = self._pieces.unk_id()
        return "".join(c for c in dict.fromkeys(text) if c != APART and strange in self._pieces.encode(c))

    def facts(self) -> dict[str, Any]:
        """The model, compressed, as text, and the hash of the transcripts."""
        known = {} if self._learnt_from is None else {"learnt_from": self._learnt_from}
        return {"kind": "subwords", "model": base64.b85encode(zlib.compress(self._model, 9)).decode(), **known}

    def is_of(self, texts: Sequence[str]) -> bool:
        """Whether it was learnt from these transcripts, in any order; without their hash it is learnt anew."""
        if self._learnt_from is None:
            return self.learn(texts, self.size - 1)._model == self._model
        return self._learnt_from == _sha256(texts)


def end_of(vocabulary: Vocabulary) -> int:
    """The decoder's token before and after a transcript: one more than a vocabulary has."""
    return vocabulary.size


def characters_of(texts: Iterable[str]) -> Characters:
    """The characters that occur, sorted; the space always."""
    return Characters("".join(sorted({APART}.union(*texts))))


def restore_vocabulary(facts: dict[str, Any]) -> Vocabulary:
    """The vocabulary of a run, from what it knows."""
    if facts["kind"] == "characters":
        return Characters(facts["alphabet"])
    return Subwords(zlib.decompress(base64.b85decode(facts["model"])), facts.get("learnt_from"))


def _sha256(texts: Sequence[str]) -> str:
    """Of transcripts in any order; none holds a line's end."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise SynbbError(
            "subwords need sentencepiece, which is not installed; take data.vocabulary.kind=characters, or "
            + get_extra("speech")
        ) from None
    return sentencepiece
