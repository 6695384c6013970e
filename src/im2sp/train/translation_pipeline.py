"""The stages that make a translator: photos and their captions -> a text captioner, and from it image to speech units.

A finished one can be a parent's.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from im2sp.errors import Im2SpError
from im2sp.train.data.flickr8k import photo_path, read_captions, read_split
from im2sp.train.image_pipeline import photos, unlabelled_photos
from im2sp.train.recipe import FEATURES, PRONUNCIATIONS, REWARD_TRANSLATOR, TUNED_BACKBONE, Recipe
from im2sp.train.voice_pipeline import parent_of, unit_count

if TYPE_CHECKING:
    from im2sp.train.models.git import GitDecoder

log = logging.getLogger(__name__)


def adopt(recipe: Recipe) -> None:
    """A finished bundle, the recipe's `parent` -> its translator and subwords.

    Where it is the teacher, that is where the recipe has no [distil], its sentences become unit tables.
    """
    from im2sp.captioner import Captioner
    from im2sp.train.stages import adopt as stage

    if recipe.replaces_parent and recipe.pronounces:
        log.info("adopt: the translator learns other words than the parent's, so only the voice is taken, by `export`")
        return
    bundle = parent_of(recipe)
    stage.adopt(bundle, recipe.adopted, recipe.subword_file)
    if recipe.replaces_parent:
        return
    captioner = Captioner(bundle, threads=1)
    for split in ("train", "dev"):
        found = {name: photo_path(recipe.data, name) for name in read_split(recipe.data, split)}
        stage.retell(captioner, found, split, recipe.units)
    if recipe.unlabelled:
        stage.retell(captioner, unlabelled_photos(recipe), "train", recipe.units)


def pretrain(recipe: Recipe) -> None:
    """Photos and text -> the text captioner, and its score on the dev part: the ceiling of what the encoder sees."""
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.models.git import GitDecoderConfig
    from im2sp.train.stages import pretrain as stage
    from im2sp.train.training.translator import TranslatorTraining

    captions, features = read_captions(recipe.data), ImageFeatures(recipe.frozen_features)
    config = recipe.section("translator", GitDecoderConfig, vocabulary_size=0)
    options = recipe.section("pretrain", TranslatorTraining, seed=recipe.seed)
    model, _ = stage.pretrain(captions, features, config, options, recipe.first_captioner)
    _score_text_captioner(recipe, model, recipe.first_captioner, recipe.frozen_features)


def tune(recipe: Recipe) -> None:
    """The text captioner and the late part of the image backbone learn on together; new features of all photos."""
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.data.text_tokenizer import TextTokenizer
    from im2sp.train.image_encoders import early_efficientnet
    from im2sp.train.models.git import GitDecoder
    from im2sp.train.models.image_backbone import BackboneConfig
    from im2sp.train.stages import tune as stage
    from im2sp.train.stages.encode import encode
    from im2sp.train.stages.pretrain import token_sentences
    from im2sp.train.training.processes import Processes

    if not recipe.tunes:
        log.info("tune: the recipe has no section [tune], so the image backbone stays as it is")
        return
    backbone = recipe.section("backbone", BackboneConfig)
    options = recipe.section("tune", stage.TuneTraining, seed=recipe.seed)
    maps = recipe.tuned / "maps"
    with Processes().main_first():
        encode(photos(recipe), maps, early_efficientnet(backbone), (*recipe.views, *options.more_views))
    sentences = token_sentences(read_captions(recipe.data), TextTokenizer.load(recipe.text_tokenizer))
    stage.tune(recipe.first_captioner, ImageFeatures(maps), backbone, sentences, options, recipe.tuned)
    with Processes().main_first():
        tuned = recipe.tuned / TUNED_BACKBONE
        stage.features_of(maps, recipe.views, backbone, tuned, recipe.features)
        if recipe.unlabelled:
            maps = recipe.tuned / "maps-unlabelled"
            encode(unlabelled_photos(recipe), maps, early_efficientnet(backbone), recipe.views)
            stage.features_of(maps, recipe.views, backbone, tuned, recipe.unlabelled_features)
    _score_text_captioner(recipe, GitDecoder.load(recipe.tuned), recipe.tuned, recipe.features)


def _human_captions(recipe: Recipe, split: str) -> dict[str, list[str]]:
    """What people wrote about each photo of a split, in the order of the caption file."""
    found: dict[str, list[str]] = {}
    for caption in read_captions(recipe.data, (split,)):
        found.setdefault(caption.image_id, []).append(caption.text)
    return found


def reward(recipe: Recipe) -> None:
    """The text captioner -> one whose sentences agree more with people's, by self-critical training, if asked for."""
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.data.text_tokenizer import FORBIDDEN, TextTokenizer
    from im2sp.train.models.git import GitDecoder
    from im2sp.train.training.self_critical import Lessons, SelfCriticalTraining, train_self_critical

    if "reward" not in recipe.sections:
        log.info("reward: the recipe has no section [reward], so the text captioner stays as it is")
        return
    tokenizer = TextTokenizer.load(recipe.text_tokenizer)
    references = {
        image_id: [tokenizer.encode(text)[1:] for text in texts]
        for image_id, texts in _human_captions(recipe, "train").items()
    }
    model = train_self_critical(
        GitDecoder.load(recipe.pretrained),
        ImageFeatures(recipe.features),
        Lessons(references),
        FORBIDDEN,
        recipe.section("reward", SelfCriticalTraining, seed=recipe.seed),
        recipe.rewarded,
    )
    _score_text_captioner(recipe, model, recipe.rewarded, recipe.features)


