"""From audio to text with a trained speech network: decoding, batches of about one length, recordings of any length."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from synbb.datasets.audio_folders import audio_library, list_audio
from synbb.errors import SynbbError
from synbb.models.ctc import greedy, prefix_beam_search
from synbb.models.joint_decoding import joint_beam_search
from synbb.models.speech_transformer import REDUCTION, SpeechTransformer
from synbb.schema import Settings
from synbb.tasks.base import Table
from synbb.tasks.speech_features import PositiveInt, padded, pieces
from synbb.tasks.speech_text import end_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from synbb.tasks.speech_corpus import Heard
    from synbb.tasks.speech_features import FeatureReader
    from synbb.tasks.speech_text import Vocabulary

HEARD_AT_ONCE = 32
"""Utterances that are decoded in one batch, at most."""
SCORES_AT_ONCE = 2**29
"""Bytes of attention's scores in such a batch."""
FLOAT = 4  # bytes

Decoding = Literal["greedy", "beam"]


class SpeechModelSettings(Settings):
    """The network, and how its outputs become text.

    Attributes:
        width: features of the stream.
        layers: of the encoder.
        heads: of attention; they divide ``width``.
        hidden: units of each feed-forward network.
        decoder_layers: of the decoder; 0 for CTC alone.
        activation: ``relu`` or ``gelu``.
        dropout: of every addition to the stream.
        channels: of the two convolutions in front, which go over bands and time; null for convolutions over time alone,
            of the stream's width.
        linear_bias: whether the encoder's attention is biased against distance.
        ctc_weight: of the CTC loss, and of CTC's scores in joint decoding, where there is a decoder.
        smoothing: of the decoder's targets.
        decoding: ``greedy`` takes CTC's best path; ``beam`` searches prefixes, with the decoder where there is one.
        beam: hypotheses that are kept.
    """

    BEFORE: ClassVar[dict[str, Any]] = {"channels": None, "linear_bias": False}

    width: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    hidden: PositiveInt = 512
    decoder_layers: Annotated[int, Field(ge=0)] = 0
    activation: Literal["relu", "gelu"] = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    channels: PositiveInt | None = 16
    linear_bias: bool = True
    ctc_weight: Annotated[float, Field(gt=0, le=1)] = 0.3
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    decoding: Decoding = "greedy"
    beam: PositiveInt = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}; choose heads that divide it")
        return self


