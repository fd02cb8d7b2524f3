"""Phantom speech: made-up words that the project speaks itself, for tests and first runs without any download.

Words are spelled as they sound: every letter has formants of its own, a share of voice and of noise, and a stop has a
closure and a burst. Formants glide from letter to letter. A speaker is a pitch, a length of the vocal tract, a tempo, a
loudness and a brightness; an utterance adds its melody, slips in every letter and background noise. Everything is a
function of the seed.
"""

from __future__ import annotations

import csv
import io
import wave
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from synbb.datasets.audio_folders import TABLE
from synbb.datasets.phantom_kinds import PhantomKind
from synbb.errors import SynbbError
from synbb.schema import Settings, validated

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 16000
"""Samples a second."""
CONTROL = 80  # samples (5 ms) from one state of the vocal tract to the next
HOP = 128  # samples from one filtered frame to the next
OVERLAP = 4  # frames over a sample
FRAME = OVERLAP * HOP
PADDED = 2 * FRAME  # room for what a filter rings before and after a frame

Floats = NDArray[np.float64]
Samples = NDArray[np.int16]


@dataclass(frozen=True)
class _Sound:
    """A steady part of a letter.

    Attributes:
        formants: of a vocal tract of middle length, Hz.
        voice: amplitude of what the vocal cords give, 1 in vowels.
        noise: amplitude of what friction gives.
        centre: of the noise, Hz.
        width: of the noise, Hz.
        length: at middle tempo, ms.
    """

    formants: tuple[float, float, float]
    voice: float
    noise: float = 0.0
    centre: float = 3000.0
    width: float = 1000.0
    length: float = 75.0


def _stop(formants: tuple[float, float, float], voice: float, centre: float, width: float) -> tuple[_Sound, ...]:
    """A closure, with or without voice, and a burst, which is longer where there was none."""
    return (
        _Sound(formants, voice, length=45),
        _Sound(formants, voice, 0.5, centre, width, length=15 if voice else 35),
    )


_VOWELS = {
    "a": (_Sound((740, 1250, 2550), 1.0, length=95),),
    "e": (_Sound((500, 1800, 2500), 1.0, length=95),),
    "i": (_Sound((290, 2250, 3000), 1.0, length=95),),
    "o": (_Sound((480, 900, 2400), 1.0, length=95),),
    "u": (_Sound((300, 700, 2100), 1.0, length=95),),
}
_CONSONANTS = {
    "b": _stop((250, 800, 2200), 0.25, 800, 500),
    "d": _stop((250, 1750, 2700), 0.25, 4200, 1200),
    "f": (_Sound((300, 1000, 2300), 0.0, 0.25, 3500, 2500),),
    "g": _stop((250, 2200, 2500), 0.25, 1900, 500),
    "k": _stop((300, 2200, 2500), 0.0, 1900, 500),
    "l": (_Sound((380, 1250, 2950), 0.6),),
    "m": (_Sound((250, 950, 2100), 0.5),),
    "n": (_Sound((250, 1600, 2600), 0.5),),
    "p": _stop((300, 800, 2200), 0.0, 800, 500),
    "r": (_Sound((330, 1100, 1550), 0.6),),
    "s": (_Sound((300, 1600, 2600), 0.0, 0.5, 5800, 900),),
    "t": _stop((300, 1750, 2700), 0.0, 4200, 1200),
    "v": (_Sound((280, 1000, 2300), 0.4, 0.15, 3500, 2500),),
    "z": (_Sound((280, 1600, 2600), 0.35, 0.3, 5800, 900),),
}
_LETTERS = _VOWELS | _CONSONANTS
_SHAPES = ("cvc", "cvcv", "cvcvc", "cvcvcv")
_SHAPE_SHARES = (0.2, 0.4, 0.25, 0.15)