def _score_text_captioner(recipe: Recipe, model: GitDecoder, out: Path, features: Path) -> None:
    """Write `dev_captions.json` and `dev_scores.json`, unless they are there."""
    from im2sp.files import replace_whole
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.data.text_tokenizer import TextTokenizer
    from im2sp.train.evaluate.caption_metrics import caption_scores
    from im2sp.train.launch import process_number
    from im2sp.train.stages import pretrain as stage

    if process_number() != 0 or (out / "dev_scores.json").is_file():
        return
    tokenizer, dev = TextTokenizer.load(recipe.text_tokenizer), read_split(recipe.data, "dev")
    written = stage.write_captions(model, tokenizer, ImageFeatures(features), dev)
    stage.save_captions(written, out / "dev_captions.json")
    scores = caption_scores(written, _human_captions(recipe, "dev"))
    with replace_whole(out / "dev_scores.json") as temporary:
        temporary.write_text(json.dumps(scores.__dict__, indent=1))
    log.info("text captioner on dev, beam 3: %s", scores)


def distil(recipe: Recipe) -> None:
    """Photos -> sentences of the text captioner -> spoken captions, beside those that people wrote."""
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.data.text_tokenizer import TextTokenizer
    from im2sp.train.models.git import GitDecoder
    from im2sp.train.stages import distil as stage
    from im2sp.train.stages.import_speech import is_imported
    from im2sp.train.stages.pronounce import PronunciationOptions
    from im2sp.train.stages.speak import SHARD_SIZE, speak_shards

    if is_imported(recipe.speech):
        log.info("distil: %s holds imported recordings, whose voice cannot speak sentences of ours", recipe.speech)
        return
    captions = stage.distil(
        GitDecoder.load(recipe.teacher),
        TextTokenizer.load(recipe.text_tokenizer),
        ImageFeatures(*recipe.all_features),
        _human_captions(recipe, "train"),
        list(unlabelled_photos(recipe)),
        recipe.section("distil", stage.Distillation, seed=recipe.seed),
        recipe.distilled,
    )
    if recipe.pronounces:  # what is not spoken is put together from how words of the others are said
        spoken = recipe.section(PRONUNCIATIONS, PronunciationOptions).spoken
        unspoken = [] if spoken is None else captions[spoken:]
        stage.write_sentences(unspoken, recipe.unspoken)
        captions = captions[:spoken]
    pieces = range(0, len(captions), SHARD_SIZE)
    shards = [(f"distilled-{i:04d}", captions[at : at + SHARD_SIZE]) for i, at in enumerate(pieces)]
    speak_shards(shards, recipe.speech, recipe.voice)


