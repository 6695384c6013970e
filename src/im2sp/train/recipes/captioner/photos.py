"""Photos -> maps, tuned backbone, features, image units, tagger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from im2sp.files import write_json
from im2sp.train.data.caption_targets import caption_tokenizer, content_words, frequent_words, word_targets
from im2sp.train.data.photo_corpora import PhotoCorpora, caption_words
from im2sp.train.data.photo_units import PhotoArrays, extract_maps, write_features, write_units
from im2sp.train.launch import is_main_process
from im2sp.train.models.image_backbone import ImageBackbone, classifier
from im2sp.train.models.image_units import ImageUnits
from im2sp.train.models.tagger import Tagger, TaggerConfig
from im2sp.train.recipes.captioner.options import (
    BACKBONE,
    CODES,
    FEATURES,
    LATE,
    MAPS,
    TOKENIZER,
    UNITS,
    Recipe,
    captions_of,
    corpora_of,
    units_of,
)
from im2sp.train.tasks.backbone_tuning import BackboneTask, DevWords
from im2sp.train.tasks.tagger import TaggerTask
from im2sp.train.trainer import train


def make_maps(recipe: Recipe, out: Path) -> None:
    """Encode all photos by the part of the backbone that stays as it is."""
    extract_maps(corpora_of(recipe).photos, recipe.views, recipe.backbone, out)


def make_backbone(recipe: Recipe, out: Path) -> None:
    """Tune the late part of the backbone on the words of captions, objects and classes of samples."""
    corpora = corpora_of(recipe)
    maps = PhotoArrays(recipe.runs / MAPS, recipe.views)
    described = captions_of(corpora)
    words = frequent_words(described, caption_tokenizer(corpora), recipe.backbone_tuning.min_photos)
    torch.manual_seed(recipe.seed)
    late = ImageBackbone.pretrained(recipe.backbone).late
    dev = {
        name: DevWords(list(part), (word_targets(part, words) == 1).astype(np.float32))
        for name, part in ((name, dict(list(part.items())[:300])) for name, part in corpora.dev.items())
    }
    task = BackboneTask(
        recipe.backbone_tuning,
        late,
        classifier(recipe.backbone),
        maps,
        list(described),
        word_targets(described, words),
        _labelled(corpora, described, words),
        dev,
    )
    train(task, out)
    if is_main_process():
        save_file({name: value.contiguous() for name, value in late.state_dict().items()}, out / LATE)


def make_features(recipe: Recipe, out: Path) -> None:
    """Encode the maps of all photos by the tuned part of the backbone."""
    late = ImageBackbone.pretrained(recipe.backbone, recipe.runs / BACKBONE / LATE).late
    write_features(late, recipe.runs / MAPS, recipe.views, out)


def make_units(recipe: Recipe, out: Path) -> None:
    """Fit the image units on photos that train, and write the units of all."""
    corpora = corpora_of(recipe)
    features = PhotoArrays(recipe.runs / FEATURES, recipe.views[:1])
    tokenizer = caption_tokenizer(corpora)
    described = captions_of(corpora)
    words = frequent_words(described, tokenizer, recipe.tagger.min_photos)
    means = np.concatenate(
        [features.batch([photo]).astype(np.float32).mean(1) for photo in described]  # one by one: not all fit in memory
    )
    model = ImageUnits(recipe.image_units)
    weight, bias = classifier(recipe.backbone)
    model.class_weight.data.copy_(weight)
    model.class_bias.copy_(bias)
    model.fit_projection(torch.from_numpy(means), torch.from_numpy(word_targets(described, words)))
    count = min(len(corpora.train_photos), max(recipe.image_units.size, recipe.unit_cells // recipe.image_units.cells))
    chosen = np.random.default_rng(recipe.seed).choice(corpora.train_photos, count, replace=False)
    some = torch.from_numpy(features.batch([str(photo) for photo in chosen]).astype(np.float32))
    left = model.fit(some.flatten(0, 1), some, recipe.seed)
    model.save(out)
    (out / CODES).mkdir(exist_ok=True)
    write_units(model, recipe.runs / FEATURES, recipe.views, out / CODES)
    write_json(out / "report.json", {"bits": recipe.image_units.bits, "variance_left": left})


def make_tagger(recipe: Recipe, out: Path) -> None:
    """Train the tagger on captions, objects and classes of samples."""
    corpora, units = corpora_of(recipe), units_of(recipe)
    tokenizer = caption_tokenizer(corpora)
    described = captions_of(corpora)
    words = frequent_words(described, tokenizer, recipe.tagger.min_photos)
    config = TaggerConfig(len(words), tokenizer.size, recipe.tagger.tags)
    model = Tagger(config, recipe.image_units)
    model.image_units = ImageUnits.load(recipe.runs / UNITS)
    model.word_tokens.copy_(torch.tensor(tokenizer.tokens_of(words)))
    for row, name in enumerate(corpora.class_names):
        tokens = tokenizer.tokens_of(content_words(name))[: config.class_words]
        model.class_tokens[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    inputs = [tagger_inputs(model, units, view) for view in range(units.views)]
    model.normalise(inputs[0])
    task = TaggerTask(
        recipe.tagger,
        model,
        inputs,
        np.array([units.rows[photo] for photo in described]),
        word_targets(described, words),
        {units.rows[photo]: columns for photo, columns in _labelled(corpora, described, words).items()},
    )
    train(task, out)
    model.save(out)
    tokenizer.save(out / TOKENIZER)


@torch.inference_mode()
def tagger_inputs(model: Tagger, units: PhotoArrays, view: int) -> torch.Tensor:
    """What the linear layer of a tagger takes, of all photos in one view: float32 [photos, inputs]."""
    photos = list(units.rows)
    chunks = [photos[start : start + 512] for start in range(0, len(photos), 512)]
    return torch.cat([model.inputs(units.units(chunk, view)) for chunk in chunks]).clone()


def _labelled(corpora: PhotoCorpora, described: Mapping[str, Any], words: list[str]) -> dict[str, list[int]]:
    """Photo without captions -> columns of the words of its objects or its class."""
    column = {word: number for number, word in enumerate(words)}
    known = {photo: caption_words(" ".join(names)) for photo, names in corpora.objects.items()} | corpora.samples
    return {
        photo: [column[word] for word in said if word in column]
        for photo, said in known.items()
        if photo in corpora.photos and photo not in described and photo not in corpora.held_out
    }
