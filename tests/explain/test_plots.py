"""Plots: a tone shows where its frequency is; words have a track."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from im2sp.captioner import Captioner
from im2sp.explain.page import explain
from im2sp.explain.plots import FFT, STEP, plot_tracks, spectrogram
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.speech.whisper import TimedWord

PHOTO = Path(__file__).parents[2] / "examples/china.jpg"
WORDS = (TimedWord("two", 0.0, 0.1), TimedWord("dogs", 0.02, 0.3), TimedWord("run.", 0.1, 99.0))


def test_a_tone_is_a_line() -> None:
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    levels = spectrogram(np.sin(2 * np.pi * 2000 * times).astype(np.float32))
    assert levels.dtype == np.float32
    assert levels.shape == (FFT // 2 + 1, SAMPLE_RATE // STEP)
    assert (levels[:, 5:-5].argmax(axis=0) == 2000 * FFT // SAMPLE_RATE).all()
    assert levels.max() == 1


def test_a_click_is_where_it_sounds() -> None:
    waveform = np.zeros(SAMPLE_RATE, dtype=np.float32)
    waveform[8000] = 1
    assert spectrogram(waveform).sum(axis=0).argmax() == 8000 // STEP


def test_silence_and_a_single_sample() -> None:
    assert spectrogram(np.zeros(1000, dtype=np.float32)).max() < 1e-6
    assert spectrogram(np.ones(1, dtype=np.float32)).shape[1] == 1


def test_the_words_have_a_track_of_their_own(tiny_bundle: Path) -> None:
    explanation = explain(Captioner.from_pretrained(tiny_bundle, threads=1), PHOTO)
    heights = [plot_tracks(replace(explanation, words=words)).height for words in (None, (), WORDS)]
    assert heights[0] < heights[1] == heights[2]
    empty, drawn = (np.asarray(plot_tracks(replace(explanation, words=words))) for words in ((), WORDS))
    rows = np.flatnonzero((empty != drawn).any(axis=(1, 2)))
    assert rows.size
    assert rows[-1] - rows[0] < heights[1] - heights[0]
