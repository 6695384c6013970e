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


def test_the_words_have_a_track_of_their_own(tiny_bundle: Path) -> None:
    explanation = explain(Captioner.from_pretrained(tiny_bundle, threads=1), PHOTO)
    heights = [plot_tracks(replace(explanation, words=words)).height for words in (None, (), WORDS)]
    assert heights[0] < heights[1] == heights[2]
    empty, drawn = (np.asarray(plot_tracks(replace(explanation, words=words))) for words in ((), WORDS))
    rows = np.flatnonzero((empty != drawn).any(axis=(1, 2)))
    assert rows.size
    assert rows[-1] - rows[0] < heights[1] - heights[0]
