"""Made-up speech: reproducible, told apart by spectrum and not by loudness, noise and words as the spec states."""

from __future__ import annotations

import wave
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synbb.datasets.audio_folders import read_audio, read_corpus
from synbb.datasets.phantom_speech import (
    HOP,
    OVERLAP,
    PADDED,
    RATE,
    SPEECH,
    SpeechPhantom,
    _filtered,
    audio_path,
    speak,
    text_of,
    verify_phantom_speech,
    vocabulary,
    write_phantom_speech,
)
from synbb.errors import SynbbError

SPEC = SpeechPhantom(speakers=3, utterances=2, vocabulary=9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_phantom_speech(tmp_path / "speech", SPEC)


def test_the_seed_decides_everything(folder: Path) -> None:
    assert SPEECH.read(folder) == SPEC
    found = read_corpus(folder, "table")
    each = [(speaker, number) for speaker in range(3) for number in range(2)]
    assert [one.speaker for one in found] == [f"s{speaker + 1:02d}" for speaker, _ in each]
    assert [one.text for one in found] == [text_of(SPEC, *which) for which in each]
    for one, which in zip(found, each, strict=True):
        audio = read_audio(one.path)
        assert (audio.rate, audio.channels) == (RATE, 1)
        np.testing.assert_array_equal(audio.samples * 32768, speak(SPEC, *which))
    more, other = (SPEC.model_copy(update=change) for change in ({"speakers": 9, "utterances": 5}, {"seed": 1}))
    np.testing.assert_array_equal(speak(more, 2, 1), speak(SPEC, 2, 1))
    assert vocabulary(other) != vocabulary(SPEC)
    assert not np.array_equal(speak(other, 2, 1), speak(SPEC, 2, 1))


def test_words_come_as_often_as_their_rank_says() -> None:
    spec = SpeechPhantom(vocabulary=6, words=(2, 4), utterances=200)
    texts = [text_of(spec, speaker, number).split() for speaker in range(5) for number in range(200)]
    assert {len(text) for text in texts} == {2, 3, 4}
    counts = Counter(word for text in texts for word in text)
    shares = [counts[word] / counts.total() for word in vocabulary(spec)]
    expected = 1 / np.arange(1, 7) / np.sum(1 / np.arange(1, 7))
    np.testing.assert_allclose(shares, expected, atol=0.03)


def test_the_training_speakers_of_the_default_say_every_word() -> None:
    spec = SpeechPhantom()
    heard = {word for speaker in range(14) for number in range(20) for word in text_of(spec, speaker, number).split()}
    assert heard == set(vocabulary(spec))
    assert len(heard) == 30


def test_noise_is_as_loud_as_stated() -> None:
    for snr in (0.0, 15.0):
        clean, noisy = (SpeechPhantom(snr=each) for each in (100, snr))
        for which in ((0, 0), (4, 3)):
            sound = speak(clean, *which).astype(float)
            noise = speak(noisy, *which) - sound
            assert 10 * np.log10(np.mean(sound**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.2)


def bands(samples: np.ndarray) -> np.ndarray:
    """Power every 10 ms in 20 bands, wider above, (t, 20), between the first and the last sound."""
    pieces = np.lib.stride_tricks.sliding_window_view(samples / 32768, 400)[::160] * np.hanning(400)
    power = np.abs(np.fft.rfft(pieces, 512))[:, :256] ** 2
    summed = np.add.reduceat(power, (256 * np.linspace(0, 1, 20, endpoint=False) ** 1.6).astype(int), axis=1)
    loud = np.flatnonzero(np.log(summed.sum(axis=1)) > np.log(summed.sum(axis=1)).max() - 5)
    return summed[loud[0] : loud[-1] + 1]


def test_the_spectrum_tells_words_apart_and_loudness_does_not() -> None:
    spec = SpeechPhantom(speakers=8, utterances=20, words=(1, 1), vocabulary=12)
    each = [(speaker, number) for speaker in range(8) for number in range(20)]
    words, speakers = np.array([text_of(spec, *which) for which in each]), np.array(each)[:, 0]
    heard = [bands(speak(spec, *which)) for which in each]

    def named_right(curves: list[np.ndarray]) -> float:
        """Share of utterances whose nearest one of another speaker, brought to one length, is the same word."""
        flat = []
        for curve in curves:
            at = np.linspace(0, len(curve) - 1, 24)
            even = np.stack([np.interp(at, np.arange(len(curve)), column) for column in curve.T], axis=1)
            flat.append((even - even.mean(axis=0)).ravel())
        points = np.array(flat)
        away = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
        away[speakers[:, None] == speakers[None]] = np.inf
        return float((words[away.argmin(axis=1)] == words).mean())

    loudness = named_right([np.log(power.sum(axis=1, keepdims=True)) for power in heard])
    spectrum = named_right([np.log(power) for power in heard])
    assert loudness < 0.6
    assert 0.65 < spectrum < 0.98, "neither hopeless nor a matter of comparing spectra"
    assert spectrum > loudness + 0.15


def test_speakers_sound_unlike() -> None:
    spec = SpeechPhantom(speakers=8, utterances=6, snr=40)
    means = [np.log(bands(speak(spec, s, n)).mean(axis=0)) for s in range(8) for n in range(6)]
    points = np.array([mean - mean.mean() for mean in means])  # loudness aside
    away = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(away, np.inf)
    assert (away.argmin(axis=1) // 6 == np.arange(48) // 6).mean() > 0.4, "of 8 speakers by chance 0.11"


@given(st.integers(1, 2000), st.integers(0, 2**32 - 1))
def test_a_filter_that_changes_nothing_changes_nothing(length: int, seed: int) -> None:
    source = np.random.default_rng(seed).normal(size=length)
    flat = np.ones((-(-length // HOP) + OVERLAP - 1, PADDED // 2 + 1))
    np.testing.assert_allclose(_filtered(source, flat), source, atol=1e-12)


def rewrite(path: Path, change: int) -> None:
    with wave.open(str(path), "rb") as file:
        about, samples = file.getparams(), np.frombuffer(file.readframes(file.getnframes()), "<i2").copy()
    samples[100] += change
    with wave.open(str(path), "wb") as file:
        file.setparams(about)
        file.writeframes(samples.tobytes())


def test_what_differs_from_the_spec_is_named(folder: Path) -> None:
    assert verify_phantom_speech(folder, SPEC) == 6
    file, table = audio_path(folder, 1, 0), folder / "transcripts.csv"
    rewrite(file, 1)
    assert verify_phantom_speech(folder, SPEC) == 6, "another processor may round otherwise"
    rewrite(file, 1)
    with pytest.raises(SynbbError, match=r"s02/01\.wav: differs from what its spec gives; remove"):
        verify_phantom_speech(folder, SPEC)
    for content in (b"", b"RIFF", audio_path(folder, 1, 1).read_bytes(), file.read_bytes()[:60]):
        file.write_bytes(content)
        with pytest.raises(SynbbError, match=r"s02/01\.wav: differs"):
            verify_phantom_speech(folder, SPEC)
    file.unlink()
    with pytest.raises(SynbbError, match=r"s02/01\.wav: missing"):
        verify_phantom_speech(folder, SPEC)
    table.write_text(table.read_text().replace(",s01", ",s02", 1))
    with pytest.raises(SynbbError, match=r"transcripts\.csv: differs"):
        verify_phantom_speech(folder, SPEC)
    table.unlink()
    with pytest.raises(SynbbError, match=r"transcripts\.csv: missing"):
        verify_phantom_speech(folder, SPEC)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speaker": 3}, "phantom speech: unknown key 'speaker'; did you mean 'speakers'"),
        ({"speakers": 0}, "speakers = 0: .*greater than or equal to 1"),
        ({"utterances": -1}, "utterances = -1"),
        ({"vocabulary": 1001}, "vocabulary = 1001: .*less than or equal to 1000"),
        ({"words": [4, 2]}, "words .*fewest and most words, 1 or more"),
        ({"words": [0, 2]}, "words .*fewest and most words, 1 or more"),
        ({"snr": float("nan")}, "snr = nan"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_what_cannot_be_spoken(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        SpeechPhantom.from_dict(values)


def test_a_folder_is_replaced_when_told_to(folder: Path) -> None:
    few = SpeechPhantom.from_dict({"speakers": 1, "utterances": 1, "words": [1, 1], "vocabulary": 1})
    with pytest.raises(SynbbError, match="exists already; choose another folder"):
        write_phantom_speech(folder, few)
    told: list[tuple[int, int]] = []
    write_phantom_speech(folder, few, overwrite=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    assert sorted(path.name for path in folder.iterdir()) == ["phantom.yaml", "s01", "transcripts.csv"]
