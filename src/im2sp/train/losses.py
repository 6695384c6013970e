"""Losses of vocoders: distances of spectra, least-squares adversarial losses and feature matching.

Waveforms are float32 [B, samples] at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from im2sp.speech.audio import SAMPLE_RATE

RESOLUTIONS = ((2048, 100), (1024, 80), (512, 64), (256, 32))  # (window [samples], mel bands); hops are a quarter
HARMONIC_WINDOW = 1024  # samples; windows from here on resolve the harmonics, which carry the pitch

MEL_WINDOW, MEL_HOP, MEL_BANDS = 1024, 256, 80  # of HiFi-GAN (arXiv 2010.05646)

DiscriminatorOutput = tuple[Tensor, list[Tensor]]  # of one discriminator: scores [B, ...], feature maps


@lru_cache(maxsize=16)
def mel_filters(window: int, bands: int, device: torch.device) -> Tensor:
    """Slaney's mel filters from 0 to 8 kHz, float32 [window // 2 + 1, bands]."""
    filters = mel_filter_bank(
        window // 2 + 1, bands, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters).float().to(device)


@lru_cache(maxsize=16)
def hann_window(length: int, device: torch.device) -> Tensor:
    """Periodic Hann window, float32 [length]."""
    return torch.hann_window(length, device=device)


def stft(waveform: Tensor, window: int, hop: int) -> Tensor:
    """Complex spectrogram [B, window // 2 + 1, T]."""
    return torch.stft(
        waveform, window, hop, window=hann_window(window, waveform.device), return_complex=True, pad_mode="constant"
    )


def spectral_loss(generated: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of log-mel spectrograms at several resolutions.

    At long windows, half of that of linear log spectrograms is added.
    """
    total = generated.new_zeros(())
    for window, bands in RESOLUTIONS:
        magnitudes = [(stft(w, window, window // 4).abs() + 1e-6).transpose(1, 2) for w in (generated, real)]
        filters = mel_filters(window, bands, generated.device)
        generated_mel, real_mel = ((magnitude @ filters).clamp_min(1e-5).log() for magnitude in magnitudes)
        total = total + F.l1_loss(generated_mel, real_mel)
        if window >= HARMONIC_WINDOW:
            generated_log, real_log = (magnitude.clamp_min(1e-3).log() for magnitude in magnitudes)
            total = total + 0.5 * F.l1_loss(generated_log, real_log)
    return total / len(RESOLUTIONS)


def log_mel(waveform: Tensor) -> Tensor:
    """HiFi-GAN's log-mel spectrogram: float32 [B, samples // MEL_HOP, MEL_BANDS]."""
    edge = (MEL_WINDOW - MEL_HOP) // 2
    padded = F.pad(waveform, (edge, edge), mode="reflect")
    window = hann_window(MEL_WINDOW, waveform.device)
    spectrum = torch.stft(padded, MEL_WINDOW, MEL_HOP, window=window, center=False, return_complex=True)
    magnitude = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()
    return (magnitude.transpose(1, 2) @ mel_filters(MEL_WINDOW, MEL_BANDS, waveform.device)).clamp_min(1e-5).log()


def mel_loss(generated: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of HiFi-GAN's log-mel spectrograms."""
    return F.l1_loss(log_mel(generated), log_mel(real))


def discriminator_loss(real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Least-squares loss that pulls scores of real speech to 1 and of generated speech to 0."""
    losses = [((r - 1) ** 2).mean() + (g**2).mean() for (r, _), (g, _) in zip(real, generated, strict=True)]
    return torch.stack(losses).sum()


def generator_losses(
    real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]
) -> tuple[Tensor, Tensor]:
    """(least-squares loss that pulls scores of generated speech to 1, feature-matching loss)."""
    adversarial = torch.stack([((scores - 1) ** 2).mean() for scores, _ in generated]).sum()
    distances = [
        F.l1_loss(ours, theirs.detach())
        for (_, generated_maps), (_, real_maps) in zip(generated, real, strict=True)
        for ours, theirs in zip(generated_maps, real_maps, strict=True)
    ]
    return adversarial, torch.stack(distances).sum()
