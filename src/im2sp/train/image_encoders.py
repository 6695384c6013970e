"""Frozen image encoders: pixels of an EfficientNet-Lite, a token ViT (`convert.git` has another)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from im2sp.bundle import ImageConfig, ImageTokenizer, ImageUnitsConfig
from im2sp.errors import Im2SpError
from im2sp.files import sha256_of
from im2sp.train.export import ImageModules
from im2sp.train.models.image_backbone import BackboneConfig
from im2sp.train.models.saving import CONFIG, WEIGHTS, Exported, load_config
from im2sp.train.models.token_vit import StemFromUnits, TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig

TOKEN_VIT = "token-vit"
UNKNOWN_CHECKSUM = "0" * 64  # a checksum that the export fills in


@dataclass(frozen=True)
class ImageEncoder:
    """A frozen image encoder."""

    image: ImageConfig  # the pictures that it takes
    made_by: dict[str, str | int | float]  # tells its features from those of all others
    description: str  # for people
    load: Callable[[], nn.Module]  # normalised pixels [B, 3, height, width] -> features [B, image_tokens, width]


def image_config(backbone: BackboneConfig, image_tokens: int | None = None) -> ImageConfig:
    """What the runtime must know of a backbone to make pixels for it.

    Args:
        image_tokens: of the decoder, those of the grid last; by default only those.
    """
    return ImageConfig(
        height=backbone.image_size,
        width=backbone.image_size,
        mean=(backbone.mean,) * 3,
        std=(backbone.std,) * 3,
        image_tokens=image_tokens or backbone.image_tokens,
        grid=(backbone.grid, backbone.grid),
    )


def token_vit(tokenizer_folder: Path, token_vit_folder: Path) -> ImageEncoder:
    """A token ViT that sees photos by the units of an image tokenizer, both as `im2sp convert` wrote them."""
    require_converted(tokenizer_folder, f"im2sp convert vit-vqgan TOKENIZER --codebook CODEBOOK -o {tokenizer_folder}")
    require_converted(token_vit_folder, f"im2sp convert seit CHECKPOINT -o {token_vit_folder}")
    tokenizer = load_config(tokenizer_folder, VitVqganConfig)
    sizes = load_config(token_vit_folder, TokenVitConfig)
    if tokenizer.code_width != sizes.code_width:
        raise Im2SpError(
            f"{tokenizer_folder} has codes of {tokenizer.code_width} numbers where {token_vit_folder} takes "
            f"{sizes.code_width}: convert files that belong together"
        )
    return ImageEncoder(
        image=unit_image_config(tokenizer, sizes),
        made_by={
            "kind": TOKEN_VIT,
            "tokenizer": sha256_of(tokenizer_folder / WEIGHTS),
            "weights": sha256_of(token_vit_folder / WEIGHTS),
        },
        description=f"token ViT on image units, {sizes.layers} layers of {sizes.width}, frozen",
        load=lambda: _by_units(VitVqgan.load(tokenizer_folder), TokenVit.load(token_vit_folder)),
    )


def unit_image_config(tokenizer: VitVqganConfig, sizes: TokenVitConfig) -> ImageConfig:
    """The pictures that an image tokenizer takes, and the image tokens that a token ViT makes of its units."""
    return ImageConfig(
        height=tokenizer.image_size,
        width=tokenizer.image_size,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        image_tokens=sizes.image_tokens,
        grid=(sizes.grid, sizes.grid),
    )


def features_of_units(tokenizer: VitVqgan, sees: TokenVit) -> nn.Sequential:
    """Image units int64 [B, units] of whole photos -> features [B, image_tokens, width]."""
    return nn.Sequential(StemFromUnits(tokenizer.codebook.weight, tokenizer.config.grid, sees.config.crop), sees)


def describe_vit_vqgan(sizes: VitVqganConfig, name: str, checksum: str = UNKNOWN_CHECKSUM) -> ImageTokenizer:
    """Describe the units of a ViT-VQGAN for tables and bundles.

    Args:
        name: for people.
        checksum: of its weights.
    """
    return ImageTokenizer(
        kind="vit-vqgan",
        tokenizer=name,
        checksum=checksum,
        grid=(sizes.grid, sizes.grid),
        codes=1,
        codebook_size=sizes.codebook_size,
    )


def vit_vqgan_modules(tokenizer: VitVqgan, token_vit: TokenVit, name: str) -> ImageModules:
    """Modules of a bundle that sees the units of a ViT-VQGAN through a token ViT. `name`: of the tokenizer."""
    crop = token_vit.config.crop
    return ImageModules(
        image=unit_image_config(tokenizer.config, token_vit.config),
        backbone=features_of_units(tokenizer, token_vit),
        tokenizer=tokenizer,
        units=ImageUnitsConfig(**describe_vit_vqgan(tokenizer.config, name).described(), crop=(crop, crop)),
        decoder=Exported(tokenizer, tokenizer.decode) if tokenizer.config.decoder_layers else None,
    )


class _ByUnits(nn.Module):
    """Pixels -> image units -> features."""

    def __init__(self, tokenizer: VitVqgan, features: nn.Module) -> None:
        super().__init__()
        self.tokenizer, self.features = tokenizer, features

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [0, 1] -> features [B, image_tokens, width]."""
        with torch.autocast(pixels.device.type, enabled=False):  # the nearest of many codes flips with less precision
            units = self.tokenizer(pixels)
        found: Tensor = self.features(units)
        return found


def _by_units(tokenizer: VitVqgan, sees: TokenVit) -> nn.Module:
    return _ByUnits(tokenizer, features_of_units(tokenizer, sees)).eval()


def require_converted(folder: Path, command: str) -> None:
    """Raise Im2SpError when the folder of a converted model is not there."""
    if not (folder / CONFIG).is_file():
        raise Im2SpError(f"{folder / CONFIG} is missing: run {command} first")
