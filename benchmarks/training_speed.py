"""Steps per second of translator training: from stored image units, from cached features, with the tokenizer inside.

    python benchmarks/training_speed.py [--photos 8] [--captions 5] [--tokens 60] [--steps 3] [FOLDER OF PHOTOS]

Every step is a whole one: what the photos of the batch look like is fetched, then forward, backward and optimizer, by
the functions that training uses. The photos are the same each time, and so are the sentences. From units: a table that
is in memory, looked up in the codebooks. From features: the cached array on disk. With the tokenizer: the photo's file
is read, decoded and resized, then come the image encoder and the quantiser, or a ViT-VQGAN, as the reference code does
in every step. `--captions 1` is its batch, a photo for each caption; ours share the photo's prefix. What is compared
alternates, so drift of the machine meets all of it; one more round warms up. Weights and sentences are random. Sizes
are those of the recipe; "published" is the ViT-VQGAN of the published layout with the recipe's token ViT on it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from im2sp.image.finding import Photos
from im2sp.image.loading import load_image, to_pixels
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.unit_features import StoredUnits, UnitFeatures
from im2sp.train.image_encoders import efficientnet
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.semantic_units import SemanticUnits
from im2sp.train.models.token_vit import TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from im2sp.train.precision import products
from im2sp.train.recipe import Recipe
from im2sp.train.stages.encode import encode
from im2sp.train.stages.semantic_units import SemanticUnitsOptions, make_semantic_units, stored_semantic_units
from im2sp.train.stages.token_vit import batches_of_units
from im2sp.train.stages.vit_vqgan_units import store_vit_vqgan_units, vit_vqgan_tokenizer
from im2sp.train.data.token_augmentation import TokenAugmentation
from im2sp.train.training.token_translator import TokenTranslator
from im2sp.train.training.translator import TranslatorTraining, input_of, optimizer_of, training_step

WHOLE = ("whole",)
STORED, CACHED, INSIDE = "stored units", "cached features", "tokenizer in every step"
Step = Callable[[], float]  # returns the seconds that it took


@dataclass(frozen=True)
class Batch:
    """What every step learns from."""

    paths: dict[str, Path]  # photos by image id
    tokens: Tensor
    photo: Tensor

    def step(self, model: GitDecoder, images: Callable[[], Tensor]) -> Step:
        """A training step of a model that fetches what it sees."""
        options = TranslatorTraining()
        optimizer = optimizer_of(model.train(), options)

        def step() -> float:
            started = time.perf_counter()
            training_step(model, optimizer, images(), self.tokens, self.photo, options.label_smoothing)
            return time.perf_counter() - started

        return step


def semantic_steps(recipe: Recipe, config: GitDecoderConfig, batch: Batch, folder: Path) -> dict[str, Step]:
    """Steps on semantic units and on the features that they are made of."""
    features, captioner, units = (folder / name for name in ("features", "captioner", "run"))
    sizes, options = recipe.section("backbone", BackboneConfig), recipe.section("semantic_units", SemanticUnitsOptions)
    encode(batch.paths, features, efficientnet(sizes), WHOLE)
    translator = GitDecoder(config)
    translator.save(captioner)
    fresh = SemanticUnits.like(translator, options.levels, options.size)
    fresh.codebooks.normal_()  # a handful of photos makes no centres, and any cost the same
    fresh.save(units)
    quantiser = make_semantic_units((features,), [], captioner, options, 0, units)
    stored = UnitFeatures(
        stored_semantic_units(quantiser, sizes.image_tokens, units, (features,), WHOLE), quantiser.features
    )
    cached, ids = ImageFeatures(features), list(batch.paths)
    backbone = ImageBackbone.pretrained(sizes).to(memory_format=torch.channels_last)

    def inside() -> Tensor:
        side, mean, std = sizes.image_size, (sizes.mean,) * 3, (sizes.std,) * 3
        rows = [to_pixels(load_image(path), side, side, mean, std) for path in batch.paths.values()]
        pixels = torch.from_numpy(np.stack(rows)).to(memory_format=torch.channels_last)
        with torch.no_grad():
            with products("cpu"):
                seen = backbone(pixels)
            return quantiser.features(quantiser(seen.float()))

    return {
        STORED: batch.step(translator.on_projected(), lambda: input_of(stored.batch(ids))),
        CACHED: batch.step(translator, lambda: input_of(cached.batch(ids))),
        INSIDE: batch.step(translator.on_projected(), inside),
    }


def vit_vqgan_steps(
    recipe: Recipe, config: GitDecoderConfig, sizes: VitVqganConfig, batch: Batch, folder: Path
) -> dict[str, Step]:
    """Steps of token ViT and translator on the units of a ViT-VQGAN."""
    tokenizer = VitVqgan(sizes).eval()
    tokenizer.save(folder / "tokenizer")
    made_by = vit_vqgan_tokenizer(tokenizer, folder / "tokenizer")
    store_vit_vqgan_units(batch.paths, WHOLE, tokenizer, made_by, folder / "units")
    stored, ids = StoredUnits([folder / "units"], WHOLE, made_by, "translate"), list(batch.paths)
    recipe_sizes = recipe.section("token_vit_sizes", TokenVitConfig, code_width=sizes.code_width)
    crop = min(TokenVitConfig.crop, sizes.grid)
    augmentation = recipe.section("token_augmentation", TokenAugmentation)

    def model() -> GitDecoder:
        token_vit = TokenVit(replace(recipe_sizes, crop=crop))
        wide = replace(config, image_width=token_vit.config.width)
        return TokenTranslator(wide, token_vit, tokenizer.codebook.weight.detach(), sizes.grid, augmentation)

    def inside() -> Tensor:
        units = np.concatenate(list(batches_of_units(list(batch.paths.values()), WHOLE[0], tokenizer)))
        return input_of(units)

    return {
        STORED: batch.step(model(), lambda: input_of(stored.batch(ids))),
        INSIDE: batch.step(model(), inside),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("examples"))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/recipe.toml"))
    parser.add_argument("--photos", type=int, default=8, help="of a batch; if the folder has fewer, they repeat")
    parser.add_argument("--captions", type=int, default=5, help="of each photo")
    parser.add_argument("--tokens", type=int, default=60, help="of each caption")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = Recipe.read(options.recipe)
    config = recipe.section("translator", GitDecoderConfig, vocabulary_size=recipe.subwords + 3)
    found, captions = list(Photos([options.folder])), options.photos * options.captions
    batch = Batch(
        {f"photo{row}": found[row % len(found)] for row in range(options.photos)},
        torch.randint(3, config.vocabulary_size, (captions, 1 + options.tokens)),
        torch.arange(captions) // options.captions,
    )
    own, published = recipe.section("vit_vqgan_sizes", VitVqganConfig), VitVqganConfig(decoder_layers=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        groups = {
            "semantic": semantic_steps(recipe, config, batch, folder / "semantic"),
            "vit-vqgan": vit_vqgan_steps(recipe, config, own, batch, folder / "own"),
            "published vit-vqgan": vit_vqgan_steps(recipe, config, published, batch, folder / "published"),
        }
        steps = {(group, way): step for group, ways in groups.items() for way, step in ways.items()}
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
        for round_number in range(options.steps + 1):
            for key, step in steps.items():
                taken = step()
                if round_number:
                    seconds[key].append(taken)
    print(f"{options.photos} photos, {captions} captions of {options.tokens} tokens, median of {options.steps} steps")
    for (group, way), times in seconds.items():
        slower = statistics.median(slow / fast for slow, fast in zip(seconds[group, INSIDE], times, strict=True))
        rate = 1 / statistics.median(times)
        print(f"  {group:20} {way:24} {rate:7.3f} steps/s, {slower:6.2f} times as many as with the {INSIDE}")
    print(json.dumps({f"{group}, {way}": [round(t, 4) for t in times] for (group, way), times in seconds.items()}))


if __name__ == "__main__":
    main()
