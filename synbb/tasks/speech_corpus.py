"""The utterances of a speech task: which ones, and which of them cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from synbb.datasets.audio_folders import Layout, Utterance, audio_library, audio_seconds, read_corpus
from synbb.datasets.ordering import natural_names
from synbb.errors import SynbbError
from synbb.schema import Settings
from synbb.tasks.speech_text import Case, normalised
from synbb.tasks.splits import check_named_once, counted, left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from synbb.tasks.speech_features import FeatureReader
    from synbb.tasks.speech_text import Vocabulary

Range = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)]]
Split = Literal["train", "validation", "test"]


class CorpusPart(Settings):
    """Utterances of one corpus that belong to one split.

    Attributes:
        corpus: folder, or a CSV with columns audio, text and perhaps speaker (``layout: table``).
        split: what they serve for.
        layout: ``table``, ``an4`` or ``librispeech``.
        part: ``train`` or ``test`` of ``an4``, a folder such as ``train-clean-100`` of ``librispeech``, one of several
            tables in a folder.
        speakers: first and one past the last in natural order of their names; all by default.
        every: every n-th of these speakers alone, beginning with the first.
        but_every: all of them but those.
    """

    corpus: str
    split: Split
    layout: Layout = "table"
    part: str | None = None
    speakers: Range | None = None
    every: Annotated[int, Field(gt=1)] | None = None
    but_every: Annotated[int, Field(gt=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.every is not None and self.but_every is not None:
            raise ValueError("every and but_every are two choices of speakers; give one")
        return self

    def utterances(self) -> list[Utterance]:
        """Those that are chosen.

        Raises:
            SynbbError: the corpus cannot be read, or nothing is left of it.
        """
        found = read_corpus(self.corpus, self.layout, self.part)
        if self.speakers is not None or self.every is not None or self.but_every is not None:
            nameless = next((each.path for each in found if each.speaker is None), None)
            if nameless is not None:
                raise SynbbError(
                    f"data.corpora: the speaker of {nameless} is not known, and {self.corpus} is divided by them: give "
                    "its table a column `speaker`, or each split a table of its own"
                )
            kept = self._speakers(natural_names({str(each.speaker) for each in found}))
            found = [each for each in found if each.speaker in kept]
        if not found:
            raise SynbbError(
                f"data.corpora: no utterance of {self.corpus} is left for split {self.split}: look at speakers, every "
                "and but_every"
            )
        return found

    def _speakers(self, names: Sequence[str]) -> set[str]:
        first, end = self.speakers if self.speakers is not None else (0, len(names))
        among = names[first:end]
        if self.every is not None:
            return set(among[:: self.every])
        if self.but_every is not None:
            return set(among) - set(among[:: self.but_every])
        return set(among)


@dataclass(frozen=True)
class Heard:
    """An utterance that can be used.

    Attributes:
        utterance: file, speaker and normalised transcript.
        frames: that it has.
        seconds: that it lasts.
    """

    utterance: Utterance
    frames: int
    seconds: float

    @property
    def text(self) -> str:
        """The transcript."""
        assert self.utterance.text is not None
        return self.utterance.text


@dataclass(frozen=True)
class Chosen:
    """The utterances of a split.

    Attributes:
        heard: in order.
        skipped: what could not be used, with the reason.
    """

    heard: tuple[Heard, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def speakers(self) -> list[str]:
        """Those that are known, sorted."""
        return sorted({each.utterance.speaker for each in self.heard if each.utterance.speaker is not None})

    @property
    def texts(self) -> list[str]:
        """Transcripts, in order."""
        return [each.text for each in self.heard]

    @property
    def seconds(self) -> float:
        """Length of all."""
        return sum(each.seconds for each in self.heard)


def choose(
    parts: Sequence[CorpusPart], split: str, reader: FeatureReader, *, case: Case, skip_bad: bool, decode: float
) -> Chosen:
    """The utterances of a split.

    Args:
        parts: all of a task.
        split: whose utterances are wanted.
        reader: reads them.
        case: of the transcripts.
        skip_bad: leave out files that are no audio, instead of refusing them.
        decode: seconds of audio up to which all files are decoded now; of longer corpora the headers are read.

    Raises:
        SynbbError: a corpus or file cannot be read, or a file is named twice; the file is named.
    """
    audio_library()  # what is wrong without it is no file's fault
    skipped: list[str] = []
    found: list[tuple[Utterance, float]] = []
    named = [each for part in parts if part.split == split for each in part.utterances()]
    check_named_once("data.corpora", split, (each.path for each in named))
    for each in named:
        seconds = _seconds(each, skipped if skip_bad else None)
        if seconds is not None:
            assert each.text is not None
            found.append((replace(each, text=normalised(each.text, case)), seconds))
    whole = sum(seconds for _, seconds in found) <= decode
    heard = []
    for utterance, seconds in found:
        frames = _frames(utterance, reader, skipped if skip_bad else None) if whole else reader.frame_count(seconds)
        if frames is not None:
            heard.append(Heard(utterance, frames, seconds))
    if any(part.split == split for part in parts) and not heard:
        raise SynbbError(
            f"data.corpora: none of the {len(skipped)} utterances of split {split} can be used: {skipped[0]}"
        )
    return Chosen(tuple(heard), tuple(skipped))


def _seconds(utterance: Utterance, skipped: list[str] | None) -> float | None:
    try:
        return audio_seconds(utterance.path)
    except SynbbError as error:
        _refuse(error, skipped)
        return None


def _frames(utterance: Utterance, reader: FeatureReader, skipped: list[str] | None) -> int | None:
    try:
        return int(reader.frames(utterance.path).shape[1])
    except SynbbError as error:
        _refuse(error, skipped)
        return None


def _refuse(error: SynbbError, skipped: list[str] | None) -> None:
    if skipped is None:
        raise SynbbError(f"{error}, or pass data.on_bad=skip") from None
    skipped.append(str(error))


def writable(chosen: Chosen, vocabulary: Vocabulary, least_frames: Callable[[int], int], *, skip_bad: bool) -> Chosen:
    """The utterances whose transcripts the network can write.

    Args:
        chosen: of a split.
        vocabulary: what can be written.
        least_frames: fewest frames that give a number of positions.
        skip_bad: leave others out, instead of refusing them.

    Raises:
        SynbbError: characters outside the alphabet, or fewer frames than the transcript needs; the file is named.
    """
    kept, skipped = [], list(chosen.skipped)
    for each in chosen.heard:
        why = _unwritable(each, vocabulary, least_frames)
        if why is None:
            kept.append(each)
        elif skip_bad:
            skipped.append(why)
        else:
            raise SynbbError(f"{why}; mend or leave out the transcript, or pass data.on_bad=skip")
    if chosen.heard and not kept:
        raise SynbbError(f"data.corpora: none of {len(chosen.heard)} transcripts can be written: {skipped[-1]}")
    return Chosen(tuple(kept), tuple(skipped))


def _unwritable(each: Heard, vocabulary: Vocabulary, least_frames: Callable[[int], int]) -> str | None:
    unknown = vocabulary.unknown(each.text)
    if unknown:
        return (
            f"{each.utterance.path}: its transcript {each.text!r} holds {', '.join(map(repr, unknown))}, not in the "
            "alphabet of the training transcripts"
        )
    needed = least_frames(needed_positions(vocabulary.encode(each.text)))
    if each.frames < needed:
        return (
            f"{each.utterance.path}: {each.frames} frames ({each.seconds:.2f} s) are too short for its transcript "
            f"{each.text!r}, which needs {needed}"
        )
    return None


def needed_positions(tokens: Sequence[int]) -> int:
    """Positions that CTC needs: one a token, and a blank between equal neighbours."""
    return len(tokens) + sum(one == other for one, other in pairwise(tokens))


def told(split: str, chosen: Chosen) -> list[str]:
    """Lines for a person: how many utterances, and what was left out."""
    who = f" of {counted(len(chosen.speakers), 'speaker')}" if chosen.speakers else ""
    length = f"{chosen.seconds / 60:.1f} min" if chosen.seconds >= 60 else f"{chosen.seconds:.1f} s"
    found = f"{split}: {counted(len(chosen.heard), 'utterance')}{who}, {length}"
    return [found, *left_out(split, "utterance", chosen.skipped)]
