"""What the published unit HiFi-GAN is taught by: distances of mel spectra, and discriminators of waveforms.

Their sizes are those of HiFi-GAN (arXiv 2010.05646, appendix A), at 16 kHz (reference formats, section 6).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from im2sp.train.training.vocoder_losses import Judges, Opinion, hann_window, mel_filters

FFT, MEL_HOP, BANDS = 1024, 256, 80  # samples, samples, mel bands from 0 to 8 kHz
PERIODS = (2, 3, 5, 7, 11)
SCALES = 3  # the waveform, and its means of 2 and of 4 samples
CHANNELS = 1024  # of the widest layers; the others have shares of it

# (share of CHANNELS, kernel, stride, groups) of each layer.
PERIOD_LAYERS = ((32, 5, 3, 1), (8, 5, 3, 1), (2, 5, 3, 1), (1, 5, 3, 1), (1, 5, 1, 1))
SCALE_LAYERS = (
    (8, 15, 1, 1), (8, 41, 2, 4), (4, 41, 2, 16), (2, 41, 4, 16), (1, 41, 4, 16), (1, 41, 1, 16), (1, 5, 1, 1),
)  # fmt: skip


def log_mel(waveform: Tensor) -> Tensor:
    """Waveform float32 [B, S] at 16 kHz -> natural log of mel magnitudes [B, S // MEL_HOP, BANDS]."""
    edge = (FFT - MEL_HOP) // 2
    padded = F.pad(waveform, (edge, edge), mode="reflect")
    window = hann_window(FFT, waveform.device)
    spectrum = torch.stft(padded, FFT, MEL_HOP, window=window, center=False, return_complex=True)
    magnitude = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()
    return (magnitude.transpose(1, 2) @ mel_filters(FFT, BANDS, waveform.device)).clamp_min(1e-5).log()


def mel_loss(generated: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of log-mel spectra of two waveforms float32 [B, S]."""
    return F.l1_loss(log_mel(generated), log_mel(real))


class WaveformDiscriminator(nn.Module):
    """Judges each of the interleaved parts of a waveform by the same strided convolutions.

    Args:
        layers: PERIOD_LAYERS or SCALE_LAYERS.
        channels: of the widest layers.
        spectral: spectral norm of the weights in place of weight norm.
    """

    def __init__(self, layers: tuple[tuple[int, int, int, int], ...], channels: int, spectral: bool = False) -> None:
        super().__init__()
        norm = parametrizations.spectral_norm if spectral else parametrizations.weight_norm
        widths = (1, *(channels // share for share, *_ in layers))
        self.layers = nn.ModuleList(
            norm(nn.Conv2d(inner, outer, (1, kernel), (1, stride), (0, kernel // 2), groups=groups))
            for (inner, outer), (_, kernel, stride, groups) in zip(pairwise(widths), layers, strict=True)
        )
        self.last = norm(nn.Conv2d(widths[-1], 1, (1, 3), padding=(0, 1)))

    def forward(self, parts: Tensor) -> Opinion:
        """Parts [B, 1, period, T] -> (verdicts [B, 1, period, t], hidden maps, of which the verdicts are the last)."""
        x, maps = parts, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            maps.append(x)
        verdicts = self.last(x)
        return verdicts, [*maps, verdicts]


class WaveformJudges(Judges):
    """The multi-period discriminators, then the multi-scale ones, of which the first has spectral norm."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        by_period = [WaveformDiscriminator(PERIOD_LAYERS, channels) for _ in PERIODS]
        by_scale = [WaveformDiscriminator(SCALE_LAYERS, channels, spectral=scale == 0) for scale in range(SCALES)]
        self.members = nn.ModuleList([*by_period, *by_scale])
        self.eval()

    @torch.no_grad()
    def renew(self) -> None:
        """One power iteration of the spectral norms, which training mode makes whenever a weight is asked for.

        Everything else is computed in evaluation mode: otherwise the norms, and with them the step, would depend on
        how often the discriminators are used in it.
        """
        self.train()
        for module in self.members[len(PERIODS)].modules():
            if isinstance(module, nn.Conv2d):
                _ = module.weight
        self.eval()

    def forward(self, waveform: Tensor) -> list[Opinion]:
        """Waveform [B, S] -> what each discriminator says."""
        seen = [interleaved(waveform, period) for period in PERIODS]
        for _ in range(SCALES):
            seen.append(interleaved(waveform, 1))
            waveform = F.avg_pool1d(waveform[:, None], 4, 2, 2)[:, 0]
        return [member(parts) for member, parts in zip(self.members, seen, strict=True)]


def interleaved(waveform: Tensor, period: int) -> Tensor:
    """Waveform [B, S] -> parts [B, 1, period, T], each of every period-th sample; the end is mirrored to fill all."""
    missing = -waveform.shape[1] % period
    rows = F.pad(waveform, (0, missing), mode="reflect").view(len(waveform), 1, -1, period)
    return rows.transpose(2, 3).contiguous()
