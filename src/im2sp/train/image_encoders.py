"""Image encoders -> what an export takes: pixels of an EfficientNet-Lite, a token ViT on image units."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from im2sp.bundle import ImageConfig, ImageUnitsConfig
from im2sp.errors import Im2SpError
from im2sp.train.export import ImageModules
from im2sp.train.models.image_backbone import BackboneConfig
from im2sp.train.models.saving import CONFIG, Exported
from im2sp.train.models.token_vit import StemFromUnits, TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig

UNKNOWN_CHECKSUM = "0" * 64  # a checksum that the export fills in


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


def vit_vqgan_modules(tokenizer: VitVqgan, token_vit: TokenVit, name: str) -> ImageModules:
    """Modules of a bundle that sees the units of a ViT-VQGAN through a token ViT.

    Args:
        name: of the tokenizer, for people.

    Raises:
        Im2SpError: the two do not belong together.
    """
    units, sizes = tokenizer.config, token_vit.config
    if units.code_width != sizes.code_width or units.grid < sizes.crop:
        raise Im2SpError(
            f"the image tokenizer makes {units.grid} x {units.grid} units of {units.code_width} numbers for a token "
            f"ViT of {sizes.crop} x {sizes.crop} units of {sizes.code_width}: convert files that belong together"
        )
    return ImageModules(
        image=unit_image_config(units, sizes),
        backbone=nn.Sequential(StemFromUnits(tokenizer.codebook.weight, units.grid, sizes.crop), token_vit).eval(),
        tokenizer=tokenizer,
        units=ImageUnitsConfig(
            kind="vit-vqgan",
            tokenizer=name,
            checksum=UNKNOWN_CHECKSUM,
            grid=(units.grid, units.grid),
            codes=1,
            codebook_size=units.codebook_size,
            crop=(sizes.crop, sizes.crop),
        ),
        decoder=Exported(tokenizer, tokenizer.decode) if units.decoder_layers else None,
    )


def require_converted(folder: Path, command: str) -> None:
    """Raise Im2SpError when the folder of a converted model is not there."""
    if not (folder / CONFIG).is_file():
        raise Im2SpError(f"{folder / CONFIG} is missing: run {command} first")
