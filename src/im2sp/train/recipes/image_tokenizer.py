"""Recipe of an image tokenizer: photos -> ViT-VQGAN, and a token ViT that turns its units into image features.

A captioner recipe may name the folder of runs: `image_tokenizer/` and `token_vit/` hold its checkpoints.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from im2sp.arrays import IntArray
from im2sp.errors import Im2SpError
from im2sp.files import replace_whole
from im2sp.image.finding import Photos
from im2sp.image.loading import load_image
from im2sp.train.data.corpora import CorpusOptions, open_corpus
from im2sp.train.data.corpora.items import consistent, ignore
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.token_augmentation import TokenAugmentation
from im2sp.train.distributed import Distributed
from im2sp.train.image_encoders import efficientnet
from im2sp.train.launch import is_main_process
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.token_vit import TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from im2sp.train.recipe import BaseRecipe
from im2sp.train.stages import Stage
from im2sp.train.stages.encode import encode, view_of
from im2sp.train.tasks.seit import SeitTask, SeitTraining, UnitPhotos
from im2sp.train.tasks.vit_vqgan import VitVqganTask, VitVqganTraining, codebook_usage, resized_pixels
from im2sp.train.trainer import train

log = logging.getLogger(__name__)

TOKENIZER, FEATURES, TOKEN_VIT = "image_tokenizer", "features", "token_vit"
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
    views: tuple[str, ...] = ("whole", "flip")  # of each photo
    token_vit: TokenVitConfig = field(default_factory=TokenVitConfig)
    token_augmentation: TokenAugmentation = field(default_factory=TokenAugmentation)
    seit: SeitTraining = field(default_factory=SeitTraining)


def photos_of(recipe: Recipe) -> dict[str, dict[str, Path]]:
    """Photos of the corpus by split and image id."""
    found: dict[str, dict[str, Path]] = {}
    for item in consistent(open_corpus(recipe.data, recipe.corpus, ignore), ignore):
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
        with replace_whole(out / "report.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1))
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
    """Compute the teacher's features of the train and the dev split."""
    splits = photos_of(recipe)
    encode(splits.get("dev", {}) | splits.get("train", {}), out, efficientnet(recipe.teacher), recipe.views)


def make_token_vit(recipe: Recipe, out: Path) -> None:
    """Make the units of all photos that have features, and distil the features into a token ViT."""
    tokenizer, splits = VitVqgan.load(recipe.runs / TOKENIZER), photos_of(recipe)
    features = ImageFeatures(recipe.runs / FEATURES)
    photos = {image_id: path for split in splits.values() for image_id, path in split.items()}
    paths = [photos[image_id] for image_id in features.rows]
    with Distributed().main_first():
        units = [units_of(paths, view, tokenizer, out / f"units-{view}.npy") for view in features.views]
    held_out = [image_id for image_id in features.rows if image_id in splits.get("dev", {})]
    learned = [image_id for image_id in features.rows if image_id in splits["train"]]
    torch.manual_seed(recipe.seed)
    model = TokenVit(replace(recipe.token_vit, code_width=tokenizer.config.code_width))
    codebook = tokenizer.codebook.weight.detach()
    photos_in_units = UnitPhotos(np.stack(units), features)
    task = SeitTask(recipe.seit, model, photos_in_units, learned, held_out, codebook, recipe.token_augmentation)
    train(task, out)
    if is_main_process():
        task.model.save(out)


def units_of(paths: list[Path], view: str, tokenizer: VitVqgan, target: Path) -> npt.NDArray[np.uint16]:
    """Image units of a view of every photo: uint16 [photos, units], kept in `target`."""
    if not target.is_file():
        with replace_whole(target) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate([rows.astype(np.uint16) for rows in _batches(paths, view, tokenizer)]))
    units: npt.NDArray[np.uint16] = np.load(target)
    return units


def _batches(paths: list[Path], view: str, tokenizer: VitVqgan) -> Iterator[IntArray]:
    """Image units of a view of some photos at a time: int64 [batch, units]."""
    for start in range(0, len(paths), BATCH):
        views = [view_of(load_image(path), view) for path in paths[start : start + BATCH]]
        pixels = torch.stack([resized_pixels(image, tokenizer.config.image_size) for image in views])
        with torch.inference_mode():
            yield tokenizer.encode(pixels).numpy()


STAGES = [
    Stage[Recipe]("vit_vqgan", TOKENIZER, make_tokenizer, distributed=True),
    Stage[Recipe]("features", FEATURES, make_features),
    Stage[Recipe]("seit", TOKEN_VIT, make_token_vit, (TOKENIZER, FEATURES), distributed=True),
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
