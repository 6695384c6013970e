"""Discriminators of HiFi-GAN, used in training only: waveform -> scores and feature maps of each discriminator."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from im2sp.train.losses import DiscriminatorOutput

# HiFi-GAN (arXiv 2010.05646, appendix A): (divisor of the widest channels, kernel, stride, groups) of each layer.
PERIODS = (2, 3, 5, 7, 11)
SCALES = 3  # the waveform, and its means over 2 and over 4 samples
CHANNELS = 1024  # of the widest layers
PERIOD_LAYERS = ((32, 5, 3, 1), (8, 5, 3, 1), (2, 5, 3, 1), (1, 5, 3, 1), (1, 5, 1, 1))
SCALE_LAYERS = (
    (8, 15, 1, 1), (8, 41, 2, 4), (4, 41, 2, 16), (2, 41, 4, 16), (1, 41, 4, 16), (1, 41, 1, 16), (1, 5, 1, 1),
)  # fmt: skip


class WaveformDiscriminator(nn.Module):
    """Strided convolutions over a waveform that is folded by a period.

    Args:
        layers: PERIOD_LAYERS or SCALE_LAYERS.
        channels: of the widest layers.
        norm: weight norm or spectral norm.
    """

    def __init__(self, layers: tuple[tuple[int, int, int, int], ...], channels: int, norm=weight_norm) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        widths = (1, *(channels // divisor for divisor, *_ in layers))
        self.layers = nn.ModuleList(
            norm(nn.Conv2d(inner, outer, (1, kernel), (1, stride), (0, kernel // 2), groups=groups))
            for (inner, outer), (_, kernel, stride, groups) in zip(pairwise(widths), layers, strict=True)
        )
        self.last = norm(nn.Conv2d(widths[-1], 1, (1, 3), padding=(0, 1)))

    def forward(self, folded: Tensor) -> DiscriminatorOutput:
        """Folded waveform [B, 1, period, T] -> (scores [B, 1, period, t], feature maps, of which they are the last)."""
        x, maps = folded, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            maps.append(x)
        scores = self.last(x)
        return scores, [*maps, scores]


class Discriminators(nn.Module):
    """HiFi-GAN's: one for each period, then one for each scale, of which the first has spectral norm."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        periods = [WaveformDiscriminator(PERIOD_LAYERS, channels) for _ in PERIODS]
        scales = [
            WaveformDiscriminator(SCALE_LAYERS, channels, weight_norm if scale else spectral_norm)
            for scale in range(SCALES)
        ]
        self.members = nn.ModuleList([*periods, *scales])
        self.eval()

    def train(self, mode: bool = True) -> Discriminators:
        """Stay in evaluation mode, in which spectral norms do not change.

        Otherwise they, and with them a step, would depend on how often the discriminators are called in it.
        """
        return super().train(False)

    @torch.no_grad()
    def update_norms(self) -> None:
        """Make one power iteration of the spectral norms, as training mode does when a weight is read."""
        for module in self.members[len(PERIODS)].modules():
            if isinstance(module, nn.Conv2d):
                nn.Module.train(module, True)
                _ = module.weight
                nn.Module.train(module, False)

    def forward(self, waveform: Tensor) -> list[DiscriminatorOutput]:
        """Waveform [B, samples] -> scores and feature maps of each member."""
        inputs = [fold(waveform, period) for period in PERIODS]
        for _ in range(SCALES):
            inputs.append(fold(waveform, 1))
            waveform = F.avg_pool1d(waveform[:, None], 4, 2, 2)[:, 0]
        return [member(folded) for member, folded in zip(self.members, inputs, strict=True)]


def fold(waveform: Tensor, period: int) -> Tensor:
    """Waveform [B, S] -> [B, 1, period, T], each row every period-th sample; the end is mirrored to fill all rows."""
    missing = -waveform.shape[1] % period
    rows = F.pad(waveform, (0, missing), mode="reflect").view(len(waveform), 1, -1, period)
    return rows.transpose(2, 3).contiguous()
