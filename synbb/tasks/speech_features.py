"""Audio as a speech network sees it: log-mel frames, and how those of training are changed at random."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn import functional as F

from synbb.datasets.audio_folders import Audio, read_audio
from synbb.errors import SynbbError
from synbb.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Samples = NDArray[np.float32]

QUIETEST = 1e-10  # power below which nothing is told apart
STEADY = 1e-3  # standard deviation below which a band is not stretched


class FeatureSettings(Settings):
    """Log-mel frames.

    Attributes:
        rate: samples a second; audio of another rate is resampled.
        mels: bands, evenly spaced on the mel scale from 0 to half the rate.
        window: length of a frame, ms.
        hop: from one frame to the next, ms.
    """

    rate: PositiveInt = 16000
    mels: PositiveInt = 80
    window: Annotated[float, Field(gt=0)] = 25.0
    hop: Annotated[float, Field(gt=0)] = 10.0


class SpeechAugmentation(Settings):
    """Random changes of training utterances; 0 switches one off.

    Attributes:
        speed: largest relative change of tempo.
        tract: largest relative change of the vocal tract's length, by which bands are warped (Jaitly and Hinton 2013).
        bands: masks over bands of an utterance (these and those over time: SpecAugment, Park et al. 2019).
        band_width: largest width of one, as a share of all bands.
        times: masks over time.
        time_width: largest width of one, as a share of the utterance.
    """

    speed: Annotated[float, Field(ge=0, lt=1)] = 0.1
    tract: Annotated[float, Field(ge=0, lt=1)] = 0.1
    bands: Annotated[int, Field(ge=0)] = 2
    band_width: Share = 0.2
    times: Annotated[int, Field(ge=0)] = 2
    time_width: Share = 0.08


class FeatureReader:
    """Reads audio as frames, and keeps what fits into memory.

    Args:
        settings: of the frames.
        cache_bytes: of frames that are kept.
    """

    def __init__(self, settings: FeatureSettings, *, cache_bytes: int) -> None:
        self.settings, self._room = settings, cache_bytes
        self._frames = LogMel(settings)
        self._kept: dict[Path, Tensor] = {}
        self._lock = threading.Lock()
        self._rates: Counter[int] = Counter()
        self._several = 0
        self._noted: set[Path] = set()

    def frames(self, path: Path) -> Tensor:
        """Frames (mels, T) of a file, each band of mean 0 and standard deviation 1.

        Raises:
            SynbbError: the file is no audio.
        """
        kept = self._kept.get(path)
        if kept is not None:
            return kept
        found = self.frames_of(self.samples(path))
        with self._lock:
            if path not in self._kept and found.nbytes <= self._room:
                self._room -= found.nbytes
                self._kept[path] = found
        return found

    def frames_of(self, samples: Samples) -> Tensor:
        """Frames (mels, T) of samples (n,), likewise."""
        return standardised(self._frames(samples))

    def samples(self, path: Path) -> Samples:
        """Samples of a file at the rate of the frames.

        Raises:
            SynbbError: the file is no audio.
        """
        audio = read_audio(path)
        self._note(path, audio)
        return resampled(audio, self.settings.rate)

    def _note(self, path: Path, audio: Audio) -> None:
        with self._lock:
            if path in self._noted:
                return  # a file that does not fit into memory is read again and again
            self._noted.add(path)
            if audio.rate != self.settings.rate:
                self._rates[audio.rate] += 1
            self._several += audio.channels > 1

    def notes(self) -> list[str]:
        """What was done to files so far; each is told once."""
        with self._lock:
            lines = [
                f"{count} of the files had {rate:,} Hz and were resampled to {self.settings.rate:,} Hz"
                for rate, count in sorted(self._rates.items())
            ]
            if self._several:
                lines.append(f"{self._several} of the files had several channels, whose mean was taken")
            self._rates, self._several = Counter(), 0
        return lines

    def frame_count(self, seconds: float) -> int:
        """Frames of audio of some length."""
        return self._frames.count(round(seconds * self.settings.rate))


class LogMel:
    """Samples to the logarithm of their power in mel bands.

    Args:
        settings: of the frames.

    Raises:
        SynbbError: frames too short for so many bands.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self._window = round(settings.window * settings.rate / 1000)
        self._hop = round(settings.hop * settings.rate / 1000)
        if self._hop < 1 or self._window < self._hop:
            raise SynbbError(
                f"data.features: a window of {settings.window:g} ms every {settings.hop:g} ms at {settings.rate} Hz "
                "leaves samples out: make the window longer than the hop"
            )
        self._size = 2 ** math.ceil(math.log2(self._window))
        self._shape = torch.hann_window(self._window, periodic=False)
        self._bands = torch.from_numpy(mel_bands(settings.mels, self._size, settings.rate))
        if not bool((self._bands.sum(dim=1) > 0).all()):
            raise SynbbError(
                f"data.features.mels={settings.mels}: more bands than a window of {settings.window:g} ms at "
                f"{settings.rate} Hz resolves; take fewer bands or a longer window"
            )

    def count(self, samples: int) -> int:
        """Frames of a number of samples."""
        return 1 + max(samples - self._window, 0) // self._hop

    def __call__(self, samples: Samples) -> Tensor:
        """Frames (mels, T) float32, natural logarithm, of samples (n,); what is shorter than a window is padded."""
        signal = torch.from_numpy(samples)
        if len(signal) < self._window:
            signal = F.pad(signal, (0, self._window - len(signal)))
        pieces = signal.unfold(0, self._window, self._hop)
        pieces = (pieces - pieces.mean(dim=1, keepdim=True)) * self._shape
        spectrum = torch.fft.rfft(pieces, n=self._size)
        power = (spectrum * spectrum.conj()).real  # abs() takes a root first: six times as long
        in_bands: Tensor = self._bands @ power.T
        return in_bands.clamp(min=QUIETEST).log()


