"""ViT-VQGAN, the image tokenizer: pixels -> image units -> pixels (Yu et al., 2022).

The arithmetic is that of the published ViT-VQ "small", which was trained on images resized by bicubic interpolation.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.errors import Im2SpError
from im2sp.train.models.saving import SavedModule
from im2sp.train.models.transformer import Block

POSITION_BASE = 10_000


@dataclass(frozen=True)
class VitVqganConfig:
    """Sizes; the defaults are those of ViT-VQ "small"."""

    image_size: int = 256  # pixels a side
    patch: int = 8  # pixels a side
    width: int = 512
    layers: int = 8
    heads: int = 8
    head_width: int = 64
    feed_forward: int = 2048
    code_width: int = 32  # of a row of the codebook
    codebook_size: int = 8192
    decoder_layers: int = 8  # 0: no decoder

    @property
    def grid(self) -> int:
        """Patches a side; each is one unit."""
        return self.image_size // self.patch

    @property
    def units(self) -> int:
        """Units of a photo."""
        return self.grid**2

    @property
    def bits(self) -> int:
        """Bits of the units of a photo."""
        return self.units * math.ceil(math.log2(self.codebook_size))


def sine_cosine_positions(width: int, grid: int) -> Tensor:
    """Fixed position embedding of a square grid, row by row: float32 [1, grid * grid, width].

    The first half of the channels encodes the column, the second the row. Each half holds the sines, then the cosines
    of the position times POSITION_BASE ** -(4 k / width).
    """
    rates = POSITION_BASE ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], 1)  # [grid, width / 2]
    columns, rows = line.repeat(grid, 1), line.repeat_interleave(grid, 0)
    return torch.cat([columns, rows], 1).float()[None]


def _transformer(config: VitVqganConfig, layers: int) -> nn.Sequential:
    """Pre-norm layers with a hyperbolic tangent, and a last norm: [B, N, width] -> [B, N, width]."""
    blocks = (
        Block(config.width, config.heads, config.head_width, config.feed_forward, nn.Tanh(), qkv_bias=False)
        for _ in range(layers)
    )
    return nn.Sequential(OrderedDict(layers=nn.Sequential(*blocks), norm=nn.LayerNorm(config.width)))


class Encoder(nn.Module):
    """Pixels float32 [B, 3, H, W] in [0, 1] -> features [B, units, width], row by row."""

    en_pos_embedding: Tensor

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Sequential(nn.Conv2d(3, config.width, config.patch, config.patch))
        self.register_buffer("en_pos_embedding", sine_cosine_positions(config.width, config.grid))
        self.transformer = _transformer(config, config.layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of every patch."""
        patches = self.to_patch_embedding(pixels).flatten(2).transpose(1, 2)
        features: Tensor = self.transformer(patches + self.en_pos_embedding)
        return features


class Decoder(nn.Module):
    """Features [B, units, width] -> pixels float32 [B, 3, H, W], about [0, 1] but not cut to it."""

    de_pos_embedding: Tensor

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.register_buffer("de_pos_embedding", sine_cosine_positions(config.width, config.grid))
        self.transformer = _transformer(config, config.decoder_layers)
        last = nn.ConvTranspose2d(config.width, 3, config.patch, config.patch)
        nn.init.normal_(last.weight, std=0.02)
        nn.init.constant_(cast(Tensor, last.bias), 0.5)  # training starts from grey
        # index 0 is without parameters, as in the published model
        self.to_pixel = nn.Sequential(nn.Unflatten(2, (config.grid, config.grid)), last)

    def forward(self, features: Tensor) -> Tensor:
        """Pixels of every patch."""
        pixels: Tensor = self.to_pixel(self.transformer(features + self.de_pos_embedding).transpose(1, 2))
        return pixels


class VitVqgan(SavedModule):
    """Pixels <-> image units."""

    config_type = VitVqganConfig
    config: VitVqganConfig

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        if config.image_size % config.patch or config.width % 4:
            raise Im2SpError(
                f"a ViT-VQGAN of {config.image_size} pixels, patches of {config.patch} and width {config.width} cannot "
                "be built: the image size must be a multiple of the patch, and the width of 4"
            )
        self.config = config
        self.encoder = Encoder(config)
        self.pre_quant = nn.Linear(config.width, config.code_width)
        self.codebook = nn.Embedding(config.codebook_size, config.code_width)
        if config.decoder_layers:
            self.post_quant = nn.Linear(config.code_width, config.width)
            self.decoder = Decoder(config)

    def before_codes(self, pixels: Tensor) -> Tensor:
        """Encode without quantising: pixels float32 [B, 3, H, W] in [0, 1] -> float [B, units, code_width]."""
        found: Tensor = self.pre_quant(self.encoder(pixels))
        return found

    def nearest(self, vectors: Tensor) -> Tensor:
        """Vectors [B, N, code_width] -> units int64 [B, N]: the rows of the codebook with the largest cosine."""
        directions = F.normalize(vectors.float(), dim=-1)
        return (directions @ F.normalize(self.codebook.weight, dim=-1).T).argmax(-1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels float32 [B, 3, H, W] in [0, 1], no mean or std -> units int64 [B, grid * grid], row by row."""
        return self.nearest(self.before_codes(pixels))

    def pixels_of(self, directions: Tensor) -> Tensor:
        """Decode vectors of length 1 [B, units, code_width] -> pixels float [B, 3, H, W], not clipped to [0, 1].

        Only a tokenizer with `decoder_layers` can.
        """
        pixels: Tensor = self.decoder(self.post_quant(directions))
        return pixels

    def decode(self, units: Tensor) -> Tensor:
        """Units int64 [B, grid * grid] -> pixels float32 [B, 3, H, W] in [0, 1]."""
        return self.pixels_of(F.normalize(self.codebook(units), dim=-1)).clamp(0, 1)
