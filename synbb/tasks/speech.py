"""Speech recognition: audio in, transcripts out, by a Transformer with CTC and perhaps a decoder beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synbb.datasets import check_fetched, credit
from synbb.errors import SynbbError
from synbb.evaluation.words import (
    THIRDS,
    WordErrors,
    errors_by_frequency,
    frequency_thirds,
    score_words,
    sum_by_unit,
    word_library,
)
from synbb.models.ctc import BLANK
from synbb.models.speech_transformer import (
    REDUCTION,
    SpeechTransformer,
    build_speech_transformer,
    heard_positions,
    least_frames,
)
from synbb.pruning.resampling import Resampled
from synbb.schema import Settings
from synbb.tasks.base import Batch, HeldOut, Table, Validation
from synbb.tasks.epochs import Epochs
from synbb.tasks.speech_corpus import Chosen, CorpusPart, Heard, choose, told, writable
from synbb.tasks.speech_features import (
    FeatureReader,
    FeatureSettings,
    PositiveInt,
    SpeechAugmentation,
    changed,
    padded,
)
from synbb.tasks.speech_text import (
    Case,
    Characters,
    Subwords,
    Vocabulary,
    characters_of,
    end_of,
    restore_vocabulary,
)
from synbb.tasks.splits import check_files_apart, evenly, left_out
from synbb.tasks.transcribing import FLOAT, SpeechModelSettings, Transcriber

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IGNORED = -1
"""Target that stands for no token."""
FALLBACK = 20.0  # s, of a task without data


class VocabularySettings(Settings):
    """What transcripts are written with.

    Attributes:
        kind: ``characters``, or ``subwords`` that sentencepiece learns from the training transcripts.
        size: subwords.
        case: that transcripts are brought to first: ``upper``, ``lower`` or ``keep``.
    """

    kind: Literal["characters", "subwords"] = "characters"
    size: PositiveInt = 1000
    case: Case = "upper"


class SpeechData(Settings):
    """Where the utterances are.

    Attributes:
        corpora: parts of corpora, each with its split.
        dataset: entry of ``data_manifest.yaml`` that they come from; pipelines fetch it when it is missing.
        speakers_apart: whether a speaker may stand in one split only.
        features: what the network hears.
        vocabulary: what it writes.
        on_bad: whether a file that is no audio, or a transcript that cannot be written, is an ``error`` or left out
            with a count and a list (``skip``).
        augment: random changes of training utterances.
        cache_mib: memory for frames; a split that fits is decoded once before training, of a larger one the headers are
            looked at.
        longest: s; recordings to be transcribed are cut at pauses into pieces of at most this length, by default that
            of the longest training utterance: a network does badly at lengths it has never heard.
    """

    corpora: Annotated[tuple[CorpusPart, ...], Field(min_length=1)]
    dataset: str | None = None
    speakers_apart: bool = True
    features: FeatureSettings = FeatureSettings()
    vocabulary: VocabularySettings = VocabularySettings()
    on_bad: Literal["error", "skip"] = "error"
    augment: SpeechAugmentation = SpeechAugmentation()
    cache_mib: PositiveInt = 1024
    longest: Annotated[float, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(part.split == "train" for part in self.corpora):
            raise ValueError("no entry of corpora has split: train")
        return self


class SpeechTask:
    """The task of :class:`synbb.tasks.base.Task` for speech.

    Args:
        data: corpora and vocabulary.
        model: the network.
        seed: of the run.
        batch_size: utterances of a step, over all ranks.
    """

    DataSettings = SpeechData
    ModelSettings = SpeechModelSettings

    def __init__(self, data: SpeechData, model: SpeechModelSettings, *, seed: int, batch_size: int) -> None:
        self._data, self._model, self._seed, self._batch_size = data, model, seed, batch_size
        self._reader = FeatureReader(data.features, cache_bytes=data.cache_mib * 2**20)
        self._vocabulary: Vocabulary = Characters("")
        self._taken = False  # from the run that this one begins with
        self._train = self._validation = Chosen()
        self._epochs: Epochs  # since the data are there
        self._longest = FALLBACK

    # ---- data ----

    def begin_with(self, facts: dict[str, Any]) -> None:
        """Take the vocabulary of a run with its weights: as many other pieces would scramble what is written.

        Raises:
            SynbbError: it is of another kind or size than the settings say.
        """
        self._vocabulary, self._taken = restore_vocabulary(facts["vocabulary"]), True
        wanted, theirs = self._data.vocabulary, f"{self._vocabulary.size - 1} {facts['vocabulary']['kind']}"
        ours = f"{wanted.size if wanted.kind == 'subwords' else self._vocabulary.size - 1} {wanted.kind}"
        if ours != theirs:
            raise SynbbError(
                f"data.vocabulary: {ours}, and the run that training.start_from names writes {theirs}: weights and "
                "vocabulary go together; give the same ones"
            )

    def prepare(self, known: dict[str, Any] | None = None) -> list[str]:
        """Find all training and validation utterances, and decode those that fit into memory.

        Args:
            known: facts of a run that is continued: its vocabulary must be that of the transcripts found, unless it was
                taken from another run.

        Raises:
            SynbbError: utterances that cannot be used, named.
        """
        word_library()  # what validation needs is missed now, not after all audio was decoded
        corpora = [each.corpus for each in self._data.corpora]
        check_fetched(self._data.dataset, [each for each in corpora if not Path(each).exists()])
        train, validation = self._choose("train"), self._choose("validation")
        if known is not None:
            self._vocabulary = restore_vocabulary(known["vocabulary"])
            self._taken = known.get("vocabulary_taken", False)
            if not self._taken and not self._vocabulary.is_of(train.texts):
                raise SynbbError("data.corpora: the training transcripts are others than when the run was begun")
        elif not self._taken:
            self._vocabulary = self._make_vocabulary(train.texts)
        self._train, self._validation = self._writable(train), self._writable(validation)
        lengths = [each.frames for each in self._train.heard]
        self._epochs = Epochs(len(lengths), seed=self._seed, batch_size=self._batch_size, lengths=lengths)
        self._check_apart("validation", self._validation)
        self._longest = max(each.seconds for each in self._train.heard)
        test = self._checked_test()
        lines = told("train", self._train)
        if self._validation.heard:
            lines += told("validation", self._validation)
        else:
            lines.append("no entry has split: validation: nothing is validated")
        lines += told("test", test) if test.heard else []
        taken = ", those of the run that this one begins with" if self._taken else ""
        lines.append(f"{self._vocabulary.size - 1} {self._data.vocabulary.kind}{taken}")
        return [*lines, *self._reader.notes()]

    def restore(self, facts: dict[str, Any]) -> None:
        """Be ready to build the network and to transcribe without the data of the run; see the facts of a run."""
        self._vocabulary = restore_vocabulary(facts["vocabulary"])
        self._longest = float(facts["longest"])

    def _checked_test(self, *, decode: bool = False) -> Chosen:
        """The test utterances; what is wrong with their lists and headers shows before a network is trained."""
        test = self._writable(self._choose("test", decode=decode))
        self._check_apart("test", test)
        return test

    def _choose(self, split: str, *, decode: bool = True) -> Chosen:
        features = self._data.features
        a_second = FLOAT * features.mels * 1000 / features.hop  # bytes of frames
        return choose(
            self._data.corpora,
            split,
            self._reader,
            case=self._data.vocabulary.case,
            skip_bad=self._data.on_bad == "skip",
            decode=self._data.cache_mib * 2**20 / a_second if decode else 0.0,
        )

    def _make_vocabulary(self, texts: Sequence[str]) -> Vocabulary:
        wanted = self._data.vocabulary
        return characters_of(texts) if wanted.kind == "characters" else Subwords.learn(texts, wanted.size)

    def _writable(self, chosen: Chosen) -> Chosen:
        return writable(chosen, self._vocabulary, least_frames, skip_bad=self._data.on_bad == "skip")

    def _check_apart(self, split: str, chosen: Chosen) -> None:
        """Refuse files, and speakers, of one split in another."""
        others = {"train": self._train, **({"validation": self._validation} if split == "test" else {})}
        taken = {other: [each.utterance.path for each in part.heard] for other, part in others.items()}
        check_files_apart("data.corpora", split, [each.utterance.path for each in chosen.heard], taken)
        for other, part in others.items() if self._data.speakers_apart else ():
            speakers = set(part.speakers)
            same = next((each.utterance for each in chosen.heard if each.utterance.speaker in speakers), None)
            if same is not None:
                raise SynbbError(
                    f"data.corpora: {same.path} of split {split} is spoken by {same.speaker}, who is also in split "
                    f"{other}: what is scored would have been heard before; choose other speakers, or pass "
                    "data.speakers_apart=false"
                )

    # ---- batches ----

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """Frames (n, mels, T), their numbers (n,), with a decoder tokens so far (n, U); targets (n, U), -1 for none.

        Epochs of shuffled utterances, those of a batch of about one length.
        """
        drawn = self._epochs.drawn(step, rank, world_size)
        heard = [self._train.heard[each.place] for each in drawn]
        tokens = [self._vocabulary.encode(each.text) for each in heard]
        frames = [
            changed(self._reader.frames(each.utterance.path), self._data.augment, self._least(written), item.seed)
            for each, written, item in zip(heard, tokens, drawn, strict=True)
        ]
        return self._collated(frames, tokens)

    @staticmethod
    def _least(tokens: Sequence[int]) -> int:
        return REDUCTION * (2 * len(tokens) + 1)

    def _collated(self, frames: Sequence[Tensor], tokens: Sequence[Sequence[int]]) -> Batch:
        inputs, lengths = padded(frames)
        longest = max(len(each) for each in tokens)
        targets = torch.full((len(tokens), longest), IGNORED)
        for row, each in enumerate(tokens):
            targets[row, : len(each)] = torch.tensor(each)
        valid = heard_positions(lengths, *inputs.shape[1:], over_bands=self._model.channels is not None)
        if not self._model.decoder_layers:
            return Batch((inputs, lengths), targets, valid)
        so_far = F.pad(targets.clamp(min=BLANK), (1, 0), value=end_of(self._vocabulary))
        written = F.pad(targets != IGNORED, (1, 0), value=True)
        return Batch((inputs, lengths, so_far), targets, {"decoder*": written, **valid})

    def upcoming(self, steps: range, rank: int, world_size: int) -> None:
        """Nothing: utterances are small and decoded as they are needed."""

    def calibration_batches(self, count: int) -> Iterator[tuple[Tensor, ...]]:
        """Unaugmented training utterances, the same at every call."""
        order = np.random.default_rng([self._seed, 2]).permutation(len(self._train.heard))
        chosen = [self._train.heard[int(order[item % len(order)])] for item in range(count)]
        for first in range(0, count, self._batch_size):
            yield self._inputs(chosen[first : first + self._batch_size])

    def held_out_batches(self, count: int) -> Iterator[tuple[Tensor, ...]]:
        """Validation utterances, evenly spread over them, one by one."""
        heard = self._validation.heard
        for place in evenly(count, len(heard)):
            yield self._inputs([heard[place]])

    def _inputs(self, heard: Sequence[Heard]) -> tuple[Tensor, ...]:
        frames = [self._reader.frames(each.utterance.path) for each in heard]
        inputs = self._collated(frames, [self._vocabulary.encode(each.text) for each in heard]).inputs
        assert isinstance(inputs, tuple)
        return inputs

    # ---- network and loss ----

    def build_model(self) -> SpeechTransformer:
        """A newly initialised Transformer for the vocabulary."""
        model = self._model
        return build_speech_transformer(
            mels=self._data.features.mels,
            tokens=self._vocabulary.size + (model.decoder_layers > 0),
            width=model.width,
            layers=model.layers,
            heads=model.heads,
            hidden=model.hidden,
            decoder_layers=model.decoder_layers,
            activation=model.activation,
            dropout=model.dropout,
            channels=model.channels,
            linear_bias=model.linear_bias,
        )

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Four seconds of silence, and a few tokens where there is a decoder."""
        frames = torch.zeros(1, self._data.features.mels, 400)
        inputs = (frames, torch.tensor([frames.shape[2]]))
        return (*inputs, torch.full((1, 10), end_of(self._vocabulary))) if self._model.decoder_layers else inputs

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """CTC (Graves et al. 2006), each utterance by its tokens; with a decoder its cross-entropy besides."""
        written = batch.targets != IGNORED
        ctc = F.ctc_loss(
            outputs[0].float().log_softmax(dim=2).transpose(0, 1),
            batch.targets.clamp(min=BLANK),
            outputs[1],
            written.sum(dim=1),
            blank=BLANK,
            zero_infinity=True,
        )
        if len(outputs) < 3:
            return ctc
        following = F.pad(batch.targets, (0, 1), value=IGNORED)
        following[torch.arange(len(following)), written.sum(dim=1)] = end_of(self._vocabulary)
        attention = F.cross_entropy(
            outputs[2].float().flatten(0, 1),
            following.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self._model.smoothing,
        )
        loss: Tensor = self._model.ctc_weight * ctc + (1 - self._model.ctc_weight) * attention
        return loss

    # ---- scores ----

    def validate(self, model: nn.Module, device: Any) -> Validation | None:
        """Word and character error rates on the validation utterances, by CTC's best path."""
        if not self._validation.heard:
            return None
        written = self._transcriber().utterances(model, self._validation.heard, device, "greedy")
        found = score_words(self._validation.texts, written)
        return Validation({"wer": found.wer, "cer": found.cer, "word_accuracy": 1 - found.wer}, "word_accuracy", {})

    def score(self, model: nn.Module, device: Any, decision: dict[str, Any]) -> HeldOut | None:  # noqa: ARG002
        """Error rates on the test utterances, opened here, by how frequent words are in training too."""
        chosen = self._checked_test(decode=True)
        if not chosen.heard:
            return None
        written = self._transcriber().utterances(model, chosen.heard, device, self._model.decoding)
        found = score_words(chosen.texts, written)
        scores = {"word_accuracy": 1 - found.wer, "wer": found.wer, "cer": found.cer}
        counts = {"wer": found.words.counts, "cer": found.characters.counts}
        if len({word for text in self._train.texts for word in text.split()}) >= len(THIRDS):
            missed = errors_by_frequency(chosen.texts, written, frequency_thirds(self._train.texts))
            for name, share in missed.shares.items():
                if not math.isnan(share):
                    scores[f"missed_{name}"], counts[f"missed_{name}"] = share, missed.counts[name]
        unit, names = _units(chosen)
        summed = {name: sum_by_unit(each, names)[0] for name, each in counts.items()}
        resampled = {name: Resampled("error_rate", {unit: each}) for name, each in summed.items()}
        resampled["word_accuracy"] = Resampled("word_accuracy", {unit: summed["wer"]})
        scores |= {"utterances": len(chosen.heard), "words": int(found.words.counts[:, 1].sum())}
        cases = _cases(chosen, written, found)
        notes = [*left_out("test", "utterance", chosen.skipped), *self._reader.notes()]
        if self._model.decoding == "beam":
            notes.append(f"decoded by a beam of {self._model.beam} hypotheses; validation is greedy")
        return HeldOut(scores, "word_accuracy", resampled, tuple(notes), cases)

    # ---- prediction ----

    def _transcriber(self) -> Transcriber:
        return Transcriber(self._reader, self._vocabulary, self._model, self._data.longest or self._longest)

    def predict_files(self, model: nn.Module, source: Path, device: Any) -> Table:
        """The transcript of every audio file of a folder; long ones are cut at pauses; those that are none are told.

        Raises:
            SynbbError: no audio in the folder.
        """
        return self._transcriber().files(model, source, device)

    def facts(self) -> dict[str, Any]:
        """The vocabulary, licence and citation of the dataset."""
        unused = [*self._train.skipped, *self._validation.skipped]
        return {
            "vocabulary": self._vocabulary.facts(),
            **({"vocabulary_taken": True} if self._taken else {}),
            "longest": self._longest,
            **({"left_out": unused} if unused else {}),
            **credit(self._data.dataset),
        }

    def close(self) -> None:
        """Nothing is held open."""


def _cases(chosen: Chosen, written: Sequence[str], found: WordErrors) -> Table:
    """Every utterance, those with the largest share of wrong words first."""
    rows = [
        [str(each.utterance.path), each.utterance.speaker or "", each.text, text, str(errors), str(words)]
        for each, text, (errors, words) in zip(chosen.heard, written, found.words.counts.tolist(), strict=True)
    ]
    columns = ["audio", "speaker", "said", "written", "wrong_words", "words"]
    return Table(columns, sorted(rows, key=lambda row: (-int(row[4]) / int(row[5]), -int(row[4]))))


def _units(chosen: Chosen) -> tuple[str, list[str]]:
    """What a bootstrap draws anew, and the unit of each utterance: speakers, where there are several, all known."""
    named = [each.utterance.speaker or "" for each in chosen.heard]
    return (
        ("speakers", named)
        if all(named) and len({*named}) > 1
        else ("utterances", [str(each.utterance.path) for each in chosen.heard])
    )
