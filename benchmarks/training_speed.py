"""Steps per second of translator training: from stored image units, from cached features, with the tokenizer inside.

    python benchmarks/training_speed.py [--photos 24] [--captions 5] [--tokens 60] [--steps 5] [FOLDER OF PHOTOS]

Every step is a whole one: what the photos of the batch look like is fetched, then forward, backward and optimizer, by
the functions that training uses. The photos are the same each time, and so are the sentences. From units: a table that
is in memory, looked up in the codebooks. From features: the cached array on disk. With the tokenizer: the photo's file
is read, decoded and resized, then come the image encoder and the quantiser, as code does that keeps photos and makes
units in every step. What is compared alternates, so drift of the machine meets all of it; one more round warms up.
Weights and sentences are random, sizes are those of recipes/flickr8k.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from im2sp.images.finding import Photos
from im2sp.images.loading import load_image, to_pixels
from im2sp.lab.data.image_features import ImageFeatures
from im2sp.lab.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.lab.models.semantic_units import SemanticUnits
from im2sp.lab.models.translator import Translator, TranslatorConfig
from im2sp.lab.recipe import Recipe
from im2sp.lab.stages.encode import encode
from im2sp.lab.stages.semantic_units import SemanticUnitsOptions, make_semantic_units, stored_features
from im2sp.lab.training.translator import TranslatorTraining, input_of, optimizer_of, training_step

UNITS, FEATURES, INSIDE = "from stored units", "from cached features", "tokenizer in every step"


def pixels_of(paths: list[Path], config: BackboneConfig) -> Tensor:
    """Photos from their files, as the image encoder takes them."""
    side, mean, std = config.image_size, (config.mean,) * 3, (config.std,) * 3
    return torch.from_numpy(np.stack([to_pixels(load_image(path), side, side, mean, std) for path in paths]))


def trainer(model: Translator, tokens: Tensor, photo: Tensor, images: Callable[[], Tensor]) -> Callable[[], float]:
    """One training step of a model that fetches what it sees; returns the seconds it took."""
    options = TranslatorTraining()
    optimizer = optimizer_of(model.train(), options)

    def step() -> float:
        started = time.perf_counter()
        training_step(model, optimizer, images(), tokens, photo, options.label_smoothing)
        return time.perf_counter() - started

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("examples"))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/recipe.toml"))
    parser.add_argument(
        "--photos", type=int, default=24, help="of a batch; fewer in the folder are taken several times"
    )
    parser.add_argument("--captions", type=int, default=5, help="of each photo")
    parser.add_argument("--tokens", type=int, default=60, help="of each caption")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = Recipe.read(arguments.recipe)
    found = list(Photos([arguments.folder]))
    paths = {f"photo{row}": found[row % len(found)] for row in range(arguments.photos)}
    ids = list(paths)
    sizes = recipe.section("backbone", BackboneConfig)
    config = recipe.section("translator", TranslatorConfig, vocabulary_size=recipe.subwords + 3)
    captions = arguments.photos * arguments.captions
    tokens = torch.randint(3, config.vocabulary_size, (captions, 1 + arguments.tokens))
    photo = torch.arange(captions) // arguments.captions
    with tempfile.TemporaryDirectory() as folder:
        features_folder, captioner, units = (Path(folder) / name for name in ("features", "captioner", "run"))
        encode(paths, features_folder, sizes, ("whole",))
        translator = Translator(config)
        translator.save(captioner)
        options = recipe.section("semantic_units", SemanticUnitsOptions)
        fresh = SemanticUnits.like(translator, options.levels, options.size)
        fresh.codebooks.normal_()  # a handful of photos makes no centres, and any cost the same
        fresh.save(units)
        quantiser = make_semantic_units((features_folder,), [], captioner, options, 0, units)
        stored = stored_features(quantiser, sizes.image_tokens, units, (features_folder,), ("whole",))
        cached, backbone = ImageFeatures(features_folder), ImageBackbone.pretrained(sizes)
        backbone = backbone.to(memory_format=torch.channels_last)

        def inside() -> Tensor:
            with torch.inference_mode():
                pixels = pixels_of(list(paths.values()), sizes).to(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16):
                    seen = backbone(pixels)
                said = quantiser.features(quantiser(seen.float()))
            return said.clone()

        steps = {
            UNITS: trainer(translator.on_projected(), tokens, photo, lambda: input_of(stored.batch(ids))),
            FEATURES: trainer(translator, tokens, photo, lambda: input_of(cached.batch(ids))),
            INSIDE: trainer(translator.on_projected(), tokens, photo, inside),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for round_number in range(arguments.steps + 1):
            for name, step in steps.items():
                taken = step()
                if round_number:
                    seconds[name].append(taken)
    print(f"{arguments.photos} photos, {captions} captions of {arguments.tokens} tokens, {arguments.steps} steps each")
    for name, times in seconds.items():
        rate = 1 / statistics.median(times)
        slower = statistics.median(slow / fast for slow, fast in zip(seconds[INSIDE], times, strict=True))
        print(f"  {name:24} {rate:7.3f} steps/s, {INSIDE} takes {slower:.2f} times as long")
    print(json.dumps({name: [round(value, 4) for value in times] for name, times in seconds.items()}))


if __name__ == "__main__":
    main()
