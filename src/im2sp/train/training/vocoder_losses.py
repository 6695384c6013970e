"""Losses of the vocoder: spectral distance between two waveforms, and discriminators on spectrograms."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from im2sp.speech.audio import SAMPLE_RATE

RESOLUTIONS = ((2048, 100), (1024, 80), (512, 64), (256, 32))  # (window [samples], mel bands); hops are a quarter

# (kernel, stride, padding) over (frequency, time): halve the frequencies each time, the frames once.
DISCRIMINATOR_LAYERS = (
    ((7, 5), (2, 1), (3, 2)),
    ((5, 3), (2, 1), (2, 1)),
    ((5, 3), (2, 2), (2, 1)),
    ((5, 3), (2, 1), (2, 1)),
)


Opinion = tuple[Tensor, list[Tensor]]  # of one discriminator: verdicts [B, ...], hidden maps
Combine = Callable[[Tensor], Tensor]  # a number for each discriminator, or for each hidden map [N], -> []


@lru_cache(maxsize=16)
def mel_filters(fft: int, bands: int, device: torch.device) -> Tensor:
    """Slaney's mel filters from 0 to 8 kHz, float32 [fft // 2 + 1, bands]."""
    filters = mel_filter_bank(fft // 2 + 1, bands, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float().to(device)


@lru_cache(maxsize=16)
def hann_window(fft: int, device: torch.device) -> Tensor:
    """Periodic, float32 [fft]."""
    return torch.hann_window(fft, device=device)


def spectrum(waveform: Tensor, fft: int, hop: int) -> Tensor:
    """Waveform [B, S] -> complex [B, fft // 2 + 1, T]."""
    window = hann_window(fft, waveform.device)
    return torch.stft(waveform, fft, hop, window=window, return_complex=True, pad_mode="constant")


def spectral_loss(generated: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of log-mel spectra at several resolutions, plus of linear log spectra at two of them.

    Both waveforms float32 [B, S] at 16 kHz.
    """
    total = generated.new_zeros(())
    for fft, bands in RESOLUTIONS:
        magnitudes = [(spectrum(w, fft, fft // 4).abs() + 1e-6).transpose(1, 2) for w in (generated, real)]
        mels = [
            (magnitude @ mel_filters(fft, bands, generated.device)).clamp_min(1e-5).log() for magnitude in magnitudes
        ]
        total = total + (mels[0] - mels[1]).abs().mean()
        if fft >= 1024:  # long windows resolve the harmonics, which carry the pitch
            floors = [magnitude.clamp_min(1e-3).log() for magnitude in magnitudes]
            total = total + 0.5 * (floors[0] - floors[1]).abs().mean()
    return total / len(RESOLUTIONS)


class SpectrogramDiscriminator(nn.Module):
    """Judges one complex spectrogram with a few strided 2-D convolutions."""

    def __init__(self, fft: int, channels: int) -> None:
        super().__init__()
        self.fft = fft
        widths = (2, channels, channels, 2 * channels, 2 * channels)
        weight_norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inner, outer, kernel, stride, padding))
            for (inner, outer), (kernel, stride, padding) in zip(pairwise(widths), DISCRIMINATOR_LAYERS, strict=True)
        )
        self.last = weight_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, waveform: Tensor) -> Opinion:
        """Waveform [B, S] -> (verdicts [B, 1, f, t], hidden maps)."""
        complex_spectrum = spectrum(waveform, self.fft, self.fft // 4)
        # Compress loudness but keep the phase: cube root of the magnitude.
        scale = (complex_spectrum.abs() + 1e-5) ** (-2 / 3)
        x = torch.view_as_real(complex_spectrum).permute(0, 3, 1, 2) * scale[:, None]
        maps = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.1)
            maps.append(x)
        return self.last(x), maps


class Judges(nn.Module):
    """Several discriminators."""

    members: nn.ModuleList

    def renew(self) -> None:
        """Called once before each step that they are taught in, whatever the number of parts of its batch."""

    def forward(self, waveform: Tensor) -> list[Opinion]:
        """Waveform [B, S] -> what each discriminator says."""
        return [member(waveform) for member in self.members]


class Discriminators(Judges):
    """One spectrogram discriminator a resolution (the multi-resolution discriminator of UnivNet and Vocos)."""

    def __init__(self, windows: tuple[int, ...] = (1024, 512, 256), channels: int = 24) -> None:
        super().__init__()
        self.members = nn.ModuleList(SpectrogramDiscriminator(window, channels) for window in windows)


class Verdicts(nn.Module):
    """Discriminators and their loss as one module, as processes share the gradients of a module's forward pass."""

    def __init__(self, judges: Judges, combine: Combine) -> None:
        super().__init__()
        self.judges, self.combine = judges, combine

    def forward(self, real: Tensor, generated: Tensor) -> Tensor:
        """`discriminator_loss` of two waveforms [B, S]."""
        return discriminator_loss(self.judges(real), self.judges(generated), self.combine)


def discriminator_loss(real: list[Opinion], fake: list[Opinion], combine: Combine) -> Tensor:
    """Least-squares loss that pulls verdicts on real speech to 1 and on generated speech to 0."""
    terms = [((r - 1) ** 2).mean() + (f**2).mean() for (r, _), (f, _) in zip(real, fake, strict=True)]
    return combine(torch.stack(terms))


def generator_loss(real: list[Opinion], fake: list[Opinion], combine: Combine) -> tuple[Tensor, Tensor]:
    """(least-squares loss that pulls verdicts on generated speech to 1, feature matching)."""
    adversarial = combine(torch.stack([((f - 1) ** 2).mean() for f, _ in fake]))
    distances = [
        (a - b.detach()).abs().mean()
        for (_, fake_maps), (_, real_maps) in zip(fake, real, strict=True)
        for a, b in zip(fake_maps, real_maps, strict=True)
    ]
    return adversarial, combine(torch.stack(distances))
