"""The paper's claims on this model: {from the text captioner, from scratch} x {features, image units}, several seeds.

All else is alike: the decoder, the tags, the sentences and the budget. "Features" are what the image units describe,
projected cells and class probabilities, before they are quantised.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from im2sp.files import write_json
from im2sp.train.data.object_names import read_synonyms
from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.unit_words import TokenWords, words_of_tokens
from im2sp.train.evaluate.dev_report import dev_report, write_captions
from im2sp.train.launch import is_main_process
from im2sp.train.models.image_units import FLOOR, ImageUnits
from im2sp.train.models.tagger import Tagger
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.recipes.captioner import options as names
from im2sp.train.recipes.captioner.options import Recipe, corpora_of
from im2sp.train.recipes.captioner.speech import new_unit_captioner, spoken_targets
from im2sp.train.recipes.captioner.words import new_text_captioner, targets_of, word_vectors_of
from im2sp.train.tasks.captioner import CaptionerTask
from im2sp.train.trainer import train

log = logging.getLogger(__name__)


class Unquantised(ImageUnits):
    """Image units in name: takes features float32 [B, cells, image_width] in place of units."""

    def embed(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Features -> (cells float32 [B, cells, width], class log-probabilities [B, class_count])."""
        logits = F.linear(units.mean(1), self.class_weight, self.class_bias)
        return self.project(units), logits.softmax(-1).clamp(min=FLOOR).log()


class PhotoFeatures(PhotoArrays):
    """Features of photos where units are asked for."""

    def units(self, photos: Sequence[str], views: Sequence[int] | int = 0) -> Tensor:
        """Features float32 [B, cells, image_width]."""
        return torch.from_numpy(self.batch(photos, views).astype(np.float32))


def make_ablation(recipe: Recipe, out: Path) -> None:
    """Train and score all runs; a run that is done is not made again."""
    tokenizer = TextTokenizer.load(recipe.runs / names.TAGGER / names.TOKENIZER)
    vectors, written = word_vectors_of(recipe, tokenizer), targets_of(recipe, tokenizer)
    folder = recipe.runs / names.VOCABULARY
    words = TokenWords.load(folder / names.TOKEN_WORDS)
    said = spoken_targets(recipe, json.loads((folder / names.SENTENCES).read_text()))
    inputs = {
        "features": (Unquantised, PhotoFeatures(recipe.runs / names.FEATURES, recipe.views)),
        "image units": (ImageUnits, PhotoArrays(recipe.runs / names.UNITS / names.CODES, recipe.views)),
    }
    found = {}
    for name, (kind, units) in inputs.items():
        tagger = Tagger.load(recipe.runs / names.TAGGER)
        tagger.image_units = kind.load(recipe.runs / names.TAGGER / "image_units")
        text = new_text_captioner(recipe, tokenizer, tagger, vectors, recipe.seed)
        train(CaptionerTask(recipe.ablation.text, text, units, written, {}), out / name / "text")
        for start, knows in (("from the text captioner", text), ("from scratch", None)):
            for seed in range(recipe.seed, recipe.seed + recipe.ablation.seeds):
                torch.manual_seed(seed)
                model = new_unit_captioner(recipe, tagger, words, knows)
                options = replace(recipe.ablation.units, seed=seed)
                train(CaptionerTask(options, model, units, said, {}), out / name / start / str(seed))
                key = f"{name}, {start}, seed {seed}"
                found[key] = _cider(recipe, model, units)
                log.info("%s: %s", key, found[key])
    if is_main_process():
        write_json(out / "report.json", {"options": asdict(recipe.ablation), "cider": found})


def _cider(recipe: Recipe, model: UnitCaptioner, units: PhotoArrays) -> dict[str, float]:
    """CIDEr of the words of a unit captioner's tokens on each held-out part."""
    corpora, decode = corpora_of(recipe), words_of_tokens(recipe.runs)
    photos = [photo for part in corpora.dev.values() for photo in list(part)[: recipe.ablation.photos]]
    hypotheses = write_captions([model], decode, units, photos, recipe.beam, max_tokens=recipe.max_tokens)
    captions = {photo: best for photo, (best, *_) in hypotheses.items()}
    report = dev_report(captions, corpora, read_synonyms(recipe.data / names.SYNONYMS))
    return {name: row["cider"] for name, row in report.items() if "cider" in row}
