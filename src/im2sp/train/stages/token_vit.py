"""Stage `token-vit`: photos -> their image units; units and cached features -> a token ViT."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from im2sp.arrays import IntArray
from im2sp.files import replace_whole, sha256_of
from im2sp.image.loading import load_image
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.token_augmentation import TokenAugmentation
from im2sp.train.models.saving import WEIGHTS
from im2sp.train.models.token_vit import TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.stages.encode import view_of
from im2sp.train.training.photo_crops import unit_pixels
from im2sp.train.training.token_vit import TokenVitTraining, UnitPhotos, train_token_vit

log = logging.getLogger(__name__)

BATCH = 16


def train_on_units(
    photos: dict[str, Path],
    held_out: list[str],
    features: ImageFeatures,
    tokenizer_folder: Path,
    config: TokenVitConfig,
    augmentation: TokenAugmentation,
    options: TokenVitTraining,
    out: Path,
) -> TokenVit:
    """Make the units of all photos and views that have features, then train; goes on where it stopped.

    Args:
        photos: by image id; those of `held_out` are reported on, all others learned from.
    """
    tokenizer = VitVqgan.load(tokenizer_folder)
    maker = sha256_of(tokenizer_folder / WEIGHTS)[:12]  # in the names: units of another tokenizer are never taken
    paths = [photos[image_id] for image_id in features.rows]
    units = [units_of(paths, view, tokenizer, out / f"units-{maker}-{view}.npy") for view in features.views]
    known = set(held_out)
    train = [image_id for image_id in features.rows if image_id not in known]
    kept = [image_id for image_id in features.rows if image_id in known]
    codebook = tokenizer.codebook.weight.detach()
    return train_token_vit(
        UnitPhotos(np.stack(units), features), train, kept, codebook, config, augmentation, options, out
    )


def units_of(paths: list[Path], view: str, tokenizer: VitVqgan, target: Path) -> npt.NDArray[np.uint16]:
    """Image units of a view of every photo: uint16 [photos, units], from `target` where it is there already."""
    if not target.is_file():
        rows = [units.astype(np.uint16) for units in batches_of_units(paths, view, tokenizer)]
        with replace_whole(target) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(rows))
        log.info("token-vit: units of %d photos, view %s", len(paths), view)
    found: npt.NDArray[np.uint16] = np.load(target)
    return found


def batches_of_units(paths: list[Path], view: str, tokenizer: VitVqgan) -> Iterator[IntArray]:
    """Image units of a view of photos, some at a time: int64 [batch, units]."""
    for start in range(0, len(paths), BATCH):
        views = [view_of(load_image(path), view) for path in paths[start : start + BATCH]]
        pixels = torch.stack([unit_pixels(image, tokenizer.config.image_size) for image in views])
        with torch.inference_mode():
            yield tokenizer.encode(pixels).numpy()
