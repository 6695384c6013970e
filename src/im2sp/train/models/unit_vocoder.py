"""Unit vocoder: speech units repeated by their durations -> waveform.

As in Vocos (Siuzdak, 2023), a backbone of ConvNeXt blocks is followed by one inverse short-time Fourier transform
instead of stacks of upsampling convolutions, at a tenth of a HiFi-GAN's arithmetic. Its input is unit embeddings in
place of a spectrogram. It is convolutional and normalised by frame, so that chunks of a sentence equal the whole.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from im2sp.arrays import FloatArray, IntArray
from im2sp.files import atomic_write, write_json
from im2sp.speech.audio import HOP
from im2sp.speech.durations import ErrorDiffusion
from im2sp.train.models.saving import CONFIG, load_config, load_weights

DURATION_TOLERANCE = 1.5  # frames, chosen on regular and on arbitrary sentences (docs/results.md)
FIRST_DURATION_KERNEL = 3  # of the duration predictor's first convolution


@dataclass(frozen=True)
class VocoderConfig:
    """Sizes of the vocoder and its duration predictor."""

    units: int = 200
    width: int = 288
    feed_forward: int = 864
    slow_blocks: int = 6  # at 50 Hz, one step a unit frame
    fast_blocks: int = 4  # at 100 Hz, after doubling
    kernel: int = 7
    fft: int = 640  # samples of one inverse transform
    duration_width: int = 192
    duration_blocks: int = 4
    duration_kernel: int = 7

    @property
    def hop(self) -> int:
        """Samples between two inverse transforms."""
        return HOP // 2

    @property
    def context_frames(self) -> int:
        """Unit frames on each side that a sample depends on; chunks must overlap by them."""
        half = self.kernel // 2
        fast = math.ceil((half * self.fast_blocks + math.ceil(self.fft / 2 / self.hop)) / 2)
        return half + half * self.slow_blocks + fast + 1

    @property
    def duration_context(self) -> int:
        """Units on each side that a duration depends on."""
        return FIRST_DURATION_KERNEL // 2 + self.duration_blocks * (self.duration_kernel // 2)


class ConvNextBlock(nn.Module):
    """ConvNeXt: depthwise convolution, layer norm over channels, two pointwise layers, scaled residual."""

    def __init__(self, width: int, feed_forward: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, 1e-6)
        self.expand = nn.Linear(width, feed_forward)
        self.contract = nn.Linear(feed_forward, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T] -> [B, C, T]."""
        hidden = self.norm(self.depthwise(x).transpose(1, 2))
        hidden = self.contract(nn.functional.gelu(self.expand(hidden)))
        return x + (self.scale * hidden).transpose(1, 2)


class InverseTransform(nn.Module):
    """Magnitude and phase of overlapping frames -> waveform: one transposed convolution with a Fourier basis."""

    basis: Tensor

    def __init__(self, fft: int, hop: int) -> None:
        super().__init__()
        self.fft, self.hop = fft, hop
        bins = fft // 2 + 1
        angle = 2 * math.pi * torch.arange(bins, dtype=torch.float64)[:, None] * torch.arange(fft)[None] / fft
        weight = torch.full((bins, 1), 2.0, dtype=torch.float64)
        weight[0] = weight[-1] = 1.0
        # Hann windows a quarter of their length apart sum to 2; division by it keeps the amplitude
        window = torch.hann_window(fft, periodic=True, dtype=torch.float64) / (fft / hop / 2)
        basis = torch.cat([weight * angle.cos(), -weight * angle.sin()]) / fft * window
        self.register_buffer("basis", basis.float()[:, None], persistent=False)

    def forward(self, log_magnitude: Tensor, phase: Tensor) -> Tensor:
        """Both float32 [B, fft // 2 + 1, T] -> waveform [B, T * hop]."""
        magnitude = log_magnitude.clamp(max=6.0).exp()
        spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1)
        waveform = nn.functional.conv_transpose1d(spectrum, self.basis, stride=self.hop)[:, 0]
        edge = (self.fft - self.hop) // 2
        return waveform[:, edge : waveform.shape[1] - edge]


