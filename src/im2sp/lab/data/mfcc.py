"""Mel-frequency cepstra: waveform -> the first training targets of HuBERT."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.fft import dct
from scipy.signal import get_window
from transformers.audio_utils import mel_filter_bank

from im2sp.speech.audio import HOP, SAMPLE_RATE

FFT = 512
BANDS = 40
COEFFICIENTS = 13
# Fixed weights that bring every coefficient to about unit spread on speech, so that k-means hears more than loudness.
_SPREAD = np.array([14.0, 7.0, 5.0, 4.0, 3.5, 3.0, 2.5, 2.3, 2.0, 1.9, 1.8, 1.7, 1.6])
LIFTER = 1.0 / np.concatenate([_SPREAD, _SPREAD, _SPREAD])


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    return mel_filter_bank(FFT // 2 + 1, BANDS, 40.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")


def mfcc(waveform: np.ndarray) -> np.ndarray:
    """Waveform float32 [n * HOP] at 16 kHz -> float32 [n, 39]: 13 cepstra, their first and second differences."""
    edge = (FFT - HOP) // 2
    padded = np.pad(waveform, (edge, edge))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP] * get_window("hann", FFT).astype(np.float32)
    power = np.abs(np.fft.rfft(frames)) ** 2
    cepstra = dct(np.log(power @ _filters() + 1e-7), norm="ortho")[:, :COEFFICIENTS]
    first = np.gradient(cepstra, axis=0) if len(cepstra) > 1 else np.zeros_like(cepstra)
    second = np.gradient(first, axis=0) if len(cepstra) > 1 else first
    first, second = 2.0 * first, 2.0 * second  # differences are smaller: bring them to the spread of the cepstra
    scaled = np.concatenate([cepstra, first, second], axis=1) * LIFTER
    return scaled.astype(np.float32)
