"""Photos -> the units that a ViT-VQGAN makes of them, stored as tables that translators are trained on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from im2sp.arrays import IntArray
from im2sp.bundle import ImageTokenizer, ImageUnitsConfig
from im2sp.files import sha256_of
from im2sp.image.loading import load_image
from im2sp.image.unit_table import write_unit_table
from im2sp.train.data.unit_features import unit_table_file
from im2sp.train.export import ImageUnitModules
from im2sp.train.image_encoders import features_of_units, unit_image_config
from im2sp.train.models.saving import WEIGHTS
from im2sp.train.models.token_vit import TokenVit
from im2sp.train.models.vit_vqgan import PixelsFromUnits, VitVqgan
from im2sp.train.stages.encode import view_of
from im2sp.train.tasks.vit_vqgan import resized_pixels

log = logging.getLogger(__name__)
BATCH = 16  # photos
_UNKNOWN = "0" * 64  # a checksum that the export fills in


def vit_vqgan_tokenizer(model: VitVqgan, folder: Path) -> ImageTokenizer:
    """What tables say of the units that the model in a folder makes; the checksum is that of its weights."""
    return _described(model, f"{folder.parent.name}-vit-vqgan", sha256_of(folder / WEIGHTS))


def _described(model: VitVqgan, name: str, checksum: str) -> ImageTokenizer:
    sizes = model.config
    return ImageTokenizer(
        kind="vit-vqgan",
        tokenizer=name,
        checksum=checksum,
        grid=(sizes.grid, sizes.grid),
        codes=1,
        codebook_size=sizes.codebook_size,
    )


def vit_vqgan_modules(tokenizer: VitVqgan, token_vit: TokenVit, name: str) -> ImageUnitModules:
    """What a bundle is made of whose decoder sees a ViT-VQGAN's units through a token ViT.

    Args:
        name: of the tokenizer, for people.
    """
    crop = token_vit.config.crop
    made_by = _described(tokenizer, name, _UNKNOWN)
    return ImageUnitModules(
        image=unit_image_config(tokenizer.config, token_vit.config),
        config=ImageUnitsConfig(**made_by.described(), crop=(crop, crop)),
        tokenizer=tokenizer,
        backbone=features_of_units(tokenizer, token_vit),
        decoder=PixelsFromUnits(tokenizer) if tokenizer.config.decoder_layers else None,
    )


def store_vit_vqgan_units(
    photos: dict[str, Path], views: tuple[str, ...], model: VitVqgan, tokenizer: ImageTokenizer, out: Path
) -> None:
    """Write a table for each view of the photos into `out`, unless it is there."""
    for view in views:
        path = unit_table_file(out, view)
        if not path.is_file():
            count = write_unit_table(path, tokenizer, _rows(photos, view, model))
            log.info("%s: units of %d photos, %d bits each", path, count, tokenizer.bits)


def _rows(photos: dict[str, Path], view: str, model: VitVqgan) -> Iterator[tuple[str, IntArray]]:
    ids = iter(photos)
    for units in batches_of_units(list(photos.values()), view, model):
        for row in units:
            yield next(ids), row


def batches_of_units(paths: list[Path], view: str, tokenizer: VitVqgan) -> Iterator[IntArray]:
    """Image units of a view of photos, some at a time: int64 [batch, units]."""
    for start in range(0, len(paths), BATCH):
        views = [view_of(load_image(path), view) for path in paths[start : start + BATCH]]
        pixels = torch.stack([resized_pixels(image, tokenizer.config.image_size) for image in views])
        with torch.inference_mode():
            yield tokenizer.encode(pixels).numpy()
