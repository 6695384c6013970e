"""Text captioner, lexicon and voice -> captions in units, unit captioner, bundle."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from im2sp.bundle import Bundle, find_bundle
from im2sp.bundle import ImageUnitsConfig as ImageUnitsLayout
from im2sp.files import atomic_write, sha256_of
from im2sp.train.data.caption_targets import Target
from im2sp.train.data.object_names import named_objects, read_synonyms
from im2sp.train.data.photo_corpora import class_phrases, names_thing
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.unit_bpe import UnitBPE
from im2sp.train.data.unit_table import UnitRow, iterate_unit_tables
from im2sp.train.data.unit_words import Spoken, UnitWords, silences_of, spoken
from im2sp.train.evaluate.dev_report import write_captions
from im2sp.train.export import BundleParts, ImageModules, export_bundle
from im2sp.train.image_encoders import UNKNOWN_CHECKSUM, image_config
from im2sp.train.launch import is_main_process
from im2sp.train.lexicon.captions import LexiconSpeaker, TextCaption, write_caption_units
from im2sp.train.lexicon.lexicon import PronunciationLexicon
from im2sp.train.models.git import GitDecoderConfig
from im2sp.train.models.image_backbone import ImageBackbone
from im2sp.train.models.tagger import Tagger
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.recipes.captioner.options import (
    BACKBONE,
    CAPTIONER,
    DISTILLED,
    LABELS,
    LATE,
    PSEUDO,
    SCST,
    SPOKEN,
    SYNONYMS,
    TAGGER,
    TOKENIZER,
    UNIT_BPE,
    UNIT_CAPTIONER,
    UNIT_WORDS,
    Recipe,
    captions_of,
    corpora_of,
    units_of,
)
from im2sp.train.tasks.captioner import CaptionerTask
from im2sp.train.tasks.cider_reward import CiderD
from im2sp.train.tasks.scst import CaptionReward, ScstTask
from im2sp.train.trainer import train

log = logging.getLogger(__name__)

PEOPLE, MODEL = "people", "model"  # names of tables: by whom the captions are


def _say(recipe: Recipe, captions: Sequence[TextCaption], path: Path) -> None:
    """Write captions in units of the lexicon."""
    speaker = LexiconSpeaker(PronunciationLexicon.load(recipe.lexicon), PiperSynthesizer(SynthesisConfig()).phones)
    description: dict[str, str | int] = {"lexicon": sha256_of(recipe.lexicon)}
    write_caption_units(captions, speaker, recipe.voice, description, path)


def make_caption_units(recipe: Recipe, out: Path) -> None:
    """Say the captions of people and the pseudo-labels; make the vocabulary."""
    corpora = corpora_of(recipe)
    labels = json.loads((recipe.runs / PSEUDO / LABELS).read_text())
    train_captions = [*corpora.captions.values(), labels]
    captions = [
        TextCaption(photo, text, split)
        for split, parts in (("train", train_captions), ("dev", corpora.dev.values()))
        for part in parts
        for photo, texts in part.items()
        for text in texts
        if split == "dev" or photo not in corpora.held_out
    ]
    _say(recipe, captions, out / f"{PEOPLE}.parquet")
    rows = list(iterate_unit_tables(out, "train"))
    units = Bundle.load(find_bundle(recipe.voice)).config.vocoder.units
    words: Counter[Spoken] = Counter(word for row in rows for word in map(spoken, row.words()))
    options = recipe.vocabulary
    frequent = [word for word, _ in words.most_common(options.whole_words)]
    bpe = UnitBPE.train(words.elements(), units, options.subwords, whole_words=frequent)
    bpe.save(out / UNIT_BPE)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    UnitWords.of(rows, silences_of(PronunciationLexicon.load(recipe.lexicon)), bpe, tokenizer).save(out / UNIT_WORDS)


def make_distilled(recipe: Recipe, out: Path) -> None:
    """Caption the photos that train by the text captioner, and say what names nothing absent."""
    corpora, options = corpora_of(recipe), recipe.distillation
    model = UnitCaptioner.load(recipe.runs / CAPTIONER)
    tokenizer = TextTokenizer.load(recipe.runs / CAPTIONER / TOKENIZER)
    photos = sorted(set(corpora.photos) - corpora.held_out)
    found = write_captions(model, tokenizer, units_of(recipe), photos, recipe.beam, options.naming)
    synonyms, described = read_synonyms(recipe.data / SYNONYMS), captions_of(corpora)
    phrases = class_phrases(corpora)

    def fits(photo: str, text: str) -> bool:
        if photo in phrases:
            return names_thing(text, phrases[photo])
        known = set(corpora.objects.get(photo, ())) | {
            n for t in described.get(photo, ()) for n in named_objects(t, synonyms)
        }
        return photo not in corpora.objects or all(name in known for name in named_objects(text, synonyms))

    kept = {
        photo: fitting
        for photo, texts in found.items()
        if (fitting := [text for text in texts[: options.hypotheses] if fits(photo, text)])
    }
    log.info("%d of %d photos have captions of the text captioner that fit", len(kept), len(photos))
    with atomic_write(out / LABELS) as temporary:
        temporary.write_text(json.dumps(kept, indent=0))
    captions = [TextCaption(photo, text) for photo, texts in kept.items() for text in texts]
    _say(recipe, captions, out / f"{MODEL}.parquet")


def _vocabulary(recipe: Recipe) -> tuple[UnitBPE, UnitWords]:
    folder, units = recipe.runs / SPOKEN, Bundle.load(find_bundle(recipe.voice)).config.vocoder.units
    return UnitBPE.load(folder / UNIT_BPE, units), UnitWords.load(folder / UNIT_WORDS)


def _sentences(recipe: Recipe, rows: Iterator[UnitRow], bpe: UnitBPE) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = defaultdict(list)
    for row in rows:
        tokens = bpe.encode(row.words())
        if len(tokens) <= recipe.max_tokens:
            found[row.image_id].append(tokens)
    return found


def _spoken_targets(recipe: Recipe, bpe: UnitBPE) -> list[Target]:
    """Photos with sentences of people and, several times, of the text captioner; COCO's drawn more often."""
    corpora = corpora_of(recipe)
    people = _sentences(recipe, iterate_unit_tables(recipe.runs / SPOKEN, "train"), bpe)
    model = _sentences(recipe, iterate_unit_tables(recipe.runs / DISTILLED, "train"), bpe)
    weights = {photo: recipe.corpus_weights.get(name, 1.0) for name, part in corpora.captions.items() for photo in part}
    return [
        Target(
            photo, people.get(photo, []) + recipe.distillation.repeats * model.get(photo, []), weights.get(photo, 1.0)
        )
        for photo in sorted(people.keys() | model.keys())
    ]


