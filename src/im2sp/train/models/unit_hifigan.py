"""Unit HiFi-GAN: speech units repeated by their durations -> waveform; units -> durations (Polyak et al., 2021).

Parameter names (`dict`, `ups`, `spkr`) are those of published checkpoints; weight norm is folded into the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.train.models.saving import SavedModule

EDGE = 7  # kernel of the first and the last convolution
SLOPE = 0.1  # of the leaky ReLUs; the last one has torch's default


@dataclass(frozen=True)
class UnitHifiganConfig:
    """Sizes of the vocoder and its duration predictor. The defaults are those of the published 200-unit model."""

    units: int = 200
    speakers: int = 0  # rows of the speaker embedding; 0 for a model of one voice
    width: int = 128  # of the embeddings of units and of speakers
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    upsample_kernels: tuple[int, ...] = (11, 8, 8, 4, 4)
    channels: int = 512  # before the first upsampling; each one halves them
    block_kernels: tuple[int, ...] = (3, 7, 11)
    block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    duration_width: int = 128
    duration_kernel: int = 3
    duration_dropout: float = 0.5  # behind each norm of the duration predictor, in training

    @property
    def hop(self) -> int:
        """Samples of one frame."""
        return math.prod(self.upsample_rates)

    @property
    def context_frames(self) -> int:
        """Unit frames on each side that a sample depends on; chunks must overlap by them."""
        block = max(
            (kernel // 2) * sum(dilation + 1 for dilation in dilations)
            for kernel, dilations in zip(self.block_kernels, self.block_dilations, strict=True)
        )
        reach = EDGE // 2
        for rate, kernel in zip(reversed(self.upsample_rates), reversed(self.upsample_kernels), strict=True):
            reach += block
            padding = (kernel - rate) // 2
            # sample t of a transposed convolution depends on samples (t + padding - j) / rate, 0 <= j < kernel
            reach = max((rate - 1 + reach + padding) // rate, (reach + kernel - 1 - padding) // rate)
        return reach + EDGE // 2

    @property
    def duration_context(self) -> int:
        """Units on each side that can change a duration: two convolutions."""
        return 2 * (self.duration_kernel // 2)


class ResidualBlock(nn.Module):
    """HiFi-GAN's block "1": pairs of a dilated and a plain convolution, each with a residual connection."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T] -> [B, C, T]."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class HifiganDurations(nn.Module):
    """Embeddings of units without repeats [B, U, width] -> log(frames + 1) [B, U]."""

    def __init__(self, config: UnitHifiganConfig) -> None:
        super().__init__()
        width, kernel = config.duration_width, config.duration_kernel
        self.dropout = config.duration_dropout
        self.conv1 = nn.Sequential(nn.Conv1d(config.width, width, kernel, padding=(kernel - 1) // 2), nn.ReLU())
        self.ln1 = nn.LayerNorm(width)
        self.conv2 = nn.Sequential(nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2), nn.ReLU())
        self.ln2 = nn.LayerNorm(width)
        self.proj = nn.Linear(width, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Frames of 20 ms. `mask`: bool [B, U], false in the padding of shorter rows."""
        for convolution, norm in ((self.conv1, self.ln1), (self.conv2, self.ln2)):
            x = x if mask is None else x * mask[..., None]
            x = F.dropout(norm(convolution(x.transpose(1, 2)).transpose(1, 2)), self.dropout, self.training)
        return self.proj(x)[..., 0]


class UnitHifigan(SavedModule):
    """Vocoder and duration predictor, which share the embeddings of the units."""

    config_type = UnitHifiganConfig
    config: UnitHifiganConfig

    def __init__(self, config: UnitHifiganConfig) -> None:
        super().__init__()
        self.config = config
        self.dict = nn.Embedding(config.units, config.width)
        if config.speakers:
            self.spkr = nn.Embedding(config.speakers, config.width)
        inputs = 2 * config.width if config.speakers else config.width
        self.conv_pre = nn.Conv1d(inputs, config.channels, EDGE, padding=EDGE // 2)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        channels = config.channels
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2))
            channels //= 2
            for block_kernel, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(ResidualBlock(channels, block_kernel, dilations))
        self.conv_post = nn.Conv1d(channels, 1, EDGE, padding=EDGE // 2)
        self.dur_predictor = HifiganDurations(config)

    def forward(self, frames: Tensor, speaker: int | Tensor = 0) -> Tensor:
        """Unit of every frame int64 [B, F] -> waveform float32 [B, F * hop].

        Args:
            speaker: of all rows or, int64 [B], of each.
        """
        x = self.dict(frames).transpose(1, 2)
        if self.config.speakers:
            embedding = self.spkr.weight[speaker].view(-1, self.config.width, 1).expand(x.shape[0], -1, x.shape[2])
            x = torch.cat([x, embedding], 1)
        x = self.conv_pre(x)
        blocks = len(self.config.block_kernels)
        for stage, upsample in enumerate(self.ups):
            x = upsample(F.leaky_relu(x, SLOPE))
            outputs = [block(x) for block in self.resblocks[stage * blocks : (stage + 1) * blocks]]
            x = torch.stack(outputs).mean(0)
        return torch.tanh(self.conv_post(F.leaky_relu(x)))[:, 0]

    def log_durations(self, units: Tensor, mask: Tensor | None = None) -> Tensor:
        """Units without repeats int64 [B, U] -> log(frames + 1) float32 [B, U]. `mask`: as in HifiganDurations."""
        durations: Tensor = self.dur_predictor(self.dict(units), mask)
        return durations
