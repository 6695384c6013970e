"""Stage `image-tokenizer`: photos -> a ViT-VQGAN, and a report of what its units keep."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from im2sp.errors import Im2SpError
from im2sp.files import replace_whole
from im2sp.image.finding import Photos
from im2sp.image.loading import load_image
from im2sp.train.data.flickr8k import photo_path, read_split, split_file
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from im2sp.train.training.photo_crops import unit_pixels
from im2sp.train.training.vit_vqgan import VitVqganTraining, train_vit_vqgan, usage

log = logging.getLogger(__name__)

HELD_OUT = ("dev", "test")
PERCEPTUAL_GRID = 2  # of the perceptual network; its pooled features are not used here
BATCH = 16


@dataclass(frozen=True)
class TokenizerPhotos:
    """What the tokenizer looks at."""

    folders: tuple[str, ...] = ()  # of more photos, beside the train part
    perceptual_network: str = "efficientnet-lite0"  # tells pictures apart; frozen
    report_photos: int = 256  # on which the report is made


def photos_to_learn_from(data: Path, source: TokenizerPhotos) -> list[Path]:
    """The photos of the train part, then those of the folders, without any whose name is that of a held-out photo.

    Raises:
        Im2SpError: a split file or a folder is missing, or a folder holds no photos.
    """
    parts = [part for part in HELD_OUT if part == "dev" or split_file(data, part).is_file()]
    held_out = {name for part in parts for name in read_split(data, part)}
    found = [photo_path(data, name) for name in read_split(data, "train")]
    known = {path.stem for path in found} | held_out
    for folder in map(Path, source.folders):
        if not folder.is_dir():
            raise Im2SpError(f"{folder} is no folder of photos: mend `folders` in [image_tokenizer] of the recipe")
        photos = Photos([folder])
        if not (survey := photos.survey()).count:
            raise Im2SpError("; ".join(survey.problems) or f"{folder} holds no photos")
        found += [photo for photo in photos if photo.stem not in known]
    return found


def train_image_tokenizer(
    photos: list[Path], source: TokenizerPhotos, config: VitVqganConfig, options: VitVqganTraining, out: Path
) -> VitVqgan:
    """Train on the photos and write `out/report.json`; goes on where it stopped."""
    log.info("image-tokenizer: %d photos, %d bits each as units", len(photos), config.bits)
    backbone = ImageBackbone.pretrained(BackboneConfig(source.perceptual_network, config.image_size, PERCEPTUAL_GRID))
    model = train_vit_vqgan(photos, backbone, config, options, out)
    path = out / "report.json"
    if not path.is_file():
        report = tokenizer_report(model, photos[:: max(1, len(photos) // source.report_photos)][: source.report_photos])
        with replace_whole(path) as temporary:
            temporary.write_text(json.dumps(report, indent=1))
        log.info("image-tokenizer: %s", report)
    return model


def tokenizer_report(model: VitVqgan, photos: list[Path]) -> dict[str, float | int]:
    """What the units of whole photos keep.

    Returns:
        photos; bits of a photo; codes_used, the share of the codes that were chosen; perplexity, how many evenly used
        codes would carry as much; psnr in dB, of the decoded pictures against the photos at the tokenizer's size.
    """
    counts = torch.zeros(model.config.codebook_size, dtype=torch.int64)
    errors = []
    with torch.inference_mode():
        for start in range(0, len(photos), BATCH):
            chunk = photos[start : start + BATCH]
            pixels = torch.stack([unit_pixels(load_image(path), model.config.image_size) for path in chunk])
            units = model.encode(pixels)
            counts += torch.bincount(units.flatten(), minlength=len(counts))
            errors += (model.decode(units) - pixels).square().mean((1, 2, 3)).tolist()
    found = usage(counts)
    return {
        "photos": len(photos),
        "bits": model.config.bits,
        "codes_used": round(found.used, 4),
        "perplexity": round(found.perplexity, 1),
        "psnr": round(sum(-10 * math.log10(max(error, 1e-10)) for error in errors) / len(errors), 2),
    }