def make_unit_captioner(recipe: Recipe, out: Path) -> None:
    """Train the unit captioner, which starts from the text captioner, by cross-entropy."""
    bpe, words = _vocabulary(recipe)
    text = UnitCaptioner.load(recipe.runs / CAPTIONER)
    sizes = {name: getattr(text.config, name) for name in ("width", "layers", "heads", "feed_forward")}
    torch.manual_seed(recipe.seed)
    config = GitDecoderConfig(vocabulary_size=bpe.vocabulary_size, max_positions=recipe.max_tokens, **sizes)
    model = UnitCaptioner(config, Tagger.load(recipe.runs / TAGGER))
    model.start_from(text, words.words, words.shares)
    dev_rows = _sentences(recipe, iterate_unit_tables(recipe.runs / SPOKEN, "dev"), bpe)
    dev = {
        name: [Target(photo, dev_rows[photo], 1.0) for photo in part if photo in dev_rows][:300]
        for name, part in corpora_of(recipe).dev.items()
    }
    train(CaptionerTask(recipe.unit_captioner, model, units_of(recipe), _spoken_targets(recipe, bpe), dev), out)
    if is_main_process():
        model.save(out)


def make_scst(recipe: Recipe, out: Path) -> None:
    """Train the unit captioner on by CIDEr-D of the words of its samples, with a penalty for absent objects."""
    corpora = corpora_of(recipe)
    bpe, words = _vocabulary(recipe)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    synonyms, described = read_synonyms(recipe.data / SYNONYMS), captions_of(corpora)
    objects = {
        photo: list({*names, *(name for text in described.get(photo, ()) for name in named_objects(text, synonyms))})
        for photo, names in corpora.objects.items()
    }
    chosen = _spoken_targets(recipe, bpe)
    references = {target.photo: [words.decode(sentence[1:]) for sentence in target.sentences] for target in chosen}
    reward = CaptionReward(CiderD(references), words.decode, tokenizer, synonyms, objects, recipe.scst.absent_penalty)
    model = UnitCaptioner.load(recipe.runs / UNIT_CAPTIONER)
    train(ScstTask(recipe.scst, model, units_of(recipe), chosen, reward), out)
    if is_main_process():
        model.save(out)


class _Tokenizer(nn.Module):
    """Normalised pixels float32 [B, 3, H, W] -> image units int64 [B, units]."""

    def __init__(self, backbone: nn.Module, units: nn.Module) -> None:
        super().__init__()
        self.backbone, self.units = backbone, units

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        units: torch.Tensor = self.units(self.backbone(pixels))
        return units


def make_bundle(recipe: Recipe, out: Path) -> None:
    """Export tokenizer, unit captioner and the voice of a bundle."""
    bpe, _ = _vocabulary(recipe)
    model = UnitCaptioner.load(recipe.runs / (SCST if recipe.scst.steps else UNIT_CAPTIONER))
    units, tags = model.tagger.image_units, model.tagger.config.tags
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
    image = image_config(recipe.backbone, image_tokens=1 + tags + sizes.cells)
    parts = BundleParts(
        ImageModules(image, nn.Identity(), _Tokenizer(backbone, units), layout),
        model,
        bpe.vocabulary(),
        Bundle.load(find_bundle(recipe.voice)),
    )
    export_bundle(parts, recipe.bundle, _facts(recipe), out / "bundle")


def _facts(recipe: Recipe) -> dict[str, str | int | float]:
    """What the bundle was trained on."""
    corpora = corpora_of(recipe)
    counts = {name: sum(map(len, part.values())) for name, part in corpora.captions.items()}
    return {
        "photos": len(set(corpora.photos) - corpora.held_out),
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
