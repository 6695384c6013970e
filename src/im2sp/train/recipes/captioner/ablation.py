"""The paper's claims on this model: {from the text captioner, from scratch} x {features, image units}, several seeds.

All else is alike: the decoder, the tags, the sentences and the budget. "Features" are what the image units describe,
projected cells and class probabilities, before they are quantised.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.files import write_json
from im2sp.train.data.caption_targets import MAX_WORDS, Target, encode
from im2sp.train.data.object_names import read_synonyms
from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.data.text_tokenizer import BOS, EOS, TextTokenizer
from im2sp.train.data.unit_words import WORD_VOCABULARY, WordVocabulary
from im2sp.train.evaluate.dev_report import dev_report, write_captions
from im2sp.train.launch import is_main_process
from im2sp.train.models.image_units import FLOOR, ImageUnits
from im2sp.train.models.tagger import Tagger
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.recipes.captioner import options as names
from im2sp.train.recipes.captioner.options import Recipe, corpora_of
from im2sp.train.recipes.captioner.words import new_text_captioner, targets_of, word_vectors_of
from im2sp.train.tasks.captioner import CaptionerTask
from im2sp.train.trainer import train

log = logging.getLogger(__name__)

MAX_TOKENS = 32  # of a caption in units


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


@dataclass(frozen=True)
class UnitVocabulary:
    """Units of the lexicon as tokens: each way to say a word has its own, and so have silences."""

    words: WordVocabulary
    spoken: Vocabulary
    said: list[int]  # token of `words` that each way says

    @classmethod
    def of(cls, words: WordVocabulary) -> UnitVocabulary:
        """Make tokens of the ways of `words`."""
        return cls(words, Vocabulary(words.spoken), words.token_of_subwords())

    def encode(self, text: str) -> list[int] | None:
        """Caption -> tokens with BOS and EOS, cut after MAX_WORDS; None when a word is not known."""
        tokens = self.words.encode(text)
        return tokens and [BOS, *(SPECIAL_TOKENS + way for way in self.spoken.pronounce(tokens[:MAX_WORDS])), EOS]

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens -> the words that they say."""
        return self.words.decode(self.said[token - SPECIAL_TOKENS] for token in tokens if token >= SPECIAL_TOKENS)

    def words_and_shares(self, tokenizer: TextTokenizer, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """Token of a text captioner that each token says, -1 for none; and how much of that word it says."""
        uses = Counter(token for target in targets for sentence in target.sentences for token in sentence)
        said = (tokenizer.tokens_of([self.words.decode([token])]) or [-1] for token in self.said)
        words = torch.tensor([-1, BOS, EOS, *(token for (token,) in said)])
        counts = torch.tensor([1.0 + uses[token] for token in range(len(words))])
        places = words.clamp(min=0)  # what says no word shares a place that is not used
        totals = torch.zeros(tokenizer.size).index_add(0, places, counts)
        return words, counts / totals[places]


def make_ablation(recipe: Recipe, out: Path) -> None:
    """Train and score all runs; a run that is done is not made again."""
    tokenizer = TextTokenizer.load(recipe.runs / names.TAGGER / names.TOKENIZER)
    vectors = word_vectors_of(recipe, tokenizer)
    written = targets_of(recipe, partial(encode, tokenizer=tokenizer))
    vocabulary = UnitVocabulary.of(WordVocabulary.load(recipe.runs / WORD_VOCABULARY))
    said = targets_of(recipe, vocabulary.encode)
    words, shares = vocabulary.words_and_shares(tokenizer, said)
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
        for transferred in (True, False):
            for seed in range(recipe.seed, recipe.seed + recipe.ablation.seeds):
                torch.manual_seed(seed)
                model = UnitCaptioner(
                    replace(text.config, vocabulary_size=len(words), max_positions=MAX_TOKENS), tagger
                )
                if transferred:
                    model.start_from(text, words, shares)
                else:
                    model.separate_tags(tagger.config.vocabulary_size)
                key = f"{name}, {'from the text captioner' if transferred else 'from scratch'}, seed {seed}"
                options = replace(recipe.ablation.units, seed=seed)
                train(CaptionerTask(options, model, units, said, {}), out / key)
                found[key] = _cider(recipe, model, units, vocabulary)
                log.info("%s: %s", key, found[key])
    if is_main_process():
        write_json(out / "report.json", {"options": asdict(recipe.ablation), "cider": found})


def _cider(recipe: Recipe, model: UnitCaptioner, units: PhotoArrays, vocabulary: UnitVocabulary) -> dict[str, float]:
    """CIDEr of the words of a unit captioner's tokens on each held-out part."""
    corpora = corpora_of(recipe)
    photos = [photo for part in corpora.dev.values() for photo in list(part)[: recipe.ablation.photos]]
    hypotheses = write_captions([model], vocabulary.decode, units, photos, recipe.beam, max_tokens=MAX_TOKENS)
    captions = {photo: best for photo, (best, *_) in hypotheses.items()}
    report = dev_report(captions, corpora, read_synonyms(recipe.data / names.SYNONYMS))
    return {name: row["cider"] for name, row in report.items() if "cider" in row}
