"""Log-mel frames, their random changes, and long recordings in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.datasets.audio_folders import Audio
from synbb.errors import SynbbError
from synbb.tasks.speech_features import (
    FeatureReader,
    FeatureSettings,
    LogMel,
    SpeechAugmentation,
    changed,
    mel_bands,
    pieces,
    resampled,
    standardised,
    warped,
)

RATE = 16000


def tone(hertz, seconds=1.0, rate=RATE):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_bands_are_triangles_that_sum_to_one_between_the_outer_centres():
    bands = mel_bands(40, 512, RATE)
    assert bands.shape == (40, 257)
    inner = slice(int(bands[0].argmax()) + 1, int(bands[-1].argmax()))
    np.testing.assert_allclose(bands.sum(axis=0)[inner], 1, atol=1e-5)
    peaks = bands.argmax(axis=1)
    assert (np.diff(peaks) >= 1).all()
    # 1000 Hz are 1000 mel, by the definition of the scale.
    centres = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42)[1:-1]
    nearest = int(np.abs(centres - 1000).argmin())
    assert abs(peaks[nearest] * RATE / 512 - 1000) < 70


@pytest.mark.parametrize("hertz", [250, 1000, 3000])
def test_a_tone_is_loudest_in_its_band(hertz):
    frames = LogMel(FeatureSettings(mels=40))(tone(hertz))
    assert frames.shape == (40, LogMel(FeatureSettings()).count(RATE))
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42)[1:-1] / 2595) - 1)
    assert abs(int(frames.mean(dim=1).argmax()) - int(np.abs(centres - hertz).argmin())) <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9000))
def test_frames_are_as_many_as_counted(samples):
    frames = LogMel(FeatureSettings(mels=20))
    assert frames(np.ones(samples, np.float32)).shape == (20, frames.count(samples))


def test_loudness_and_a_constant_offset_do_not_matter():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=RATE).astype(np.float32) * 0.1
    frames = LogMel(FeatureSettings(mels=20))
    one, other = standardised(frames(noise)), standardised(frames(noise * 0.2 + 0.05))
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)
    assert one.mean(dim=1).abs().max() < 1e-5
    torch.testing.assert_close(one.square().mean(dim=1), torch.ones(20))


def test_silence_is_zero_and_finite():
    frames = standardised(LogMel(FeatureSettings(mels=20))(np.zeros(RATE, np.float32)))
    assert frames.abs().max() < 0.01


def test_another_rate_gives_the_same_frames():
    frames = LogMel(FeatureSettings(mels=20, window=32))
    slow = resampled(Audio(tone(700, rate=8000), 8000, 1), RATE)
    assert len(slow) == RATE
    assert int(frames(slow).mean(dim=1).argmax()) == int(frames(tone(700)).mean(dim=1).argmax())


def test_what_was_done_to_files_is_told_once(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(300, rate=8000), 8000)
    soundfile.write(tmp_path / "b.wav", np.stack([tone(300), tone(400)], axis=1), RATE)
    reader = FeatureReader(FeatureSettings(mels=20), cache_bytes=2**20)
    assert reader.frames(tmp_path / "a.wav").shape[0] == 20
    reader.frames(tmp_path / "b.wav")
    reader.frames(tmp_path / "b.wav")  # kept: not read again
    assert reader.notes() == [
        "1 of the files had 8,000 Hz and were resampled to 16,000 Hz",
        "1 of the files had several channels, whose mean was taken",
    ]
    assert reader.notes() == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"hop": 30}, "leaves samples out"), ({"mels": 200}, "more bands than a window of 25 ms at 16000 Hz resolves")],
)
def test_frames_that_make_no_sense(wrong, said):
    with pytest.raises(SynbbError, match=said):
        LogMel(FeatureSettings(**wrong))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(0, 1000))
def test_changes_are_a_function_of_the_seed_and_leave_enough(length, seed):
    frames = torch.randn(20, length)
    how = SpeechAugmentation(speed=0.3, bands=2, band_width=0.5, times=2, time_width=0.5)
    one = changed(frames, how, length, seed)
    torch.testing.assert_close(one, changed(frames, how, length, seed), rtol=0, atol=0)
    assert length <= one.shape[1] <= np.ceil(length / 0.7)
    assert changed(frames, how, 1, seed).shape[1] >= np.floor(length / 1.3)


def test_masks_are_no_wider_than_allowed_and_input_stays():
    frames = torch.ones(20, 100)
    how = SpeechAugmentation(speed=0, tract=0, bands=1, band_width=0.25, times=1, time_width=0.1)
    widths = set()
    for seed in range(60):
        masked = changed(frames, how, 1, seed) == 0
        bands, times = masked.all(dim=1).sum(), masked.all(dim=0).sum()
        widths.add((int(bands), int(times)))
        assert masked.sum() == bands * 100 + times * 20 - bands * times
    assert max(b for b, _ in widths) == 5
    assert max(t for _, t in widths) == 10
    assert (frames == 1).all()
    assert (changed(frames, SpeechAugmentation(speed=0, tract=0, bands=0, times=0), 1, 0) == 1).all()


def test_a_shorter_vocal_tract_moves_what_is_heard_up():
    frames = torch.zeros(20, 3)
    frames[8] = 1
    assert warped(frames, 0.8).argmax(dim=0).tolist() == [10] * 3
    torch.testing.assert_close(warped(frames, 1.0), frames)
    assert warped(torch.arange(20.0)[:, None], 1.3).squeeze().tolist() == pytest.approx(
        [min(1.3 * band, 19) for band in range(20)]
    )
    assert warped(torch.ones(1, 4), 0.9).tolist() == [[1] * 4]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40000), st.floats(0.02, 3))
def test_pieces_are_the_whole_and_short_enough(samples, longest):
    whole = np.random.default_rng(samples).normal(size=samples).astype(np.float32)
    found = pieces(whole, 4000, longest)
    np.testing.assert_array_equal(np.concatenate(found), whole)
    assert all(0 < len(piece) <= round(max(longest, 1) * 4000) for piece in found)


def test_a_recording_is_cut_in_its_pause():
    loud = np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32)
    loud[round(1.5 * RATE) : round(1.8 * RATE)] *= 0.01
    first = pieces(loud, RATE, 2.0)[0]
    assert 1.5 < len(first) / RATE < 1.8


def test_the_ends_of_the_search_are_not_taken_for_pauses():
    """Constant but for a shallow dip: at the edges of the window less is summed."""
    sound = np.ones(12 * RATE, np.float32)
    sound[round(8.2 * RATE) : round(8.8 * RATE)] *= 0.8
    assert 8.2 < len(pieces(sound, RATE, 9.0)[0]) / RATE < 8.8


def test_files_are_noted_once_however_often_they_are_read(tmp_path):
    reader = FeatureReader(FeatureSettings(mels=20), cache_bytes=0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros((8000, 2)), 8000)
    for _ in range(2):
        for number in range(3):
            reader.frames(tmp_path / f"{number}.wav")
    assert reader.notes() == [
        "3 of the files had 8,000 Hz and were resampled to 16,000 Hz",
        "3 of the files had several channels, whose mean was taken",
    ]
    reader.frames(tmp_path / "0.wav")
    assert reader.notes() == []