def mel_bands(mels: int, size: int, rate: int) -> NDArray[np.float32]:
    """Triangles (mels, size // 2 + 1) over the bins of a Fourier transform of ``size`` samples.

    Their corners are evenly spaced in mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987).
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(size // 2 + 1) * rate / size
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def resampled(audio: Audio, rate: int) -> Samples:
    """Samples at ``rate``, by a polyphase filter."""
    if audio.rate == rate:
        return audio.samples
    common = math.gcd(audio.rate, rate)
    return np.asarray(resample_poly(audio.samples, rate // common, audio.rate // common), np.float32)


def standardised(frames: Tensor) -> Tensor:
    """Frames (mels, T) with mean 0 and standard deviation 1 of each band over time: takes microphone and room out."""
    centred = frames - frames.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp(min=STEADY)


def padded(frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Frames (n, mels, T), zeros at the end of the shorter ones, and their numbers (n,)."""
    lengths = torch.tensor([each.shape[1] for each in frames])
    inputs = torch.zeros(len(frames), frames[0].shape[0], int(lengths.max()))
    for row, each in enumerate(frames):
        inputs[row, :, : each.shape[1]] = each
    return inputs, lengths


def changed(frames: Tensor, settings: SpeechAugmentation, least: int, seed: int) -> Tensor:
    """Frames (mels, T') after random changes, a function of ``seed``.

    Args:
        frames: (mels, T), mean 0.
        settings: what may change, and how far.
        least: frames that must be left, for the transcript to fit.
        seed: of the changes.
    """
    rng = np.random.default_rng(seed)
    if settings.speed:
        wanted = round(frames.shape[1] / (1 + rng.uniform(-settings.speed, settings.speed)))
        size = max(wanted, min(least, frames.shape[1]), 1)
        frames = F.interpolate(frames[None], size=size, mode="linear", align_corners=False)[0]
    frames = warped(frames, 1 + rng.uniform(-settings.tract, settings.tract)) if settings.tract else frames.clone()
    mels, length = frames.shape
    for _ in range(settings.bands):
        width = int(rng.integers(0, int(settings.band_width * mels) + 1))
        first = int(rng.integers(0, mels - width + 1))
        frames[first : first + width] = 0
    for _ in range(settings.times):
        width = int(rng.integers(0, int(settings.time_width * length) + 1))
        first = int(rng.integers(0, length - width + 1))
        frames[:, first : first + width] = 0
    return frames


def warped(frames: Tensor, factor: float) -> Tensor:
    """Frames (mels, T) with band i as band ``factor`` i was; what lies beyond the last band is as the last one."""
    place = (torch.arange(len(frames)) * factor).clamp(max=len(frames) - 1)
    below = place.long().clamp(max=max(len(frames) - 2, 0))
    above = (below + 1).clamp(max=len(frames) - 1)
    share = (place - below)[:, None]
    return frames[below] * (1 - share) + frames[above] * share


def pieces(samples: Samples, rate: int, longest: float) -> list[Samples]:
    """A recording cut into pieces of at most ``longest`` seconds, each at the quietest place of the last third.

    Args:
        samples: (n,).
        rate: samples a second.
        longest: s, taken as at least one.
    """
    limit, step = round(max(longest, 1.0) * rate), max(rate // 50, 1)
    found = []
    while len(samples) > limit:
        first = limit - limit // 3
        power = np.square(samples[first : first + limit // 3 // step * step]).reshape(-1, step).mean(axis=1)
        # A pause, not a gap within a word: the mean over a fifth of a second.
        near = np.ones(min(10, len(power)))
        calm = np.convolve(power, near, mode="same") / np.convolve(np.ones(len(power)), near, mode="same")
        at = first + int(np.argmin(calm)) * step + step // 2
        found.append(samples[:at])
        samples = samples[at:]
    return [*found, samples]
