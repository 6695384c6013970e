"""Recipe of a captioner: photos with captions -> image units, tagger, text captioner.

`data` holds the folders flickr8k, coco, coco_unlabelled and imagenet_samples.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from im2sp.files import atomic_write
from im2sp.train.data.caption_targets import (
    Target,
    caption_tokenizer,
    content_words,
    encode,
    frequent_words,
    targets,
    word_targets,
    word_vectors,
)
from im2sp.train.data.object_names import named_objects, read_synonyms
from im2sp.train.data.photo_corpora import Captions, PhotoCorpora, caption_words, class_phrases, read_photo_corpora
from im2sp.train.data.photo_units import PhotoArrays, extract_features, write_units
from im2sp.train.data.pseudo_labels import PseudoLabels, pseudo_labels
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.tiny_photo_corpora import write_tiny_photo_corpora
from im2sp.train.evaluate.dev_report import dev_report, write_captions
from im2sp.train.launch import is_main_process
from im2sp.train.models.git import GitDecoderConfig
from im2sp.train.models.image_backbone import BackboneConfig, classifier
from im2sp.train.models.image_units import ImageUnits, ImageUnitsConfig
from im2sp.train.models.tagger import Tagger, TaggerConfig
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.stages import BaseRecipe, Stage
from im2sp.train.tasks.captioner import CaptionerTask, CaptionerTraining
from im2sp.train.tasks.cider_reward import CiderD
from im2sp.train.tasks.scst import CaptionReward, ScstTask, ScstTraining
from im2sp.train.tasks.tag_swap import TagSwap
from im2sp.train.tasks.tagger import TaggerTask, TaggerTraining
from im2sp.train.trainer import train

log = logging.getLogger(__name__)

FEATURES, UNITS, TAGGER, PSEUDO, CAPTIONER, SCST, REPORT = (
    "features", "image_units", "tagger", "pseudo_labels", "text_captioner", "text_captioner_scst", "report",
)  # fmt: skip
CODES = "codes"  # in the folder of the image units: those of all photos
TOKENIZER, LABELS = "tokenizer.json", "captions.json"
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
class Recipe(BaseRecipe):
    """Options of a captioner."""

    lists: Path = Path("recipes/captioner")  # folder of things.txt and imagenet_classes.txt
    views: tuple[str, ...] = ("whole", "crop1")
    unit_cells: int = 96_000  # on which the codebooks are fitted
    corpus_weights: dict[str, float] = field(default_factory=lambda: {"coco": 3.0, "coco_machine": 3.0})
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    image_units: ImageUnitsConfig = field(default_factory=ImageUnitsConfig)
    tagger: TaggerTraining = field(default_factory=TaggerTraining)
    pseudo_labels: PseudoLabels = field(default_factory=PseudoLabels)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    captioner: CaptionerTraining = field(default_factory=CaptionerTraining)
    scst: ScstTraining = field(default_factory=ScstTraining)
    beam: int = 3


@cache
def _read(data: Path, lists: Path) -> PhotoCorpora:
    return read_photo_corpora(data, lists)


def _corpora(recipe: Recipe) -> PhotoCorpora:
    return _read(recipe.data, recipe.lists)


def _described(corpora: PhotoCorpora) -> Captions:
    """Captions of all photos that train, corpora joined."""
    found: Captions = {}
    for captions in corpora.captions.values():
        for photo, texts in captions.items():
            found[photo] = found.get(photo, []) + texts
    return found


def make_features(recipe: Recipe, out: Path) -> None:
    """Extract the features of all photos."""
    extract_features(_corpora(recipe).photos, recipe.views, recipe.backbone, out)


def make_units(recipe: Recipe, out: Path) -> None:
    """Fit the image units on photos that train, and write the units of all."""
    corpora = _corpora(recipe)
    features = PhotoArrays(recipe.runs / FEATURES, recipe.views[:1])
    tokenizer = caption_tokenizer(corpora)
    described = _described(corpora)
    words = frequent_words(described, tokenizer, recipe.tagger.min_photos)
    means = np.concatenate(
        [features.batch([photo]).astype(np.float32).mean(1) for photo in described]  # one by one: not all fit in memory
    )
    model = ImageUnits(recipe.image_units)
    model.class_weight, model.class_bias = classifier(recipe.backbone)
    model.fit_projection(torch.from_numpy(means), torch.from_numpy(word_targets(described, words)))
    train_photos = sorted(set(corpora.photos) - corpora.held_out)
    count = min(len(train_photos), max(recipe.image_units.size, recipe.unit_cells // recipe.image_units.cells))
    chosen = np.random.default_rng(recipe.seed).choice(train_photos, count, replace=False)
    some = torch.from_numpy(features.batch([str(photo) for photo in chosen]).astype(np.float32))
    left = model.fit(some.flatten(0, 1), some, recipe.seed)
    model.save(out)
    (out / CODES).mkdir(exist_ok=True)
    write_units(model, recipe.runs / FEATURES, recipe.views, out / CODES)
    (out / "report.json").write_text(json.dumps({"bits": recipe.image_units.bits, "variance_left": left}))


def _units(recipe: Recipe) -> PhotoArrays:
    return PhotoArrays(recipe.runs / UNITS / CODES, recipe.views)


def make_tagger(recipe: Recipe, out: Path) -> None:
    """Train the tagger on captions, objects and classes of samples."""
    corpora, units = _corpora(recipe), _units(recipe)
    tokenizer = caption_tokenizer(corpora)
    described = _described(corpora)
    words = frequent_words(described, tokenizer, recipe.tagger.min_photos)
    config = TaggerConfig(len(words), tokenizer.size, recipe.tagger.tags)
    model = Tagger(config, recipe.image_units)
    model.image_units = ImageUnits.load(recipe.runs / UNITS)
    model.word_tokens.copy_(torch.tensor(tokenizer.tokens_of(words)))
    for row, name in enumerate(corpora.class_names):
        tokens = tokenizer.tokens_of(content_words(name))[: config.class_words]
        model.class_tokens[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    inputs = [_tagger_inputs(model, units, view) for view in range(units.views)]
    model.input_mean.copy_(inputs[0].mean(0))
    model.input_std.copy_(inputs[0].std(0) + 1e-3)
    task = TaggerTask(
        recipe.tagger,
        model,
        inputs,
        np.array([units.rows[photo] for photo in described]),
        word_targets(described, words),
        _labelled(corpora, described, units, words),
    )
    train(task, out)
    model.save(out)
    tokenizer.save(out / TOKENIZER)


@torch.inference_mode()
def _tagger_inputs(model: Tagger, units: PhotoArrays, view: int) -> torch.Tensor:
    photos = list(units.rows)
    chunks = [photos[start : start + 512] for start in range(0, len(photos), 512)]
    return torch.cat([model.inputs(units.units(chunk, view)) for chunk in chunks]).clone()


def _labelled(
    corpora: PhotoCorpora, described: Mapping[str, Any], units: PhotoArrays, words: list[str]
) -> dict[int, list[int]]:
    """Row of a photo -> columns of the words of its objects or its class."""
    column = {word: number for number, word in enumerate(words)}
    known = {photo: caption_words(" ".join(names)) for photo, names in corpora.objects.items()} | corpora.samples
    return {
        units.rows[photo]: [column[word] for word in said if word in column]
        for photo, said in known.items()
        if photo in units.rows and photo not in described and photo not in corpora.held_out
    }


def make_pseudo_labels(recipe: Recipe, out: Path) -> None:
    """Choose captions for photos with known objects and no captions."""
    corpora, units = _corpora(recipe), _units(recipe)
    model = Tagger.load(recipe.runs / TAGGER)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    known = _described(corpora).keys() | corpora.held_out
    wanted = {p: names for p, names in corpora.objects.items() if p in units.rows and p not in known and names}
    with torch.inference_mode():
        logits = model(_tagger_inputs(model, units, 0)).sigmoid()
    lift = (logits.clamp(min=1e-6).log() - logits.mean(0).log()).clamp(-2, 4).numpy()
    found = pseudo_labels(
        wanted,
        corpora.text,
        {photo: lift[units.rows[photo]] for photo in wanted},
        [tokenizer.decode([token]) for token in model.word_tokens.tolist()],
        read_synonyms(recipe.data / SYNONYMS),
        recipe.pseudo_labels,
    )
    with atomic_write(out / LABELS) as temporary:
        temporary.write_text(json.dumps(found, indent=0))
    log.info("pseudo-labels: %d of %d photos", len(found), len(wanted))


def _targets(recipe: Recipe, tokenizer: TextTokenizer) -> list[Target]:
    corpora = _corpora(recipe)
    labels = json.loads((recipe.runs / PSEUDO / LABELS).read_text())
    captions = corpora.captions | {PSEUDO_CORPUS: labels}
    return targets(captions, recipe.corpus_weights, corpora.held_out, tokenizer)


def make_captioner(recipe: Recipe, out: Path) -> None:
    """Train the text captioner by cross-entropy."""
    corpora = _corpora(recipe)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    torch.manual_seed(recipe.seed)
    sizes = {name: value for name, value in asdict(recipe.decoder).items() if name != "word_vectors"}
    tagger = Tagger.load(recipe.runs / TAGGER)
    model = UnitCaptioner(GitDecoderConfig(vocabulary_size=tokenizer.size, **sizes), tagger)
    if recipe.decoder.word_vectors:
        texts = [text for texts in _described(corpora).values() for text in texts]
        texts += [caption.text for caption in corpora.text]
        model.set_word_vectors(word_vectors(texts, tokenizer, recipe.decoder.width, recipe.seed))
    dev = {
        name: [Target(photo, [encode(text, tokenizer) for text in texts], 1.0) for photo, texts in part.items()][:300]
        for name, part in corpora.dev.items()
    }
    swap = TagSwap.of(corpora, tokenizer, recipe.captioner.tag_swap) if recipe.captioner.tag_swap else None
    train(CaptionerTask(recipe.captioner, model, _units(recipe), _targets(recipe, tokenizer), dev, swap), out)
    _save(model, tokenizer, out)


def _save(model: UnitCaptioner, tokenizer: TextTokenizer, out: Path) -> None:
    if is_main_process():
        model.save(out)
        tokenizer.save(out / TOKENIZER)


def make_scst(recipe: Recipe, out: Path) -> None:
    """Train the text captioner on by CIDEr-D of its samples, with a penalty for absent objects."""
    corpora = _corpora(recipe)
    tokenizer = TextTokenizer.load(recipe.runs / CAPTIONER / TOKENIZER)
    chosen = _targets(recipe, tokenizer)
    synonyms = read_synonyms(recipe.data / SYNONYMS)
    described = _described(corpora)
    objects = {
        photo: list({*names, *(name for text in described.get(photo, ()) for name in named_objects(text, synonyms))})
        for photo, names in corpora.objects.items()
    }
    references = {target.photo: [sentence[1:] for sentence in target.sentences] for target in chosen}
    options = recipe.scst
    reward = CaptionReward(
        CiderD(references),
        tokenizer,
        synonyms,
        objects,
        class_phrases(corpora) if options.samples_weight else {},
        options.absent_penalty,
        options.name_reward,
    )
    chosen += [Target(photo, [], options.samples_weight) for photo in reward.classes]
    model = UnitCaptioner.load(recipe.runs / CAPTIONER)
    train(ScstTask(recipe.scst, model, _units(recipe), chosen, reward), out)
    _save(model, tokenizer, out)


def make_report(recipe: Recipe, out: Path) -> None:
    """Describe the held-out photos by beam search; score the captions."""
    corpora, units = _corpora(recipe), _units(recipe)
    photos = sorted(corpora.held_out & units.rows.keys())
    found = {}
    for name in [CAPTIONER, SCST][: 2 if recipe.scst.steps else 1]:
        model = UnitCaptioner.load(recipe.runs / name)
        captions = write_captions(model, TextTokenizer.load(recipe.runs / name / TOKENIZER), units, photos, recipe.beam)
        with atomic_write(out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(captions, indent=0))
        found[name] = dev_report(captions, corpora, read_synonyms(recipe.data / SYNONYMS))
        log.info("%s: %s", name, found[name])
    with atomic_write(out / "report.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1))


STAGES = [
    Stage[Recipe]("features", FEATURES, make_features),
    Stage[Recipe]("image_units", UNITS, make_units, (FEATURES,)),
    Stage[Recipe]("tagger", TAGGER, make_tagger, (UNITS,)),
    Stage[Recipe]("pseudo_labels", PSEUDO, make_pseudo_labels, (UNITS, TAGGER)),
    Stage[Recipe]("text_captioner", CAPTIONER, make_captioner, (UNITS, TAGGER, PSEUDO), distributed=True),
    Stage[Recipe]("scst", SCST, make_scst, (CAPTIONER, UNITS, PSEUDO), lambda r: r.scst.steps > 0, distributed=True),
    Stage[Recipe]("report", REPORT, make_report, (CAPTIONER, UNITS)),
]


def smoke(folder: Path) -> Recipe:
    """Write generated photos in the layouts of the corpora; return a recipe that trains on them in seconds."""
    write_tiny_photo_corpora(folder / "data", folder / "lists")
    grid = 2
    return Recipe(
        recipe="captioner",
        data=folder / "data",
        runs=folder / "runs",
        lists=folder / "lists",
        views=("whole", "crop1"),
        backbone=BackboneConfig("efficientnet-lite0", image_size=64, grid=grid),
        image_units=ImageUnitsConfig(cells=grid * grid, width=8, levels=2, size=8),
        tagger=TaggerTraining(steps=4, photos=4, labelled=2, min_photos=2, tags=3),
        decoder=DecoderOptions(width=16, layers=1, heads=2, feed_forward=32),
        captioner=CaptionerTraining(steps=4, warm_up=1, photos=4, log_every=2),
        scst=ScstTraining(steps=2, warm_up=1, photos=2, samples=3, log_every=1),
        beam=2,
    )
