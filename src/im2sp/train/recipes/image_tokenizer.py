"""Recipe of an image tokenizer: photos -> ViT-VQGAN, and a token ViT that turns its units into image features.

A captioner recipe may name the folder of runs: `image_tokenizer/` and `token_vit/` hold its checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from im2sp.image.loading import load_image
from im2sp.train.data.corpora import CorpusOptions, read_corpus
from im2sp.train.data.corpora.items import ignore
from im2sp.train.data.photo_units import PhotoArrays, extract_features, view_of, write_arrays
from im2sp.train.data.tiny_photo_corpora import write_tiny_photo_corpora
from im2sp.train.launch import is_main_process
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.token_vit import TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from im2sp.train.stages import BaseRecipe, Stage
from im2sp.train.tasks.seit import SeitTask, SeitTraining
from im2sp.train.tasks.vit_vqgan import VitVqganTask, VitVqganTraining, resized_pixels
from im2sp.train.trainer import train

TOKENIZER, FEATURES, UNITS, TOKEN_VIT = "image_tokenizer", "features", "image_units", "token_vit"
PERCEPTUAL_GRID = 2  # of the perceptual network; its pooled features are not used


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Options of an image tokenizer."""

    corpus: CorpusOptions = field(default_factory=lambda: CorpusOptions("flickr8k"))
    perceptual_network: str = "efficientnet-lite0"
    vit_vqgan: VitVqganConfig = field(default_factory=VitVqganConfig)
    vit_vqgan_training: VitVqganTraining = field(default_factory=VitVqganTraining)
    teacher: BackboneConfig = field(default_factory=BackboneConfig)  # whose features the token ViT learns
    views: tuple[str, ...] = ("whole", "crop1")  # of each photo
    token_vit: TokenVitConfig = field(default_factory=TokenVitConfig)
    seit: SeitTraining = field(default_factory=SeitTraining)


def photos_of(recipe: Recipe) -> dict[str, dict[str, Path]]:
    """Photos of the corpus by split and image id."""
    found: dict[str, dict[str, Path]] = {}
    for item in read_corpus(recipe.data, recipe.corpus, ignore):
        found.setdefault(item.split, {})[item.image_id] = item.image
    return found


def make_tokenizer(recipe: Recipe, out: Path) -> None:
    """Train the ViT-VQGAN on the photos of the train split."""
    photos = list(photos_of(recipe)["train"].values())
    size = recipe.vit_vqgan.image_size
    network = ImageBackbone.pretrained(BackboneConfig(recipe.perceptual_network, size, PERCEPTUAL_GRID))
    torch.manual_seed(recipe.seed)
    task = VitVqganTask(recipe.vit_vqgan_training, VitVqgan(recipe.vit_vqgan), photos, network)
    train(task, out)
    if is_main_process():
        task.model.save(out)


def make_features(recipe: Recipe, out: Path) -> None:
    """Extract the teacher's features of the train and the dev split."""
    extract_features(_known_photos(recipe), recipe.views, recipe.teacher, out)


def make_units(recipe: Recipe, out: Path) -> None:
    """Write the units of the same photos: uint16 [photos, units] of each view."""
    tokenizer = VitVqgan.load(recipe.runs / TOKENIZER)

    def encode(photos: Sequence[tuple[str, Path]], view: str) -> np.ndarray:
        images = [view_of(load_image(path), view, name) for name, path in photos]
        pixels = [resized_pixels(image, tokenizer.config.image_size) for image in images]
        with torch.inference_mode():
            return tokenizer(torch.stack(pixels)).numpy()

    write_arrays(_known_photos(recipe), recipe.views, encode, out, np.uint16)


def make_token_vit(recipe: Recipe, out: Path) -> None:
    """Distil the features into a token ViT that reads the units."""
    tokenizer, splits = VitVqgan.load(recipe.runs / TOKENIZER), photos_of(recipe)
    units, features = (PhotoArrays(recipe.runs / name, recipe.views) for name in (UNITS, FEATURES))
    torch.manual_seed(recipe.seed)
    task = SeitTask(
        recipe.seit,
        TokenVit(replace(recipe.token_vit, code_width=tokenizer.config.code_width)),
        units,
        features,
        list(splits["train"]),
        list(splits.get("dev", {})),
        tokenizer.codebook.weight.detach(),
    )
    train(task, out)
    if is_main_process():
        task.model.save(out)


def _known_photos(recipe: Recipe) -> dict[str, Path]:
    splits = photos_of(recipe)
    return splits.get("dev", {}) | splits.get("train", {})


STAGES = [
    Stage[Recipe]("vit_vqgan", TOKENIZER, make_tokenizer, distributed=True),
    Stage[Recipe]("features", FEATURES, make_features),
    Stage[Recipe]("tokenize", UNITS, make_units, (TOKENIZER,)),
    Stage[Recipe]("seit", TOKEN_VIT, make_token_vit, (TOKENIZER, FEATURES, UNITS), distributed=True),
]


def smoke(folder: Path) -> Recipe:
    """Write tiny corpora; return a recipe that trains on their photos in seconds."""
    write_tiny_photo_corpora(folder / "data", folder / "lists")
    return Recipe(
        "image_tokenizer",
        data=folder / "data" / "flickr8k",
        runs=folder / "image_tokenizer",
        vit_vqgan=VitVqganConfig(
            image_size=64, patch=16, width=32, layers=1, heads=1, feed_forward=64, code_width=8, codebook_size=32,
            decoder_layers=1,
        ),
        vit_vqgan_training=VitVqganTraining(steps=4, batch=2, warm_up=2, revive_every=2),
        teacher=BackboneConfig("efficientnet-lite0", 64, 2),
        token_vit=TokenVitConfig(crop=4, width=32, layers=1, heads=2, feed_forward=32),
        seit=SeitTraining(steps=4, batch=4, warm_up=2),
    )  # fmt: skip
