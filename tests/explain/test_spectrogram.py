"""A tone shows where its frequency is; silence shows nothing."""

from __future__ import annotations

import numpy as np

from im2sp.explain.spectrogram import STEP, TRANSFORM, spectrogram
from im2sp.speech.audio import SAMPLE_RATE


def test_a_tone_is_a_line() -> None:
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    levels = spectrogram(np.sin(2 * np.pi * 2000 * times).astype(np.float32))
    assert levels.dtype == np.float32
    assert levels.shape == (TRANSFORM // 2 + 1, SAMPLE_RATE // STEP)
    assert (levels[:, 5:-5].argmax(axis=0) == 2000 * TRANSFORM // SAMPLE_RATE).all()
    assert levels.max() == 1


def test_a_click_is_where_it_sounds() -> None:
    waveform = np.zeros(SAMPLE_RATE, dtype=np.float32)
    waveform[8000] = 1
    assert spectrogram(waveform).sum(axis=0).argmax() == 8000 // STEP


def test_silence_and_a_single_sample() -> None:
    assert spectrogram(np.zeros(1000, dtype=np.float32)).max() < 1e-6
    assert spectrogram(np.ones(1, dtype=np.float32)).shape[1] == 1