def _fewest_and_most(words: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= words[0] <= words[1]:
        raise ValueError("fewest and most words, 1 or more, for example 2,4")
    return words


class SpeechPhantom(Settings):
    """What is spoken.

    Attributes:
        speakers: number of people; more of them leave the first as they are.
        utterances: of each.
        words: fewest and most in an utterance.
        vocabulary: number of different words; the word of rank r comes 1/r as often as the first (Zipf).
        snr: how much louder than the background noise the speech of an utterance is on average, dB.
        seed: of everything.
    """

    speakers: int = Field(default=20, ge=1)
    utterances: int = Field(default=20, ge=1)
    words: Annotated[tuple[int, int], AfterValidator(_fewest_and_most)] = (2, 4)
    vocabulary: int = Field(default=30, ge=1, le=1000)
    snr: float = Field(default=15.0, ge=-20, le=100)
    seed: int = Field(default=0, ge=0)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SpeechPhantom:
        """From plain values, as they stand in the manifest.

        Raises:
            SynbbError: an unknown key, or values that make no speech.
        """
        return validated(cls, values, "phantom speech")


SPEECH = PhantomKind(
    "phantom speech",
    lambda spec: spec.model_dump(mode="json"),
    SpeechPhantom.from_dict,
    lambda spec: [TABLE, *(audio_path(Path(), *which).as_posix() for which in _each(spec))],
)


def write_phantom_speech(
    folder: str | Path,
    spec: SpeechPhantom,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``sNN/MM.wav`` (mono, 16 bits), ``transcripts.csv`` (audio, text, speaker) and ``phantom.yaml`` (the spec).

    Args:
        folder: to create.
        spec: what is spoken.
        overwrite: replace a phantom that is there.
        progress: told (done, total) utterances.

    Raises:
        SynbbError: the folder is there and may not be replaced.
        RunEnded: the disk is full.
    """
    where = Path(folder)
    with SPEECH.folder(where, overwrite=overwrite) as stage:
        for speaker, number in _each(spec):
            path = audio_path(stage, speaker, number)
            path.parent.mkdir(exist_ok=True)
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(speak(spec, speaker, number).astype("<i2").tobytes())
            if progress is not None:
                progress(speaker * spec.utterances + number + 1, spec.speakers * spec.utterances)
        (stage / TABLE).write_text(_table(spec), encoding="utf-8")
        SPEECH.write(stage, spec)
    return where


def verify_phantom_speech(folder: Path, spec: SpeechPhantom) -> int:
    """Speak every utterance anew and compare; returns how many.

    Samples may differ by one step of their 16 bits: processors round differently.

    Raises:
        SynbbError: it is another phantom, or an utterance is missing or differs, or the table does.
    """
    SPEECH.check(folder, spec)
    remedy = f"remove {folder} and make it anew"
    table = folder / TABLE
    if not table.is_file():
        raise SynbbError(f"{table}: missing; {remedy}")
    if table.read_bytes() != _table(spec).encode():
        raise SynbbError(f"{table}: differs from what its spec gives; {remedy}")
    for speaker, number in _each(spec):
        path = audio_path(folder, speaker, number)
        if not path.is_file():
            raise SynbbError(f"{path}: missing; {remedy}")
        stored, expected = _stored(path), speak(spec, speaker, number)
        if len(stored) != len(expected) or np.abs(stored - expected.astype(np.int32)).max() > 1:
            raise SynbbError(f"{path}: differs from what its spec gives; {remedy}")
    return spec.speakers * spec.utterances


def audio_path(folder: Path, speaker: int, number: int) -> Path:
    """Where an utterance lies."""
    return folder / f"s{speaker + 1:02d}" / f"{number + 1:02d}.wav"


@lru_cache(maxsize=16)
def vocabulary(spec: SpeechPhantom) -> tuple[str, ...]:
    """All words, the most frequent first."""
    chance = _random(spec, 0)
    words: dict[str, None] = {}
    while len(words) < spec.vocabulary:
        shape = chance.choice(_SHAPES, p=_SHAPE_SHARES)
        words["".join(chance.choice(list(_VOWELS if kind == "v" else _CONSONANTS)) for kind in shape)] = None
    return tuple(words)


def text_of(spec: SpeechPhantom, speaker: int, number: int) -> str:
    """What is said in an utterance."""
    chance = _random(spec, 1, speaker, number)
    words = vocabulary(spec)
    share = 1 / np.arange(1, len(words) + 1)
    count = chance.integers(spec.words[0], spec.words[1] + 1)
    return " ".join(chance.choice(words, count, p=share / share.sum()))


def speak(spec: SpeechPhantom, speaker: int, number: int) -> Samples:
    """One utterance, int16 (n,), :data:`RATE` samples a second."""
    who = _random(spec, 2, speaker)
    tract = who.uniform(0.85, 1.18)  # of the formants; short tracts go with high voices, but not strictly
    pitch = np.clip(140 * tract**3 * np.exp(who.normal(0, 0.2)), 75, 260)
    tempo, loudness, brightness = who.uniform(0.85, 1.25), who.uniform(-12, 0), who.uniform(0.7, 1.4)
    how = _random(spec, 3, speaker, number)
    tempo *= how.uniform(0.92, 1.08)
    states = _states(text_of(spec, speaker, number), tract, tempo, how)
    voice, friction = _sources(states, pitch, how)
    resonances, band = _filters(states, tract, brightness)
    sound = _filtered(voice, resonances) + _filtered(friction, band)
    sound = sound * 0.05 * 10 ** (loudness / 20) / np.sqrt(np.mean(sound**2))
    background = _background(len(sound), how)
    sound = sound + background * np.sqrt(np.mean(sound**2)) / 10 ** (spec.snr / 20)
    spoken: Samples = np.clip(np.rint(32767 * sound), -32768, 32767).astype(np.int16)
    return spoken


def _each(spec: SpeechPhantom) -> list[tuple[int, int]]:
    return [(speaker, number) for speaker in range(spec.speakers) for number in range(spec.utterances)]


def _random(spec: SpeechPhantom, matter: int, *which: int) -> np.random.Generator:
    # The matter keeps them apart: to a seed sequence, [0, 1] and [0, 1, 0] are one.
    return np.random.default_rng([spec.seed, matter, *which])


def _table(spec: SpeechPhantom) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["audio", "text", "speaker"])
    for speaker, number in _each(spec):
        path = audio_path(Path(), speaker, number)
        writer.writerow([path.as_posix(), text_of(spec, speaker, number), path.parent.name])
    return table.getvalue()


def _stored(path: Path) -> NDArray[np.int32]:
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, RATE):
                return np.zeros(0, np.int32)
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int32)
    except (wave.Error, EOFError, ValueError):
        return np.zeros(0, np.int32)


def _states(text: str, tract: float, tempo: float, how: np.random.Generator) -> Floats:
    """The vocal tract every :data:`CONTROL` samples, (t, 7): log of three formants, voice, noise, its centre and width.

    Formants glide over about two thirds of a letter, amplitudes change within 10 to 20 ms.
    """
    sounds: list[tuple[_Sound, float, float]] = []  # with ms and amplitude
    for word in text.split():
        pause = 60 + how.exponential(60) if sounds else how.uniform(80, 200)
        sounds.append((_Sound(_LETTERS[word[0]][0].formants, 0.0), pause, 0.0))
        stress = how.normal(0, 2)
        for letter in word:
            amplitude = 10 ** ((stress + how.normal(0, 4)) / 20)
            stretch = np.exp(how.normal(0, 0.15)) / tempo
            sounds += [(sound, sound.length * stretch, amplitude) for sound in _LETTERS[letter]]
    sounds.append((_Sound(sounds[-1][0].formants, 0.0), how.uniform(80, 200), 0.0))
    rows, counts = [], []
    for sound, length, amplitude in sounds:
        slips = np.exp(how.normal(0, 0.05, 3))
        rows.append(
            [
                *np.log(np.array(sound.formants) * slips * tract),
                amplitude * sound.voice,
                amplitude * sound.noise,
                min(sound.centre * tract**0.5, 7000),
                sound.width,
            ]
        )
        counts.append(max(1, round(length * RATE / 1000 / CONTROL)))
    states = np.repeat(np.array(rows), counts, axis=0)
    for columns, over in ((slice(0, 3), 13), (slice(3, 5), 3)):
        states[:, columns] = _smooth(states[:, columns], over)
    return states


def _smooth(values: Floats, over: int) -> Floats:
    """Each column averaged over ``over`` rows (odd), those at the middle counting most."""
    weights = np.hanning(over + 2)[1:-1]
    padded = np.pad(values, ((over // 2, over // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(each, weights / weights.sum(), mode="valid") for each in padded.T], axis=1)


def _sources(states: Floats, pitch: float, how: np.random.Generator) -> tuple[Floats, Floats]:
    """Pulses of the vocal cords and noise of friction, both (n,), with their amplitudes."""
    at = np.arange(len(states)) * CONTROL
    samples = np.arange(len(states) * CONTROL)
    melody = how.normal(0, 0.06, 2 + len(states) // 40)
    knots = np.linspace(0, len(samples), len(melody))
    falling = 0.12 * (0.5 - samples / len(samples))  # the voice sinks towards the end
    frequency = pitch * np.exp(np.interp(samples, knots, melody) + falling)
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    harmonics = int(0.48 * RATE / frequency.max())
    half = np.sin(phase / 2)
    flat = np.abs(half) < 1e-6
    # The sum of cos(k phase) over all harmonics, in closed form.
    pulses = np.where(flat, harmonics, np.sin((harmonics + 0.5) * phase) / np.where(flat, 1, 2 * half) - 0.5)
    pulses /= np.sqrt(harmonics / 2)
    voice, noise = (np.interp(samples, at, states[:, column]) for column in (3, 4))
    return voice * pulses, noise * how.normal(0, 1, len(samples))


def _filters(states: Floats, tract: float, brightness: float) -> tuple[Floats, Floats]:
    """Amplitude of voice and of noise at each frequency of each frame, both (frames, 1 + PADDED / 2).

    All of them let the same power through: what a letter is shows in its spectrum, not in its loudness.
    """
    frames = -(-len(states) * CONTROL // HOP) + OVERLAP - 1
    at = (np.arange(frames) - 1) * HOP / CONTROL  # the middle of the first frame lies before the sound
    states = np.stack([np.interp(at, np.arange(len(states)), each) for each in states.T], axis=1)[:, :, None]
    frequency = np.fft.rfftfreq(PADDED, 1 / RATE)
    resonances = 0.1 / np.hypot(1, (frequency - 3600 * tract) / 200)
    for column, (amplitude, half_width) in enumerate(((1.0, 50), (0.6, 70), (0.35, 100))):
        resonances = resonances + amplitude / np.hypot(1, (frequency - np.exp(states[:, column])) / half_width)
    tilt = 1 / np.hypot(1, frequency / (1200 * brightness))
    band: Floats = np.exp(-0.5 * ((frequency - states[:, 5]) / states[:, 6]) ** 2)
    return _levelled(resonances * tilt), _levelled(band)


def _levelled(amplitude: Floats) -> Floats:
    power: Floats = np.mean(amplitude**2, axis=1, keepdims=True)
    return amplitude / np.sqrt(power)


def _filtered(source: Floats, amplitude: Floats) -> Floats:
    """A sound (n,) with each of its frames, which overlap, multiplied by its row of ``amplitude``."""
    frames = len(amplitude)
    before = FRAME - HOP  # so that the first sample too lies in as many frames as any
    padded = np.zeros((frames - 1) * HOP + FRAME)
    padded[before : before + len(source)] = source
    pieces = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    window = np.hanning(FRAME + 1)[:-1] * 2 / OVERLAP  # those over a sample sum to 1
    inside = np.zeros((frames, PADDED))
    inside[:, FRAME // 2 : -FRAME // 2] = pieces * window
    rung = np.fft.irfft(np.fft.rfft(inside, axis=1) * amplitude, axis=1).reshape(frames, -1, HOP)
    summed = np.zeros((frames + rung.shape[1] - 1, HOP))
    for place in range(rung.shape[1]):
        summed[place : place + frames] += rung[:, place]
    start = before + FRAME // 2
    return summed.reshape(-1)[start : start + len(source)]


def _background(length: int, how: np.random.Generator) -> Floats:
    """Noise (n,) of power 1 that falls with frequency, more or less."""
    spectrum = np.fft.rfft(how.normal(0, 1, length))
    spectrum /= (1 + np.fft.rfftfreq(length, 1 / RATE) / 200) ** how.uniform(0, 1)
    noise: Floats = np.asarray(np.fft.irfft(spectrum, length))
    noise /= np.sqrt(np.mean(noise**2))
    return noise
