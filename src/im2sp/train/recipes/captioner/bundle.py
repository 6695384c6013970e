"""Captioner, vocabulary and voice -> bundle with its confidence."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from torch import nn

from im2sp.bundle import SPECIAL_TOKENS, Bundle, VocabularyConfig
from im2sp.bundle import ImageUnitsConfig as ImageUnitsLayout
from im2sp.captioner import Captioner
from im2sp.files import write_json
from im2sp.train.data.object_names import read_synonyms
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig
from im2sp.train.data.text_tokenizer import BOS, EOS, TextTokenizer
from im2sp.train.data.unit_words import WORD_VOCABULARY, WordVocabulary, words_of_tokens
from im2sp.train.data.words import FUNCTION_WORDS
from im2sp.train.evaluate.calibration import calibrate
from im2sp.train.evaluate.chair import ObjectLabels
from im2sp.train.evaluate.photo_sets import PhotoSet
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.export import BundleParts, ImageModules, export_bundle
from im2sp.train.image_encoders import UNKNOWN_CHECKSUM, image_config
from im2sp.train.lexicon.lexicon import PronunciationLexicon
from im2sp.train.lexicon.phrases import ABSTAIN, HEDGE, speak_phrase
from im2sp.train.models.image_backbone import ImageBackbone
from im2sp.train.models.naming import WordEvidence
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.recipes.captioner.options import (
    BACKBONE,
    BUNDLE,
    CAPTIONER,
    FEEDBACK,
    LATE,
    SUBWORDS,
    SYNONYMS,
    TAGGER,
    TOKENIZER,
    Recipe,
    corpora_of,
    naming_of,
    units_of,
    voice_of,
)

FOLDER = "bundle"  # in the folder of a stage
TRAINING_PHOTOS = 400  # that tell what a photo is
TAGGED_PHOTOS = 6000  # that tell what of the tagger matters


class _Tokenizer(nn.Module):
    """Normalised pixels float32 [B, 3, H, W] -> image units int64 [B, units]."""

    def __init__(self, backbone: nn.Module, units: nn.Module) -> None:
        super().__init__()
        self.backbone, self.units = backbone, units

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        units: torch.Tensor = self.units(self.backbone(pixels))
        return units


def make_bundle(recipe: Recipe, out: Path) -> None:
    """Export tokenizer, captioner and the voice of a bundle."""
    corpora, vocabulary = corpora_of(recipe), WordVocabulary.load(recipe.runs / WORD_VOCABULARY)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    words = torch.tensor([-1, BOS, EOS, *tokenizer.tokens_of(vocabulary.words)])  # of each token
    model = _speaking(recipe, words)
    units = model.tagger.image_units
    backbone = ImageBackbone.pretrained(recipe.backbone, recipe.runs / BACKBONE / LATE)
    sizes, grid = units.config, (recipe.backbone.grid, recipe.backbone.grid)
    layout = ImageUnitsLayout(
        kind="semantic",
        tokenizer=f"{recipe.bundle.name} {recipe.bundle.version}",
        checksum=UNKNOWN_CHECKSUM,
        grid=grid,
        codes=sizes.levels,
        codebook_size=sizes.size,
        photo_codebooks=(*[sizes.class_count] * sizes.classes, sizes.size),
    )
    image = image_config(recipe.backbone, image_tokens=1 + model.tagger.config.tags + sizes.cells)
    naming = naming_of(recipe, model, vocabulary.token_of)
    photos = random.Random(recipe.seed).sample(corpora.train_photos, min(TAGGED_PHOTOS, len(corpora.train_photos)))
    tags = model.compact(recipe.tagger_rank, units_of(recipe).units(photos))
    places = torch.searchsorted(tags, words).clamp(max=len(tags) - 1)
    content = [False] * SPECIAL_TOKENS + [word not in FUNCTION_WORDS for word in vocabulary.words]
    evidence = WordEvidence(model.tagger, places * (tags[places] == words), torch.tensor(content))
    parts = BundleParts(
        ImageModules(
            image, nn.Identity(), _Tokenizer(backbone, units), layout, token_bonus=naming, token_evidence=evidence
        ),
        model,
        _understood(recipe, vocabulary.spoken),
        voice_of(recipe),
    )
    export_bundle(parts, recipe.bundle, _facts(recipe), out / FOLDER)


def _speaking(recipe: Recipe, words: torch.Tensor) -> UnitCaptioner:
    """The text captioner with these words as tokens, which the voice can say."""
    text = UnitCaptioner.load(recipe.runs / CAPTIONER)
    model = UnitCaptioner(replace(text.config, vocabulary_size=len(words)), text.tagger)
    model.start_from(text, words, torch.ones(len(words)))
    return model.eval()


def _understood(recipe: Recipe, spoken: VocabularyConfig) -> VocabularyConfig:
    """The vocabulary with what the ASR feedback changed."""
    if not recipe.asr_feedback.sentences:
        return spoken
    path = recipe.runs / FEEDBACK / SUBWORDS
    changed = msgspec.json.decode(path.read_bytes(), type=dict[int, list[int]])
    subwords = [changed.get(number, units) for number, units in enumerate(spoken.subwords)]
    return msgspec.structs.replace(spoken, subwords=subwords)


def _facts(recipe: Recipe) -> dict[str, str | int | float]:
    """What the bundle was trained on."""
    corpora = corpora_of(recipe)
    counts = {name: sum(map(len, part.values())) for name, part in corpora.captions.items()}
    return {
        "photos": len(corpora.train_photos),
        "captions_by_people": counts["flickr8k"] + counts["coco"],
        "captions_by_vinvl": counts["coco_machine"],
        "captions_of_other_photos": len(corpora.text),
        "photos_with_known_objects": len(corpora.objects.keys() - corpora.held_out),
        "imagenet_samples": len(corpora.samples),
        "image_backbone": f"{recipe.backbone.name}, ImageNet weights, last stages tuned on words of captions",
        "lexicon": "pronunciations of a synthetic voice (piper-joe) in units, from its phones",
        "voice": recipe.voice,
        "recipe": "recipes/captioner",
        "seed": recipe.seed,
    }


def make_calibrated(recipe: Recipe, out: Path) -> None:
    """Calibrate the confidence of the bundle on held-out photos; write the report beside it."""
    corpora, folder = corpora_of(recipe), out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(recipe.runs / BUNDLE / FOLDER, folder)
    sets = {
        name: PhotoSet({photo: corpora.photos[photo] for photo in part}, part) for name, part in corpora.dev.items()
    }
    sets["things"] = PhotoSet({photo: corpora.photos[photo] for photo in corpora.things}, {}, corpora.things)
    sets = {name: photos.sample(recipe.calibration_photos, recipe.seed) for name, photos in sets.items()}
    some = random.Random(recipe.seed).sample(corpora.train_photos, min(TRAINING_PHOTOS, len(corpora.train_photos)))
    words_of = words_of_tokens(recipe.runs)
    captioner, voice = Captioner(Bundle.load(folder), threads=1), PiperSynthesizer(SynthesisConfig())
    recogniser, lexicon = open_recogniser("base"), PronunciationLexicon.load(recipe.lexicon)
    phrases = {
        name: speak_phrase(texts, captioner, voice, recogniser, lexicon)
        for name, texts in (("abstain", ABSTAIN), ("hedge", HEDGE))
    }
    labels = ObjectLabels(corpora.objects, read_synonyms(recipe.data / SYNONYMS))
    report = calibrate(
        folder,
        sets,
        [corpora.photos[photo] for photo in some],
        words_of,
        phrases,
        labels,
        recipe.calibration,
        threads=torch.get_num_threads(),
    )
    write_json(out / "report.json", report)