class Transcriber:
    """Writes down what a speech network hears.

    Args:
        reader: of audio.
        vocabulary: of the network.
        settings: how its outputs become text.
        longest: s; recordings are cut at pauses into pieces of at most this length.
    """

    def __init__(
        self, reader: FeatureReader, vocabulary: Vocabulary, settings: SpeechModelSettings, longest: float
    ) -> None:
        self._reader, self._vocabulary, self._settings, self._longest = reader, vocabulary, settings, longest

    def utterances(self, model: nn.Module, heard: Sequence[Heard], device: Any, how: Decoding) -> list[str]:
        """What the network writes of utterances, in their order."""
        texts = [""] * len(heard)
        for places in self._together([each.frames for each in heard]):
            frames = [self._reader.frames(heard[place].utterance.path) for place in places]
            for place, text in zip(places, self._written(model, frames, device, how), strict=True):
                texts[place] = text
        return texts

    def _together(self, frames: Sequence[int]) -> Iterator[list[int]]:
        """Places of utterances that are heard at once, of about one length: few where they are long.

        Attention's scores are (utterances, heads, positions, positions), of the longest of them.
        """
        group: list[int] = []
        for place in sorted(range(len(frames)), key=lambda place: frames[place]):
            scores = FLOAT * self._settings.heads * (frames[place] / REDUCTION) ** 2
            if group and (len(group) == HEARD_AT_ONCE or (len(group) + 1) * scores > SCORES_AT_ONCE):
                yield group
                group = []
            group.append(place)
        if group:
            yield group

    @torch.no_grad()
    def _written(self, model: nn.Module, frames: Sequence[Tensor], device: Any, how: Decoding) -> list[str]:
        """Texts of frames, each (mels, T)."""
        assert isinstance(model, SpeechTransformer)
        inputs, lengths = padded(frames)
        encoded = model.encode(inputs.to(device), lengths.to(device))
        scores = encoded.ctc.float().log_softmax(dim=2)
        if how == "greedy":
            if model.decoder is not None:
                scores[..., end_of(self._vocabulary)] = -torch.inf  # CTC has this class, and never a reason to say it
            found = greedy(scores, encoded.lengths)
        elif model.decoder is None:
            found = [
                [*prefix_beam_search(one[:count].cpu(), self._settings.beam)[0].tokens]
                for one, count in zip(scores, encoded.lengths.tolist(), strict=True)
            ]
        else:
            found = [self._joint(model, row, encoded.memory, scores, encoded.lengths) for row in range(len(frames))]
        return [self._vocabulary.decode(tokens) for tokens in found]

    def _joint(self, model: SpeechTransformer, row: int, memory: Tensor, scores: Tensor, lengths: Tensor) -> list[int]:
        count = int(lengths[row])
        own, decoder = memory[row : row + 1, :count], model.decoder
        assert decoder is not None

        def following(tokens: Tensor) -> Tensor:
            many = len(tokens)
            logits: Tensor = decoder(
                tokens.to(own.device), own.expand(many, -1, -1), lengths[row : row + 1].expand(many)
            )
            return logits[:, -1].float().log_softmax(dim=1).cpu()

        found = joint_beam_search(
            scores[row, :count].cpu(),
            following,
            start=end_of(self._vocabulary),
            end=end_of(self._vocabulary),
            beam=self._settings.beam,
            ctc_weight=self._settings.ctc_weight,
            longest=count,
        )
        return list(found[0].tokens)

    def files(self, model: nn.Module, source: Path, device: Any) -> Table:
        """The transcript of every audio file of a folder; long ones are cut at pauses; those that are none are told.

        Raises:
            SynbbError: no audio in the folder.
        """
        audio_library()
        began = time.perf_counter()
        paths = list_audio(source)
        rate = self._reader.settings.rate
        rows, skipped, seconds = [], [], 0.0
        waiting: list[tuple[Path, float, list[Tensor]]] = []
        for place, path in enumerate(paths):
            try:
                samples = self._reader.samples(path)
                parts = [self._reader.frames_of(piece) for piece in pieces(samples, rate, self._longest)]
                waiting.append((path, len(samples) / rate, parts))
                seconds += len(samples) / rate
            except SynbbError as error:
                skipped.append(str(error))
            if sum(len(parts) for _, _, parts in waiting) >= HEARD_AT_ONCE or place == len(paths) - 1:
                rows += self._transcribed(model, waiting, device)
                waiting = []
        if not rows and source.is_file():
            raise SynbbError(skipped[0])
        if not rows:
            raise SynbbError(f"{source}: none of its {len(paths)} files is audio; the first: {skipped[0]}")
        took = time.perf_counter() - began
        notes = [
            *self._reader.notes(),
            f"{seconds:.1f} s of audio in {took:.2g} s: {seconds / took:.0f} times as fast as it was spoken",
        ]
        return Table(["audio", "text", "seconds"], rows, tuple(skipped), tuple(notes))

    def _transcribed(
        self, model: nn.Module, waiting: Sequence[tuple[Path, float, list[Tensor]]], device: Any
    ) -> list[list[str]]:
        """Rows of recordings, their pieces in batches of about one length."""
        flat = [piece for _, _, parts in waiting for piece in parts]
        texts = [""] * len(flat)
        for places in self._together([piece.shape[1] for piece in flat]):
            written = self._written(model, [flat[place] for place in places], device, self._settings.decoding)
            for place, text in zip(places, written, strict=True):
                texts[place] = text
        rows, at = [], 0
        for path, seconds, parts in waiting:
            text = " ".join(each for each in texts[at : at + len(parts)] if each)
            rows.append([str(path), text, f"{seconds:.2f}"])
            at += len(parts)
        return rows
