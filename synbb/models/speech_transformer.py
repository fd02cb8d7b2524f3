"""The speech network: log-mel frames to tokens by a Transformer encoder with CTC, and a decoder where one is wanted.

    frames (N, mels, T) → two convolutions of stride 2 → encoder layers → CTC logits (N, T/4, tokens)
                                                             └→ decoder layers → logits of the next token (N, U, tokens)

Layers normalise before what they do (pre-norm), which trains without a long warm-up (Xiong et al. 2020). Little speech
goes further when it need not teach that a sound may lie a band higher (convolutions over bands and time) nor that what
is near matters most (attention with linear biases): docs/results.md, "Speech".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.models.attention import Attention, distance_bias, sinusoids

if TYPE_CHECKING:
    from collections.abc import Callable

Activation = Literal["relu", "gelu"]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
CONVOLUTIONS = 2
REDUCTION: int = 2**CONVOLUTIONS
"""Frames that one position of the encoder stands for."""
KERNEL = 3
Size = TypeVar("Size", int, Tensor)


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of a batch.

    Attributes:
        memory: (N, T', width).
        ctc: logits (N, T', tokens).
        lengths: (N,) positions of each that are no padding.
    """

    memory: Tensor
    ctc: Tensor
    lengths: Tensor


class FeedForward(nn.Module):
    """Two linear layers with an activation between, whose outputs are the units that pruning sees."""

    def __init__(self, width: int, hidden: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.reduce = nn.Linear(hidden, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, T, width) to the same."""
        outputs: Tensor = self.reduce(self.dropout(self.activation(self.expand(inputs))))
        return outputs


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each added to the stream."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.feed_forward_norm, self.feed_forward = (
            nn.LayerNorm(width),
            FeedForward(width, hidden, activation, dropout),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor, mask: Tensor) -> Tensor:
        """(N, T, width) to the same; ``mask`` as :meth:`Attention.forward` has it."""
        normed = self.attention_norm(stream)
        stream = stream + self.dropout(self.attention(normed, normed, mask))
        outputs: Tensor = stream + self.dropout(self.feed_forward(self.feed_forward_norm(stream)))
        return outputs


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, and a feed-forward network, each added to the stream."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.memory_norm, self.memory_attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.feed_forward_norm, self.feed_forward = (
            nn.LayerNorm(width),
            FeedForward(width, hidden, activation, dropout),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor, memory: Tensor, causal: Tensor, mask: Tensor) -> Tensor:
        """(N, U, width) to the same, with ``memory`` (N, T, width)."""
        normed = self.attention_norm(stream)
        stream = stream + self.dropout(self.attention(normed, normed, causal))
        stream = stream + self.dropout(self.memory_attention(self.memory_norm(stream), memory, mask))
        outputs: Tensor = stream + self.dropout(self.feed_forward(self.feed_forward_norm(stream)))
        return outputs


class Encoder(nn.Module):
    """Frames to one vector for every four of them.

    Args:
        mels: bands of a frame.
        width: features of the stream.
        layers: of self-attention and feed-forward network.
        heads: of attention.
        hidden: units of a feed-forward network.
        activation: ``relu`` or ``gelu``.
        dropout: of every addition to the stream.
        channels: of the two convolutions, which go over bands and time; None for convolutions over time alone, with
            ``width`` channels.
        linear_bias: whether attention is biased against distance, see :func:`synbb.models.attention.distance_bias`.
    """

    def __init__(
        self,
        mels: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        activation: str,
        dropout: float,
        *,
        channels: int | None,
        linear_bias: bool,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.linear_bias = width, heads, linear_bias
        self.over_bands = channels is not None
        convolution: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if channels is None else nn.Conv2d
        read, written = (mels, width) if channels is None else (1, channels)
        sizes = [read, *[written] * CONVOLUTIONS]
        features = width if channels is None else channels * shorter(shorter(mels))
        self.convolutions = nn.ModuleList(
            [convolution(*pair, KERNEL, stride=2, padding=KERNEL // 2) for pair in pairwise(sizes)]
        )
        self.activations = nn.ModuleList([ACTIVATIONS[activation]() for _ in self.convolutions])
        self.projection = nn.Linear(features, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList([EncoderLayer(width, heads, hidden, activation, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (N, T', width) and their numbers (N,) of frames (N, mels, T) and their numbers (N,).

        What stands in the padding has no influence on what comes before it.
        """
        maps = frames[:, None] if self.over_bands else frames
        for convolution, activation in zip(self.convolutions, self.activations, strict=True):
            lengths = shorter(lengths)
            maps = activation(convolution(maps))
            heard = within(lengths, maps.shape[-1]).to(maps.dtype)
            maps = maps * (heard[:, None, None] if self.over_bands else heard[:, None])
        # Scaled, or positions would be louder than what is heard (Vaswani et al. 2017, section 3.4).
        stream = self.projection(maps.flatten(1, -2).transpose(1, 2)) * math.sqrt(self.width)
        stream = self.dropout(stream + sinusoids(stream.shape[1], self.width, stream.device).to(stream.dtype))
        mask = within(lengths, stream.shape[1])[:, None, None]
        if self.linear_bias:
            mask = distance_bias(stream.shape[1], self.heads, stream.device).masked_fill(~mask, -math.inf)
        for layer in self.layers:
            stream = layer(stream, mask)
        return self.norm(stream), lengths


class Decoder(nn.Module):
    """Tokens so far, and what the encoder heard, to the next token; arguments as :class:`Encoder` has them."""

    def __init__(
        self, tokens: int, width: int, layers: int, heads: int, hidden: int, activation: str, dropout: float
    ) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(tokens, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList([DecoderLayer(width, heads, hidden, activation, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens)

    def forward(self, tokens: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        """Logits (N, U, tokens) of the token after each of ``tokens`` (N, U)."""
        count = tokens.shape[1]
        stream = self.embedding(tokens) + sinusoids(count, self.width, tokens.device)
        stream = self.dropout(stream)
        causal = torch.ones(count, count, dtype=torch.bool, device=tokens.device).tril()
        mask = within(lengths, memory.shape[1])[:, None, None]
        for layer in self.layers:
            stream = layer(stream, memory, causal, mask)
        logits: Tensor = self.head(self.norm(stream))
        return logits


class SpeechTransformer(nn.Module):
    """Encoder with CTC, and a decoder beside it where there is one (joint CTC/attention, Watanabe et al. 2017).

    Args:
        encoder: frames to vectors.
        tokens: classes of the outputs; 0 is CTC's blank.
        decoder: None without one.
    """

    def __init__(self, encoder: Encoder, tokens: int, decoder: Decoder | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.ctc = nn.Linear(encoder.width, tokens)
        self.decoder = decoder

    def forward(self, frames: Tensor, lengths: Tensor, tokens: Tensor | None = None) -> tuple[Tensor, ...]:
        """Logits for training.

        Args:
            frames: (N, mels, T) float, zeros in the padding.
            lengths: (N,) frames of each that are no padding.
            tokens: (N, U) tokens so far, for the decoder.

        Returns:
            CTC logits (N, T', tokens), their numbers (N,), and with a decoder its logits (N, U, tokens).
        """
        encoded = self.encode(frames, lengths)
        if self.decoder is None or tokens is None:
            return encoded.ctc, encoded.lengths
        return encoded.ctc, encoded.lengths, self.decoder(tokens, encoded.memory, encoded.lengths)

    def encode(self, frames: Tensor, lengths: Tensor) -> Encoded:
        """The encoder's part, for decoding."""
        memory, shortened = self.encoder(frames, lengths)
        return Encoded(memory, self.ctc(memory), shortened)


def within(lengths: Tensor, size: int) -> Tensor:
    """Bool (N, size): positions below each of ``lengths`` (N,)."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def shorter(lengths: Size) -> Size:
    """Positions after one convolution of stride 2."""
    return (lengths + 1) // 2


def least_frames(positions: int) -> int:
    """Fewest frames of which an :class:`Encoder` makes so many positions: the last one may stand for a single frame."""
    return REDUCTION * (positions - 1) + 1


def heard_positions(lengths: Tensor, mels: int, frames: int, *, over_bands: bool) -> dict[str, Tensor]:
    """Positions of an :class:`Encoder` that are no padding, as :data:`synbb.pruning.observing.Valid` has them.

    Args:
        lengths: (N,) frames of each utterance.
        mels: bands of a frame.
        frames: of the batch, padding and all.
        over_bands: whether the convolutions go over bands too.

    Returns:
        Bool masks by patterns of module names: of each convolution's units, (N, T) or (N, 1, mels, T), and last, for
        all that no other pattern fits, of the units behind, (N, T').
    """
    masks, heard = {}, within(lengths, frames)
    for number in range(CONVOLUTIONS):
        lengths, mels, frames = shorter(lengths), shorter(mels), shorter(frames)
        heard = within(lengths, frames)
        masks[f"encoder.activations.{number}"] = heard[:, None, None].expand(-1, -1, mels, -1) if over_bands else heard
    return {**masks, "*": heard}


def build_speech_transformer(
    *,
    mels: int,
    tokens: int,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    hidden: int = 512,
    decoder_layers: int = 0,
    activation: Activation = "relu",
    dropout: float = 0.1,
    channels: int | None = 16,
    linear_bias: bool = True,
) -> SpeechTransformer:
    """A Transformer for speech, random weights.

    Args:
        mels: bands of a frame.
        tokens: classes of the outputs, CTC's blank among them.
        width: features of the stream.
        layers: of the encoder.
        heads: of attention; they divide ``width``.
        hidden: units of each feed-forward network.
        decoder_layers: of the decoder; 0 for CTC alone.
        activation: ``relu`` or ``gelu``.
        dropout: of every addition to the stream.
        channels: of the convolutions over bands and time; None for convolutions over time alone.
        linear_bias: whether the encoder's attention is biased against distance.

    Raises:
        SynbbError: numbers that make no network.
    """
    least = min(mels, width, layers, heads, hidden, 1 if channels is None else channels)
    if least < 1 or tokens < 2 or decoder_layers < 0:
        raise SynbbError(
            f"{mels} mels, {channels} channels, {tokens} tokens, width {width}, {layers} layers of {heads} heads and "
            f"{hidden} hidden units, {decoder_layers} decoder layers make no network: give positive numbers"
        )
    if width % heads:
        raise SynbbError(f"model.width {width} is no multiple of model.heads {heads}: choose heads that divide it")
    if activation not in ACTIVATIONS:
        raise SynbbError(f"model.activation {activation!r}: choose {' or '.join(ACTIVATIONS)}")
    sizes = (width, layers, heads, hidden, activation, dropout)
    encoder = Encoder(mels, *sizes, channels=channels, linear_bias=linear_bias)
    decoder = Decoder(tokens, width, decoder_layers, heads, hidden, activation, dropout) if decoder_layers else None
    return SpeechTransformer(encoder, tokens, decoder)
