"""A waveform in, its spectrogram out, by the short-time Fourier transform."""

from __future__ import annotations

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.speech.audio import SAMPLE_RATE

WINDOW = SAMPLE_RATE // 40  # samples, 25 ms
STEP = SAMPLE_RATE // 100  # samples, 10 ms
TRANSFORM = 512  # samples, the next power of two
RANGE = 70.0  # decibels below the loudest that are shown
_BLOCK = 4096  # columns at a time; half an hour at once would take a gigabyte


def spectrogram(waveform: FloatArray) -> FloatArray:
    """waveform float32 [samples > 0], 16 kHz -> float32 [257 bins from 0 to 8 kHz, columns of 10 ms], from 0 to 1.

    1 is the loudest, 0 is RANGE decibels below it or less; column c is centred on sample c * STEP. Silence is all 0.
    """
    padded = np.pad(waveform, (WINDOW // 2, WINDOW - WINDOW // 2))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: len(waveform) : STEP]
    window = np.hanning(WINDOW).astype(np.float32)
    levels = [_decibels(pieces[start : start + _BLOCK] * window) for start in range(0, len(pieces), _BLOCK)]
    decibels = np.concatenate(levels).T
    return np.asarray(((decibels - max(decibels.max(), -100.0)) / RANGE + 1).clip(0, 1), dtype=np.float32)


def _decibels(pieces: FloatArray) -> FloatArray:
    power = np.abs(np.fft.rfft(pieces, TRANSFORM)) ** 2 / TRANSFORM
    return np.asarray(10 * np.log10(power + 1e-20), dtype=np.float32)
