"""Losses of vocoders and their discriminators, each computed a second time with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from im2sp.train.losses import discriminator_loss, generator_losses, log_mel, mel_loss
from im2sp.train.models.discriminators import Discriminators


def _waveforms(seed: int, samples: int = 2560) -> Tensor:
    return 0.3 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def test_mel_loss_is_the_formula() -> None:
    """Magnitudes of Hann windows of 1,024 samples, every 256, of the waveform mirrored at its ends; mel bands."""
    filters = mel_filter_bank(513, 80, 0, 8000, 16_000, norm="slaney", mel_scale="slaney")
    real, generated = _waveforms(0), _waveforms(1)
    expected = []
    for waveform in (real, generated):
        padded = np.pad(waveform.numpy().astype(np.float64), ((0, 0), (384, 384)), mode="reflect")
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
        pieces = np.stack([padded[:, at : at + 1024] * window for at in range(0, padded.shape[1] - 1023, 256)], 1)
        magnitudes = np.sqrt(np.abs(np.fft.rfft(pieces)) ** 2 + 1e-9)
        expected.append(np.log(np.maximum(magnitudes @ filters, 1e-5)))
    assert log_mel(real).shape == (2, 10, 80)
    assert np.abs(log_mel(real).numpy() - expected[0]).max() < 1e-4
    assert mel_loss(generated, real).item() == pytest.approx(np.abs(expected[0] - expected[1]).mean(), abs=1e-5)


def test_adversarial_losses_are_sums_over_discriminators_and_maps() -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(128)
    with torch.inference_mode():
        real, generated = discriminators(_waveforms(0)), discriminators(_waveforms(1))
    teaching = learning = matching = 0.0
    for (real_scores, real_maps), (generated_scores, generated_maps) in zip(real, generated, strict=True):
        r, g = real_scores.double().numpy(), generated_scores.double().numpy()
        teaching += ((r - 1) ** 2).mean() + (g**2).mean()
        learning += ((g - 1) ** 2).mean()
        matching += sum(np.abs((a - b).numpy()).mean() for a, b in zip(real_maps, generated_maps, strict=True))
    assert discriminator_loss(real, generated).item() == pytest.approx(teaching, rel=1e-5)
    found = [loss.item() for loss in generator_losses(real, generated)]
    assert found == pytest.approx([learning, matching], rel=1e-5)


def test_discriminators_of_hifigan_have_the_published_sizes() -> None:
    discriminators = Discriminators()
    weights = [
        sum(each.numel() for name, each in member.named_parameters() if not name.endswith("original0"))
        for member in discriminators.members
    ]
    assert weights == [8_218_433] * 5 + [9_870_209] * 3  # counted from the layers of HiFi-GAN's own discriminators
    kinds = [type(member.last.parametrizations["weight"][0]).__name__ for member in discriminators.members]
    assert kinds == ["_WeightNorm"] * 5 + ["_SpectralNorm"] + ["_WeightNorm"] * 2


def test_spectral_norms_change_when_told_only() -> None:
    discriminators = Discriminators(128).train()
    before = {name: value.clone() for name, value in discriminators.named_buffers() if "layers" in name}
    assert before
    for step, changes in ((discriminators, False), (lambda waveform: discriminators.update_norms(), True)):
        step(_waveforms(0))
        for name, value in discriminators.named_buffers():
            assert name not in before or torch.equal(value, before[name]) != changes
