"""Options of the recipe, the folders of its stages and what they read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from im2sp.bundle import Bundle, find_bundle
from im2sp.train.data.object_names import named_objects, read_synonyms
from im2sp.train.data.photo_corpora import KIND_CLASSES, Captions, PhotoCorpora, caption_words, read_photo_corpora
from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.data.pseudo_labels import PseudoLabels
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.words import FUNCTION_WORDS, singular
from im2sp.train.evaluate.calibration import CalibrationOptions
from im2sp.train.export import BundleOptions
from im2sp.train.lexicon.asr_feedback import AsrFeedbackConfig
from im2sp.train.lexicon.pronunciations import VocabularyOptions
from im2sp.train.models.image_backbone import BackboneConfig
from im2sp.train.models.image_units import ImageUnitsConfig
from im2sp.train.models.naming import Naming, NamingOptions
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.stages import BaseRecipe
from im2sp.train.tasks.backbone_tuning import BackboneTuning
from im2sp.train.tasks.captioner import CaptionerTraining
from im2sp.train.tasks.tagger import TaggerTraining

# folders of the stages
MAPS, BACKBONE, FEATURES, UNITS = "maps", "backbone", "features", "image_units"
TAGGER, PSEUDO, TEACHERS, CAPTIONER, REPORT = "tagger", "pseudo_labels", "teachers", "text_captioner", "report"
DISTILLED, VOCABULARY, FEEDBACK, ABLATION = "distilled", "vocabulary", "asr_feedback", "ablation"
BUNDLE, CALIBRATED = "bundle", "calibrated"
LATE = "late.safetensors"  # tuned part of the backbone
CODES = "codes"  # in the folder of the image units: those of all photos
TOKENIZER, LABELS = "tokenizer.json", "captions.json"
SUBWORDS = "subwords.json"  # units of those that the ASR feedback changed
SYNONYMS = "coco/object_synonyms.txt"
PSEUDO_CORPUS = "pseudo"  # its name among the corpora


@dataclass(frozen=True)
class DecoderOptions:
    """Section [decoder]: sizes of the text captioner."""

    width: int = 256
    layers: int = 3
    heads: int = 4
    feed_forward: int = 1024
    max_positions: int = 32
    dropout: float = 0.1
    image_dropout: float = 0.1
    word_vectors: bool = True  # start from word vectors of all captions


@dataclass(frozen=True)
class DistillationOptions:
    """Section [distillation]: what the teachers say of photos that train, for the captioner to learn."""

    hypotheses: int = 3  # of the beam that are kept
    repeats: int = 2  # how often a hypothesis counts, compared with a caption of people


@dataclass(frozen=True)
class AblationOptions:
    """Section [ablation]."""

    seeds: int = 0  # runs of each kind; 0 leaves the ablation out
    text: CaptionerTraining = field(default_factory=lambda: CaptionerTraining(steps=250, warm_up=25, tag_swap=0.0))
    units: CaptionerTraining = field(
        default_factory=lambda: CaptionerTraining(steps=200, warm_up=20, photos=32, ema_decay=0.98, tag_swap=0.0)
    )
    photos: int = 300  # of each held-out part


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Options of a captioner."""

    lists: Path = Path("recipes/captioner")  # folder of things.txt and imagenet_classes.txt
    views: tuple[str, ...] = ("whole", "crop1")
    unit_cells: int = 96_000  # on which the codebooks are fitted
    corpus_weights: dict[str, float] = field(default_factory=lambda: {"coco": 3.0, "coco_machine": 3.0})
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    backbone_tuning: BackboneTuning = field(default_factory=BackboneTuning)
    image_units: ImageUnitsConfig = field(default_factory=ImageUnitsConfig)
    tagger: TaggerTraining = field(default_factory=TaggerTraining)
    pseudo_labels: PseudoLabels = field(default_factory=PseudoLabels)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    teachers: int = 3  # text captioners that are alike but for their seed
    teacher: CaptionerTraining = field(default_factory=CaptionerTraining)
    captioner: CaptionerTraining = field(default_factory=lambda: CaptionerTraining(learning_rate=8e-4, tag_swap=0.0))
    beam: int = 3
    naming: NamingOptions = field(default_factory=NamingOptions)
    voice: str = "default"  # a bundle, whose graphs of the voice are used as they are
    lexicon: Path = Path("recipes/captioner/lexicon.parquet")  # of that voice, from a recipe of that kind
    pronunciations: Path = Path("recipes/captioner/asr_feedback.parquet")  # of words, chosen by earlier ASR feedback
    vocabulary: VocabularyOptions = field(default_factory=VocabularyOptions)
    distillation: DistillationOptions = field(default_factory=DistillationOptions)
    asr_feedback: AsrFeedbackConfig = field(default_factory=AsrFeedbackConfig)  # on the ways to say the tokens
    ablation: AblationOptions = field(default_factory=AblationOptions)
    bundle: BundleOptions = field(default_factory=BundleOptions)
    tagger_rank: int = 256  # of its matrix in the bundle
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    calibration_photos: int = 300  # of each held-out part, at most; 0 leaves the confidence out


