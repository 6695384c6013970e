"""Token ViT: codebook vectors of image units -> image features (SeiT, Park et al., 2023).

Parameter names and arithmetic are those of timm's vision transformer, except for the stem.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.errors import Im2SpError
from im2sp.train.models.saving import SavedModule
from im2sp.train.models.transformer import Block

STEM_KERNEL, STEM_STRIDE, STEM_PADDING = 4, 2, 1  # so that a side of 2 n units becomes n image tokens
NORM_EPS = 1e-6


@dataclass(frozen=True)
class TokenVitConfig:
    """Sizes of a token ViT; the defaults are those of SeiT's ViT-B."""

    code_width: int = 32  # of a row of the codebook
    crop: int = 28  # units a side
    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072

    @property
    def grid(self) -> int:
        """Image tokens a side."""
        return (self.crop + 2 * STEM_PADDING - STEM_KERNEL) // STEM_STRIDE + 1

    @property
    def image_tokens(self) -> int:
        """The class token and one token for each place of the grid."""
        return self.grid**2 + 1


class TokenVit(SavedModule):
    """Codebook vectors -> image features."""

    config_type = TokenVitConfig
    config: TokenVitConfig

    def __init__(self, config: TokenVitConfig) -> None:
        super().__init__()
        self.config = config
        stem = nn.Conv2d(config.code_width, config.width, STEM_KERNEL, STEM_STRIDE, STEM_PADDING)
        self.patch_embed = nn.ModuleDict({"proj": stem})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.image_tokens, config.width))
        head_width = config.width // config.heads
        self.blocks = nn.Sequential(
            *(
                Block(config.width, config.heads, head_width, config.feed_forward, nn.GELU(), NORM_EPS)
                for _ in range(config.layers)
            )
        )
        self.apply(_initialise)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors float32 [B, code_width, crop, crop], unnormalised -> features float32 [B, image_tokens, width].

        The class token comes first. There is no last norm, as in Im2Sp.
        """
        tokens = self.patch_embed["proj"](vectors).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1) + self.pos_embed
        features: Tensor = self.blocks(x)
        return features


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class CodebookGrid(nn.Module):
    """Image units of whole photos -> their codebook vectors in the grid of the photo.

    Args:
        codebook: float32 [codebook_size, code_width], unnormalised.
        grid: units a side of a photo.
        crop: units a side that the token ViT takes.
        saved: whether the codebook is part of what a model saves.

    Raises:
        Im2SpError: the token ViT takes more units than a photo has.
    """

    codebook: Tensor

    def __init__(self, codebook: Tensor, grid: int, crop: int, saved: bool = True) -> None:
        super().__init__()
        if crop > grid:
            raise Im2SpError(f"a photo has {grid} x {grid} units, the token ViT takes {crop} x {crop}: crop less")
        self.register_buffer("codebook", codebook.detach().clone(), persistent=saved)
        self.grid, self.crop = grid, crop

    def vectors(self, units: Tensor) -> Tensor:
        """Units int64 [B, grid * grid], row by row, or [B, grid, grid] -> float32 [B, code_width, grid, grid]."""
        # Not unflatten: the exporter takes the batch of its example to be the only one after it.
        found = F.embedding(units, self.codebook).reshape(-1, self.grid, self.grid, self.codebook.shape[1])
        return found.permute(0, 3, 1, 2)


class StemFromUnits(CodebookGrid):
    """Image units of a whole grid -> what a token ViT takes: their codebook vectors, cropped at the centre."""

    def forward(self, units: Tensor) -> Tensor:
        """Units int64 [B, grid * grid], row by row -> vectors float32 [B, code_width, crop, crop]."""
        edge = (self.grid - self.crop) // 2
        end = edge + self.crop
        return self.vectors(units)[:, :, edge:end, edge:end]