def translate(recipe: Recipe, start: str = "pretrained", seen: str = FEATURES) -> None:
    """Image features, or image units, -> speech units."""
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.data.unit_subwords import UnitSubwords
    from im2sp.train.models.git import GitDecoderConfig
    from im2sp.train.stages.translate import translate as stage
    from im2sp.train.training.translator import TranslatorTraining

    subwords = UnitSubwords.load(recipe.subword_file, unit_count(recipe))
    if seen != FEATURES:
        from im2sp.train.unit_pipeline import translate_units

        by_folder = {recipe.features.name: photos(recipe)}
        if recipe.unlabelled:
            by_folder[recipe.unlabelled_features.name] = unlabelled_photos(recipe)
        translate_units(recipe, start, seen, subwords, by_folder)
        return
    stage(
        recipe.lessons,
        subwords,
        ImageFeatures(*recipe.all_features),
        recipe.section("translator", GitDecoderConfig, vocabulary_size=0),
        recipe.section("translate", TranslatorTraining, seed=recipe.seed),
        recipe.translator(start),
        recipe.start if start == "pretrained" else None,
        same_words=recipe.keeps_words,
    )


def reward_translator(recipe: Recipe) -> None:
    """The translator -> one whose sentences, read as words, agree more with people's, if asked for.

    Raises:
        Im2SpError: the recipe has no regular units, which alone can be read.
    """
    from im2sp.train.data.flickr8k import clean_text
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.data.pronunciations import Pronunciations
    from im2sp.train.data.sentences import store_sentences
    from im2sp.train.data.unit_subwords import BOS, UnitSubwords
    from im2sp.train.data.voice import PiperSpeaker
    from im2sp.train.models.git import GitDecoder
    from im2sp.train.stages.distil import read_hypotheses
    from im2sp.train.stages.pronounce import TABLE
    from im2sp.train.stages.reward_translator import WordSymbols
    from im2sp.train.stages.translate import DISTILLED
    from im2sp.train.training.self_critical import Lessons, SelfCriticalTraining, train_self_critical
    from im2sp.train.training.translator import PAD

    if REWARD_TRANSLATOR not in recipe.sections:
        log.info("reward-translator: the recipe has no section [%s]: the translator stays as it is", REWARD_TRANSLATOR)
        return
    if not recipe.pronounces:
        raise Im2SpError(f"[{REWARD_TRANSLATOR}] needs [{PRONUNCIATIONS}]: only regular units can be read as words")
    translator, speaker = GitDecoder.load(recipe.translator()), PiperSpeaker(recipe.voice)
    subwords = UnitSubwords.load(recipe.subword_file, unit_count(recipe))
    table = Pronunciations.load(recipe.lessons / TABLE)
    symbols = WordSymbols(table, subwords, lambda text: speaker.phones(clean_text(text)))
    features, described = ImageFeatures(*recipe.all_features), _human_captions(recipe, "train")
    hypotheses = read_hypotheses(recipe.distilled)
    others = {i: texts for i, texts in hypotheses.items() if i in features.rows and i not in described}
    longest = translator.config.max_positions
    sentences = store_sentences(
        recipe.lessons, "train", DISTILLED, subwords, longest, recipe.rewarded_translator / "sentences"
    )
    train_self_critical(
        translator,
        features,
        Lessons(symbols.of_texts(described), symbols.of_texts(others), sentences, symbols.of_tokens),
        (PAD, BOS),
        recipe.section(REWARD_TRANSLATOR, SelfCriticalTraining, seed=recipe.seed),
        recipe.rewarded_translator,
    )
