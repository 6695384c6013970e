"""Mel-frequency cepstral coefficients: waveform -> 39 features a frame, the first targets of HuBERT."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dct
from scipy.signal import get_window
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from im2sp.speech.audio import HOP, SAMPLE_RATE

FFT = 512
BANDS = 40
COEFFICIENTS = 13
# Fixed divisors that bring every coefficient to about unit variance on speech; otherwise k-means hears loudness alone.
_SPREAD = np.array([14.0, 7.0, 5.0, 4.0, 3.5, 3.0, 2.5, 2.3, 2.0, 1.9, 1.8, 1.7, 1.6])


class MFCC(nn.Module):
    """13 coefficients of every frame with their first and second differences, each at about unit variance.

    Made of convolutions and matrix products, so that it exports to ONNX; always in float32.
    """

    fourier: Tensor
    mel: Tensor
    cosines: Tensor

    def __init__(self) -> None:
        super().__init__()
        angle = 2 * np.pi * np.arange(FFT // 2 + 1)[:, None] * np.arange(FFT)[None] / FFT
        basis = np.concatenate([np.cos(angle), np.sin(angle)]) * get_window("hann", FFT)
        filters = mel_filter_bank(
            FFT // 2 + 1, BANDS, 40.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        cosines = dct(np.eye(BANDS), norm="ortho")[:, :COEFFICIENTS] / _SPREAD
        for name, values in (("fourier", basis[:, None]), ("mel", filters), ("cosines", cosines)):
            self.register_buffer(name, torch.from_numpy(values).float(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveform float32 [B, n * HOP] at 16 kHz -> float32 [B, n, 39]."""
        with torch.autocast(waveform.device.type, enabled=False):
            edge = (FFT - HOP) // 2
            padded = nn.functional.pad(waveform.float(), (edge, edge))
            spectrum = nn.functional.conv1d(padded[:, None], self.fourier, stride=HOP).transpose(1, 2)
            real, imaginary = spectrum.chunk(2, -1)
            coefficients = torch.log((real**2 + imaginary**2) @ self.mel + 1e-7) @ self.cosines
            # Differences are smaller; twice their value has about the variance of the coefficients.
            first = _difference(coefficients)
            return torch.cat([coefficients, 2 * first, 2 * _difference(first)], -1)


def _difference(x: Tensor) -> Tensor:
    """Central differences of [B, n, C] along n; the first and the last frame count twice."""
    long = torch.cat([x[:, :1], x, x[:, -1:]], 1)
    return (long[:, 2:] - long[:, :-2]) / 2
