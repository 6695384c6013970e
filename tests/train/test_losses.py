"""Losses of vocoders and their discriminators, each computed a second time with numpy or plain convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.train.losses import discriminator_loss, generator_losses, log_mel, mel_loss
from im2sp.train.models.discriminators import Discriminators


def _waveforms(seed: int, samples: int = 2560) -> Tensor:
    return 0.3 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def _slaney_filters() -> np.ndarray:
    """80 triangles from 0 to 8 kHz, evenly spaced on Slaney's scale and of equal area: float64 [513, 80]."""

    def hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, 200 / 3 * mel, 1000 * 6.4 ** ((mel - 15) / 27))

    top = 15 + 27 * np.log(8) / np.log(6.4)  # of 8 kHz
    corners, bins = hertz(np.linspace(0, top, 82)), np.arange(513) * 16_000 / 1024
    filters = np.zeros((513, 80))
    for band, (low, middle, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
        filters[:, band] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return filters


def test_mel_loss_is_the_formula() -> None:
    """Magnitudes of Hann windows of 1,024 samples, every 256, of the waveform mirrored at its ends."""
    real, generated = _waveforms(0), _waveforms(1)
    expected = []
    for waveform in (real, generated):
        padded = np.pad(waveform.numpy().astype(np.float64), ((0, 0), (384, 384)), mode="reflect")
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
        pieces = np.stack([padded[:, at : at + 1024] * window for at in range(0, padded.shape[1] - 1023, 256)], 1)
        magnitudes = np.sqrt(np.abs(np.fft.rfft(pieces)) ** 2 + 1e-9)
        expected.append(np.log(np.maximum(magnitudes @ _slaney_filters(), 1e-5)))
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


def test_discriminators_are_convolutions_of_every_nth_sample_and_of_coarser_waveforms() -> None:
    torch.manual_seed(0)
    discriminators, wave = Discriminators(128), _waveforms(0, 2501)
    with torch.inference_mode():
        found = discriminators(wave)
        members = discriminators.members
        period = _plain_maps(members[3], F.pad(wave, (0, 5), mode="reflect"), 7, [3, 3, 3, 3, 1])
        coarse = F.pad(F.pad(wave, (2, 2)).unfold(1, 4, 2).mean(-1), (2, 2)).unfold(1, 4, 2).mean(-1)
        scales = [_plain_maps(members[at], x, 1, [1, 2, 2, 4, 4, 1, 1]) for at, x in ((5, wave), (7, coarse))]
    for at, expected in ((3, period), (5, scales[0]), (7, scales[1])):
        scores, maps = found[at]
        assert maps[-1] is scores
        for ours, theirs in zip(maps, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def _plain_maps(discriminator: nn.Module, wave: Tensor, period: int, strides: list[int]) -> list[Tensor]:
    """Feature maps of every period-th sample by themselves, by one-dimensional convolutions."""
    parts = []
    for start in range(period):
        x, maps = wave[:, None, start::period], []
        for layer, stride in zip([*discriminator.layers, discriminator.last], [*strides, 1], strict=True):
            weight = layer.weight[:, :, 0]
            x = F.conv1d(x, weight, layer.bias, stride, weight.shape[2] // 2, groups=x.shape[1] // weight.shape[1])
            x = F.leaky_relu(x, 0.1) if layer is not discriminator.last else x
            maps.append(x)
        parts.append(maps)
    return [torch.stack(each, 2) for each in zip(*parts, strict=True)]


def test_spectral_norms_change_when_told_only() -> None:
    discriminators = Discriminators(128).train()
    before = {name: value.clone() for name, value in discriminators.named_buffers() if "layers" in name}
    assert before
    for step, changes in ((discriminators, False), (lambda waveform: discriminators.update_norms(), True)):
        step(_waveforms(0))
        for name, value in discriminators.named_buffers():
            assert name not in before or torch.equal(value, before[name]) != changes