@cache
def _read(data: Path, lists: Path) -> PhotoCorpora:
    return read_photo_corpora(data, lists)


def corpora_of(recipe: Recipe) -> PhotoCorpora:
    """Photos and what is known of them, read once."""
    return _read(recipe.data, recipe.lists)


def captions_of(corpora: PhotoCorpora) -> Captions:
    """Captions of all photos that train, corpora joined."""
    found: Captions = {}
    for captions in corpora.captions.values():
        for photo, texts in captions.items():
            found[photo] = found.get(photo, []) + texts
    return found


def class_names(recipe: Recipe) -> list[str]:
    """The word that names each class of the image classifier; "" where captions teach the decoder to say it.

    They teach objects of COCO, animals by their kind, and frequent words.
    """
    corpora = corpora_of(recipe)
    texts = (text for said in captions_of(corpora).values() for text in said)
    held = Counter(word for text in texts for word in {singular(word) for word in caption_words(text)})
    words = [caption_words(name)[-1] for name in corpora.class_names]
    synonyms = read_synonyms(recipe.data / SYNONYMS)
    return [
        ""
        if place in KIND_CLASSES or held[singular(word)] >= recipe.naming.max_captions or named_objects(word, synonyms)
        else word
        for place, word in enumerate(words)
    ]


def naming_of(recipe: Recipe, model: UnitCaptioner, token_of: Mapping[str, int]) -> Naming | None:
    """Naming for a captioner.

    Args:
        token_of: tokens of its words.
    """
    if not recipe.naming.bonus:
        return None
    tokenizer, synonyms = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER), read_synonyms(recipe.data / SYNONYMS)
    words = [[token_of[name]] if name in token_of else [] for name in class_names(recipe)]
    known = [tokenizer.decode([token]) for token in model.tagger.word_tokens.tolist()]
    objects = [place for place, word in enumerate(known) if named_objects(word, synonyms)]
    return Naming(model.tagger, words, objects, model.config.vocabulary_size, recipe.naming)


def presence_penalty(recipe: Recipe, tokenizer: TextTokenizer) -> Tensor | None:
    """Return what the bundle's decoding takes from words that were said: float32 [words], 0 for function words."""
    if not recipe.bundle.presence_penalty:
        return None
    content = [token for word, token in tokenizer.words.items() if word not in FUNCTION_WORDS]
    return torch.zeros(tokenizer.size).index_fill(0, torch.tensor(content), recipe.bundle.presence_penalty)


def read_labels(recipe: Recipe, stage: str) -> Captions:
    """Captions of photos that a stage made."""
    found: Captions = json.loads((recipe.runs / stage / LABELS).read_text())
    return found


def voice_of(recipe: Recipe) -> Bundle:
    """The bundle whose voice speaks."""
    return Bundle.load(find_bundle(recipe.voice))


def teachers_of(recipe: Recipe) -> list[UnitCaptioner]:
    """The text captioners that teach."""
    return [UnitCaptioner.load(recipe.runs / TEACHERS / str(number)) for number in range(recipe.teachers)]


def units_of(recipe: Recipe) -> PhotoArrays:
    """Image units of all photos in all views."""
    return PhotoArrays(recipe.runs / UNITS / CODES, recipe.views)