class UnitVocoder(nn.Module):
    """Graph `vocoder`: unit frames -> waveform."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        width, half = config.width, config.kernel // 2
        self.embedding = nn.Embedding(config.units, width)
        self.first = nn.Conv1d(width, width, config.kernel, padding=half)
        self.slow = nn.Sequential(
            *(ConvNextBlock(width, config.feed_forward, config.kernel) for _ in range(config.slow_blocks))
        )
        self.upsample = nn.Conv1d(width, 2 * width, 1)
        self.fast = nn.Sequential(
            *(ConvNextBlock(width, config.feed_forward, config.kernel) for _ in range(config.fast_blocks))
        )
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, config.fft + 2)
        self.inverse = InverseTransform(config.fft, config.hop)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, frames: Tensor) -> Tensor:
        """Unit of every frame int64 [B, F] -> waveform float32 [B, F * 320]."""
        x = self.slow(self.first(self.embedding(frames).transpose(1, 2)))
        batch, width, count = x.shape
        x = self.upsample(x).view(batch, width, 2, count).permute(0, 1, 3, 2).reshape(batch, width, 2 * count)
        x = self.head(self.norm(self.fast(x).transpose(1, 2))).transpose(1, 2).float()
        log_magnitude, phase = x.chunk(2, 1)
        waveform: Tensor = self.inverse(log_magnitude, phase)
        return waveform


class DurationPredictor(nn.Module):
    """Graph `duration_predictor`: units without repeats int64 [B, U] -> log(frames + 1) float32 [B, U]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width = config.duration_width
        self.embedding = nn.Embedding(config.units, width)
        self.first = nn.Conv1d(width, width, FIRST_DURATION_KERNEL, padding=FIRST_DURATION_KERNEL // 2)
        self.blocks = nn.Sequential(
            *(ConvNextBlock(width, 2 * width, config.duration_kernel) for _ in range(config.duration_blocks))
        )
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, 1)

    def forward(self, units: Tensor) -> Tensor:
        """Units int64 [B, U] -> log(frames + 1) float32 [B, U]."""
        x = self.blocks(self.first(self.embedding(units).transpose(1, 2)))
        return self.head(self.norm(x.transpose(1, 2)))[..., 0].float()


def save_vocoder(vocoder: UnitVocoder, durations: DurationPredictor, folder: Path) -> None:
    """Write `config.json`, `vocoder.safetensors` and `duration_predictor.safetensors`."""
    for name, module in (("vocoder", vocoder), ("duration_predictor", durations)):
        with atomic_write(folder / f"{name}.safetensors") as temporary:
            save_file({k: v.contiguous() for k, v in module.state_dict().items()}, temporary)
    write_json(folder / CONFIG, asdict(vocoder.config))


def load_vocoder(folder: Path) -> tuple[UnitVocoder, DurationPredictor]:
    """Read what `save_vocoder` wrote, in evaluation mode."""
    config = load_config(folder, VocoderConfig)
    vocoder = load_weights(UnitVocoder(config), folder / "vocoder.safetensors")
    return vocoder, load_weights(DurationPredictor(config), folder / "duration_predictor.safetensors")


def synthesize(vocoder: UnitVocoder, durations: DurationPredictor, units: IntArray) -> FloatArray:
    """Units int64 [U], without repeats -> waveform float32 [samples], 16 kHz, with predicted durations."""
    with torch.inference_mode():
        row = torch.from_numpy(np.asarray(units, np.int64))[None]
        frames = ErrorDiffusion(DURATION_TOLERANCE).round((durations(row)[0].exp() - 1).numpy())
        waveform: FloatArray = vocoder(row.repeat_interleave(torch.from_numpy(frames), 1))[0].clamp(-1, 1).numpy()
    return waveform
