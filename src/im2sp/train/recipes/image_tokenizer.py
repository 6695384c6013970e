"""Recipe of an image tokenizer: photos -> ViT-VQGAN, and a token ViT that turns its units into image features.

A captioner recipe may name the folder of runs: `image_tokenizer/` and `token_vit/` hold its checkpoints.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from im2sp.errors import Im2SpError
from im2sp.files import atomic_write, write_json
from im2sp.image.finding import Photos
from im2sp.image.loading import load_image
from im2sp.train.data.corpora import CorpusOptions, read_corpus
from im2sp.train.data.corpora.items import ignore
from im2sp.train.data.photo_units import INDEX, PhotoArrays, extract_features, view_of
from im2sp.train.data.token_augmentation import TokenAugmentation
from im2sp.train.launch import is_main_process
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.token_vit import TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from im2sp.train.stages import BaseRecipe, Stage
from im2sp.train.tasks.seit import SeitTask, SeitTraining
from im2sp.train.tasks.vit_vqgan import VitVqganTask, VitVqganTraining, codebook_usage, resized_pixels
from im2sp.train.trainer import train

log = logging.getLogger(__name__)

TOKENIZER, FEATURES, UNITS, TOKEN_VIT = "image_tokenizer", "features", "image_units", "token_vit"
BATCH = 16  # photos
PERCEPTUAL_GRID = 2  # of the perceptual network; its pooled features are not used


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Options of an image tokenizer."""

    corpus: CorpusOptions = field(default_factory=lambda: CorpusOptions("flickr8k"))
    folders: tuple[str, ...] = ()  # of more photos to learn the tokenizer from, relative to `data`
    perceptual_network: str = "efficientnet-lite0"
    report_photos: int = 256  # on which the tokenizer is measured
    vit_vqgan: VitVqganConfig = field(default_factory=VitVqganConfig)
    vit_vqgan_training: VitVqganTraining = field(default_factory=VitVqganTraining)
    teacher: BackboneConfig = field(default_factory=BackboneConfig)  # whose features the token ViT learns
    views: tuple[str, ...] = ("whole", "crop1")  # of each photo
    token_vit: TokenVitConfig = field(default_factory=TokenVitConfig)
    token_augmentation: TokenAugmentation = field(default_factory=TokenAugmentation)
    seit: SeitTraining = field(default_factory=SeitTraining)


def photos_of(recipe: Recipe) -> dict[str, dict[str, Path]]:
    """Photos of the corpus by split and image id."""
    found: dict[str, dict[str, Path]] = {}
    for item in read_corpus(recipe.data, recipe.corpus, ignore):
        found.setdefault(item.split, {})[item.image_id] = item.image
    return found


def tokenizer_photos(recipe: Recipe) -> list[Path]:
    """Photos of the train split and of `folders`, without any that has the name of a held-out photo.

    Raises:
        Im2SpError: a folder is missing or holds no photos.
    """
    splits = photos_of(recipe)
    paths = list(splits.get("train", {}).values())
    known = {path.stem for photos in splits.values() for path in photos.values()}
    for folder in (recipe.data / name for name in recipe.folders):
        photos = Photos([folder])
        if not folder.is_dir() or not photos.survey().count:
            raise Im2SpError(f"{folder} holds no photos: change `folders` in the recipe")
        paths += [photo for photo in photos if photo.stem not in known]
    return paths


def make_tokenizer(recipe: Recipe, out: Path) -> None:
    """Train the ViT-VQGAN; write what its units keep of whole photos to `report.json`."""
    photos = tokenizer_photos(recipe)
    log.info("%d photos, %d bits each as units", len(photos), recipe.vit_vqgan.bits)
    size = recipe.vit_vqgan.image_size
    network = ImageBackbone.pretrained(BackboneConfig(recipe.perceptual_network, size, PERCEPTUAL_GRID))
    torch.manual_seed(recipe.seed)
    task = VitVqganTask(recipe.vit_vqgan_training, VitVqgan(recipe.vit_vqgan), photos, network)
    train(task, out)
    if is_main_process():
        task.model.save(out)
        report = measure(task.model, photos[:: max(1, len(photos) // recipe.report_photos)][: recipe.report_photos])
        write_json(out / "report.json", report)
        log.info("%s", report)


def measure(model: VitVqgan, photos: list[Path]) -> dict[str, float]:
    """Measure what the units of whole photos keep.

    Returns:
        photos; bits of a photo; codes_used and perplexity (see `codebook_usage`); psnr [dB] of the reconstructions at
        the tokenizer's size.
    """
    counts = torch.zeros(model.config.codebook_size, dtype=torch.int64)
    errors: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(photos), BATCH):
            images = [load_image(path) for path in photos[start : start + BATCH]]
            pixels = torch.stack([resized_pixels(image, model.config.image_size) for image in images])
            units = model.encode(pixels)
            counts += torch.bincount(units.flatten(), minlength=len(counts))
            errors += (model.decode(units) - pixels).square().mean((1, 2, 3)).tolist()
    psnr = sum(-10 * math.log10(max(error, 1e-10)) for error in errors) / len(errors)
    return {"photos": len(photos), "bits": model.config.bits, "psnr": psnr} | codebook_usage(counts)


def make_features(recipe: Recipe, out: Path) -> None:
    """Extract the teacher's features of the train and the dev split."""
    extract_features(_known_photos(recipe), recipe.views, recipe.teacher, out)


def make_units(recipe: Recipe, out: Path) -> None:
    """Write the units of the same photos: uint16 [photos, units] of each view."""
    tokenizer, photos = VitVqgan.load(recipe.runs / TOKENIZER), _known_photos(recipe)
    size, names = tokenizer.config.image_size, list(photos)
    write_json(out / INDEX, names)
    for view in recipe.views:
        rows = []
        for start in range(0, len(names), BATCH):
            images = [view_of(load_image(photos[name]), view, name) for name in names[start : start + BATCH]]
            with torch.inference_mode():
                units = tokenizer.encode(torch.stack([resized_pixels(image, size) for image in images]))
            rows.append(units.numpy().astype(np.uint16))
        with atomic_write(out / f"{view}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(rows))


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
        recipe.token_augmentation,
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
    """Write a few photos of one colour; return a recipe that trains on them in seconds."""
    data = folder / "photos"
    (data / "photos").mkdir(parents=True, exist_ok=True)
    images = [
        {"filename": f"{n}.png", "split": ("train", "val")[n > 5], "sentences": [{"raw": "A."}]} for n in range(8)
    ]
    for number, entry in enumerate(images):
        Image.new("RGB", (80, 60), (30 * number, 90, 200 - 20 * number)).save(data / "photos" / str(entry["filename"]))
    (data / "captions.json").write_text(json.dumps({"images": images}))
    return Recipe(
        "image_tokenizer",
        data=data,
        runs=folder / "image_tokenizer",
        corpus=CorpusOptions("karpathy", "captions.json", "photos"),
        vit_vqgan=VitVqganConfig(
            image_size=64, patch=16, width=32, layers=1, heads=1, feed_forward=64, code_width=8, codebook_size=32,
            decoder_layers=1,
        ),
        vit_vqgan_training=VitVqganTraining(steps=4, adversarial_from=2, batch=2, warm_up=2, revive_every=2),
        teacher=BackboneConfig("efficientnet-lite0", 64, 2),
        token_vit=TokenVitConfig(crop=4, width=32, layers=1, heads=2, feed_forward=32),
        token_augmentation=TokenAugmentation(neighbours=3),
        seit=SeitTraining(steps=4, batch=4, warm_up=2),
    )  # fmt: skip
