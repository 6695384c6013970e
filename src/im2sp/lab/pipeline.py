"""The stages of a recipe, each from the recipe's folders to the recipe's folders."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from im2sp.errors import Im2SpError
from im2sp.lab.data.flickr8k import photo_path, read_captions, read_split
from im2sp.lab.recipe import CORPUS, FEATURES, PRONUNCIATIONS, REWARD_TRANSLATOR, TUNED_BACKBONE, VIT_VQGAN, Recipe
from im2sp.lab.voice_pipeline import hubert as hubert
from im2sp.lab.voice_pipeline import parent_of, unit_count
from im2sp.lab.voice_pipeline import pronounce as pronounce
from im2sp.lab.voice_pipeline import resound as resound
from im2sp.lab.voice_pipeline import speak as speak
from im2sp.lab.voice_pipeline import units as units
from im2sp.lab.voice_pipeline import vocoder as vocoder

if TYPE_CHECKING:
    from im2sp.lab.evaluation.report import EvaluationOptions
    from im2sp.lab.models.translator import Translator

log = logging.getLogger(__name__)


def adopt(recipe: Recipe) -> None:
    """A finished bundle, the recipe's `parent` -> its translator and subwords.

    Where it is the teacher, that is where the recipe has no [distil], its sentences become unit tables.
    """
    from im2sp.captioner import Captioner
    from im2sp.lab.stages import adopt as stage

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


def photos(recipe: Recipe) -> dict[str, Path]:
    """Photos of both splits by image id, dev first."""
    if CORPUS in recipe.sections:
        from im2sp.lab.stages.corpus import CorpusSection, corpus_photos

        return corpus_photos(recipe.data, recipe.section(CORPUS, CorpusSection))
    return {
        name: photo_path(recipe.data, name) for split in ("dev", "train") for name in read_split(recipe.data, split)
    }


def unlabelled_photos(recipe: Recipe) -> dict[str, Path]:
    """Photos without captions by image id, the file name without ".jpg", and pieces of them; none without a folder.

    Raises:
        Im2SpError: there is none in the recipe's folder.
    """
    from im2sp.lab.data.photo_pieces import write_pieces

    if not recipe.unlabelled:
        return {}
    found = {path.stem: path for path in sorted(recipe.unlabelled.glob("*.jpg"))}
    if not found:
        raise Im2SpError(
            f"{recipe.unlabelled} holds no .jpg: leave `unlabelled` out of the recipe, or name a folder of photos"
        )
    return found | (write_pieces(found, recipe.pieces, recipe.runs / "pieces") if recipe.pieces else {})


def encode(recipe: Recipe) -> None:
    """Photos -> image features; where the backbone is going to be tuned, only those that tuning starts from."""
    from im2sp.lab.image_encoders import efficientnet, image_encoder
    from im2sp.lab.models.image_backbone import BackboneConfig
    from im2sp.lab.stages.encode import encode as stage

    encoder = efficientnet(recipe.section("backbone", BackboneConfig)) if recipe.tunes else image_encoder(recipe)
    stage(photos(recipe), recipe.frozen_features, encoder, recipe.views)
    if recipe.unlabelled and not recipe.tunes:
        stage(unlabelled_photos(recipe), recipe.unlabelled_features, encoder, recipe.views)


def image_tokenizer(recipe: Recipe) -> None:
    """Photos -> a ViT-VQGAN, and how well it does on photos that it learned from (`report.json`)."""
    from im2sp.lab.models.vit_vqgan import VitVqganConfig
    from im2sp.lab.stages.image_tokenizer import TokenizerPhotos, photos_to_learn_from, train_image_tokenizer
    from im2sp.lab.training.vit_vqgan import VitVqganTraining

    source = recipe.section("image_tokenizer", TokenizerPhotos)
    train_image_tokenizer(
        photos_to_learn_from(recipe.data, source),
        source,
        recipe.section("vit_vqgan_sizes", VitVqganConfig),
        recipe.section("vit_vqgan", VitVqganTraining, seed=recipe.seed),
        recipe.image_tokenizer,
    )


def token_vit(recipe: Recipe) -> None:
    """Image units and cached features -> a token ViT."""
    from im2sp.lab.data.image_features import ImageFeatures
    from im2sp.lab.models.saving import CONFIG, load_config
    from im2sp.lab.models.token_vit import TokenVitConfig
    from im2sp.lab.models.vit_vqgan import VitVqganConfig
    from im2sp.lab.stages.token_vit import train_on_units
    from im2sp.lab.training.token_augmentation import TokenAugmentation
    from im2sp.lab.training.token_vit import TokenVitTraining

    if not (recipe.image_tokenizer / CONFIG).is_file():
        raise Im2SpError(f"{recipe.image_tokenizer / CONFIG} is missing: run the stage `image-tokenizer` first")
    made = load_config(recipe.image_tokenizer, VitVqganConfig)
    train_on_units(
        photos(recipe),
        read_split(recipe.data, "dev"),
        ImageFeatures(recipe.features),
        recipe.image_tokenizer,
        recipe.section("token_vit_sizes", TokenVitConfig, code_width=made.code_width),
        recipe.section("token_augmentation", TokenAugmentation),
        recipe.section("token_vit", TokenVitTraining, seed=recipe.seed),
        recipe.token_vit,
    )


def semantic_units(recipe: Recipe) -> None:
    """Image features and the finished translator -> a quantiser, and the units of all photos."""
    from im2sp.lab.stages.semantic_units import SemanticUnitsOptions, make_semantic_units

    make_semantic_units(
        recipe.all_features,
        read_split(recipe.data, "dev"),
        recipe.translator(),
        recipe.section("semantic_units", SemanticUnitsOptions),
        recipe.seed,
        recipe.semantic_units,
    )


def pretrain(recipe: Recipe) -> None:
    """Photos and text -> the text captioner, and its score on the dev part: the ceiling of what the encoder sees."""
    from im2sp.lab.data.image_features import ImageFeatures
    from im2sp.lab.models.translator import TranslatorConfig
    from im2sp.lab.stages import pretrain as stage
    from im2sp.lab.training.translator import TranslatorTraining

    captions, features = read_captions(recipe.data), ImageFeatures(recipe.frozen_features)
    config = recipe.section("translator", TranslatorConfig, vocabulary_size=0)
    options = recipe.section("pretrain", TranslatorTraining, seed=recipe.seed)
    model, _ = stage.pretrain(captions, features, config, options, recipe.first_captioner)
    _score_text_captioner(recipe, model, recipe.first_captioner, recipe.frozen_features)


def tune(recipe: Recipe) -> None:
    """The text captioner and the late part of the image backbone learn on together; new features of all photos."""
    from im2sp.lab.data.image_features import ImageFeatures
    from im2sp.lab.data.text_tokenizer import TextTokenizer
    from im2sp.lab.image_encoders import early_efficientnet
    from im2sp.lab.models.image_backbone import BackboneConfig
    from im2sp.lab.models.translator import Translator
    from im2sp.lab.stages import tune as stage
    from im2sp.lab.stages.encode import encode
    from im2sp.lab.stages.pretrain import token_sentences
    from im2sp.lab.training.processes import Processes

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
    _score_text_captioner(recipe, Translator.load(recipe.tuned), recipe.tuned, recipe.features)


def _human_captions(recipe: Recipe, split: str) -> dict[str, list[str]]:
    """What people wrote about each photo of a split, in the order of the caption file."""
    found: dict[str, list[str]] = {}
    for caption in read_captions(recipe.data, (split,)):
        found.setdefault(caption.image_id, []).append(caption.text)
    return found


def reward(recipe: Recipe) -> None:
    """The text captioner -> one whose sentences agree more with people's, by self-critical training, if asked for."""
    from im2sp.lab.data.image_features import ImageFeatures
    from im2sp.lab.data.text_tokenizer import FORBIDDEN, TextTokenizer
    from im2sp.lab.models.translator import Translator
    from im2sp.lab.training.self_critical import Lessons, SelfCriticalTraining, train_self_critical

    if "reward" not in recipe.sections:
        log.info("reward: the recipe has no section [reward], so the text captioner stays as it is")
        return
    tokenizer = TextTokenizer.load(recipe.text_tokenizer)
    references = {
        image_id: [tokenizer.encode(text)[1:] for text in texts]
        for image_id, texts in _human_captions(recipe, "train").items()
    }
    model = train_self_critical(
        Translator.load(recipe.pretrained),
        ImageFeatures(recipe.features),
        Lessons(references),
        FORBIDDEN,
        recipe.section("reward", SelfCriticalTraining, seed=recipe.seed),
        recipe.rewarded,
    )
    _score_text_captioner(recipe, model, recipe.rewarded, recipe.features)


def _score_text_captioner(recipe: Recipe, model: Translator, out: Path, features: Path) -> None:
    """Write `dev_captions.json` and `dev_scores.json`, unless they are there."""
    from im2sp.files import replace_whole
    from im2sp.lab.data.image_features import ImageFeatures
    from im2sp.lab.data.text_tokenizer import TextTokenizer
    from im2sp.lab.evaluation.caption_metrics import caption_scores
    from im2sp.lab.launch import process_number
    from im2sp.lab.stages import pretrain as stage

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
    from im2sp.lab.data.image_features import ImageFeatures
    from im2sp.lab.data.text_tokenizer import TextTokenizer
    from im2sp.lab.models.translator import Translator
    from im2sp.lab.stages import distil as stage
    from im2sp.lab.stages.import_speech import is_imported
    from im2sp.lab.stages.pronounce import PronunciationOptions
    from im2sp.lab.stages.speak import SHARD_SIZE, speak_shards

    if is_imported(recipe.speech):
        log.info("distil: %s holds imported recordings, whose voice cannot speak sentences of ours", recipe.speech)
        return
    captions = stage.distil(
        Translator.load(recipe.teacher),
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
    from im2sp.lab.data.image_features import ImageFeatures
    from im2sp.lab.data.unit_subwords import UnitSubwords
    from im2sp.lab.models.translator import TranslatorConfig
    from im2sp.lab.stages.translate import translate as stage
    from im2sp.lab.training.translator import TranslatorTraining

    subwords = UnitSubwords.load(recipe.subword_file, unit_count(recipe))
    if seen != FEATURES:
        from im2sp.lab.unit_pipeline import translate_units

        by_folder = {recipe.features.name: photos(recipe)}
        if recipe.unlabelled:
            by_folder[recipe.unlabelled_features.name] = unlabelled_photos(recipe)
        translate_units(recipe, start, seen, subwords, by_folder)
        return
    stage(
        recipe.lessons,
        subwords,
        ImageFeatures(*recipe.all_features),
        recipe.section("translator", TranslatorConfig, vocabulary_size=0),
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
    from im2sp.lab.data.flickr8k import clean_text
    from im2sp.lab.data.image_features import ImageFeatures
    from im2sp.lab.data.pronunciations import Pronunciations
    from im2sp.lab.data.sentences import store_sentences
    from im2sp.lab.data.unit_subwords import BOS, UnitSubwords
    from im2sp.lab.data.voice import PiperSpeaker
    from im2sp.lab.models.translator import Translator
    from im2sp.lab.stages.distil import read_hypotheses
    from im2sp.lab.stages.pronounce import TABLE
    from im2sp.lab.stages.reward_translator import WordSymbols
    from im2sp.lab.stages.translate import DISTILLED
    from im2sp.lab.training.self_critical import Lessons, SelfCriticalTraining, train_self_critical
    from im2sp.lab.training.translator import PAD

    if REWARD_TRANSLATOR not in recipe.sections:
        log.info("reward-translator: the recipe has no section [%s]: the translator stays as it is", REWARD_TRANSLATOR)
        return
    if not recipe.pronounces:
        raise Im2SpError(f"[{REWARD_TRANSLATOR}] needs [{PRONUNCIATIONS}]: only regular units can be read as words")
    translator, speaker = Translator.load(recipe.translator()), PiperSpeaker(recipe.voice)
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


def export(recipe: Recipe, start: str = "pretrained", seen: str = FEATURES) -> None:
    """Finished stages -> a bundle."""
    from im2sp.lab.image_encoders import image_encoder
    from im2sp.lab.models.saving import WEIGHTS
    from im2sp.lab.stages.export import BundleOptions, BundleSources, export_bundle
    from im2sp.lab.unit_pipeline import frozen_unit_modules, image_unit_modules

    translator = recipe.finished_translator(start, seen)
    if not (translator / WEIGHTS).is_file():
        stage = "reward-translator" if translator == recipe.rewarded_translator else "translate"
        raise Im2SpError(f"{translator / WEIGHTS} is missing: run the stage `{stage}` with the same options first")
    sources = BundleSources(
        image_encoder(recipe),
        translator,
        recipe.subword_file,
        recipe.voice_of_lessons,
        recipe.speech_encoder,
        parent_of(recipe) if recipe.keeps_voice else None,
        recipe.said if recipe.said.is_file() else None,
    )
    options, facts = recipe.section("bundle", BundleOptions), _training_facts(recipe, sources.encoder.description)
    modules = frozen_unit_modules(recipe)
    if seen != FEATURES:
        modules = image_unit_modules(recipe, start, seen)
        options = replace(options, name=f"{options.name}-{seen}")
        facts["image_units"] = f"{modules.config.tokenizer}, {modules.config.bits} bits a photo"
        if seen == VIT_VQGAN:
            facts["image_backbone"] = "token ViT, distilled from " + str(facts["image_backbone"])
    bundle = export_bundle(sources, options, facts, {}, recipe.bundle_of(seen), modules)
    total = sum(path.stat().st_size for path in bundle.folder.iterdir())
    log.info("%s: %.1f MB", bundle.folder, total / 1e6)


def _training_facts(recipe: Recipe, image_backbone: str) -> dict[str, str | int | float]:
    """What a bundle's translator learned from."""
    from im2sp.lab.data.unit_table import iterate_unit_tables
    from im2sp.lab.stages.import_speech import is_imported
    from im2sp.lab.stages.translate import distilled_rows

    photos, voices, seconds, captions = set(), set(), 0.0, 0
    spoken = iterate_unit_tables(recipe.units, "train") if any(recipe.units.glob("*.parquet")) else iter(())
    for row in spoken:  # none where finished tables of regular units were taken over
        photos.add(row.image_id)
        voices.add(row.speaker)
        seconds, captions = seconds + row.duration_s, captions + 1
    learned = {"photos": len(photos), "spoken_captions": captions}
    if recipe.pronounces:
        photos, voices, sentences = set(), set(), 0
        for row in iterate_unit_tables(recipe.lessons, "train"):
            photos.add(row.image_id)
            voices.add(row.speaker)
            sentences += 1
        learned |= {"photos": len(photos), "sentences_put_together_from_these": sentences}
    hours = {"hours_of_speech": round(seconds / 3600, 1)}
    if CORPUS in recipe.sections:
        corpus = f"{recipe.sections[CORPUS]['layout']}, train part"
        return {CORPUS: corpus, **learned, **hours, "voices": len(voices), "image_encoder": image_backbone}
    parent = parent_of(recipe).config if recipe.parent else None
    if parent and not recipe.replaces_parent:
        return {
            "photos": len(photos),
            "sentences": captions,
            "said_by": f"{parent.name} {parent.version}, its parent",
            "voice": ", ".join(sorted(voices)),
            "image_backbone": image_backbone,
        }
    written = sum(1 for _ in distilled_rows(recipe.lessons))
    return {
        **learned,
        "of_these_written_by_the_text_captioner": written,
        **hours,
        "voice": ", ".join(sorted(voices)),
        "data": "own recordings, train part" if is_imported(recipe.speech) else "Flickr8k, train part",
        "photos_without_captions": recipe.unlabelled.name if written and recipe.unlabelled else "none",
        "image_backbone": image_backbone,
    } | ({_taken(recipe): f"{parent.name} {parent.version}"} if parent else {})


def _taken(recipe: Recipe) -> str:
    """What a run that replaces its parent took of it."""
    if recipe.keeps_words:
        return "started_from"
    return "voice_of" if recipe.keeps_voice else "voice_started_from"


def _evaluation_options(recipe: Recipe, command: str) -> EvaluationOptions:
    from im2sp.lab.evaluation.report import EvaluationOptions

    return EvaluationOptions(
        photos=recipe.limit_photos or None,
        clips=recipe.resynthesis_clips,
        recogniser=recipe.recogniser,
        seed=recipe.seed,
        threads=len(os.sched_getaffinity(0)),
        command=command,
    )


def evaluate(recipe: Recipe, seen: str = FEATURES) -> None:
    """The bundle on the dev part -> report.json, a table row, and the figures into the bundle itself."""
    from im2sp.lab.evaluation.report import TABLE_HEADER, table_row
    from im2sp.lab.evaluation.report import evaluate as measure
    from im2sp.lab.stages.export import set_quality

    bundle, out = recipe.bundle_of(seen), recipe.evaluation_of(seen)
    options = _evaluation_options(recipe, "im2sp-lab evaluate")
    report = measure(bundle, recipe.data, recipe.speech, out, options)
    captions = report["captions"]
    set_quality(
        bundle,
        {
            "split": f"{report['split']}, {captions['photos']} photos, five references",
            "recogniser": f"Whisper {recipe.recogniser}, beam {report['recogniser']['beam']}",
            "BLEU-4": round(captions["bleu4"], 2),
            "METEOR": round(captions["meteor"], 2),
            "CIDEr": round(captions["cider"], 3),
            "different_sentences": captions["different_sentences"],
        }
        | _quality_of_voice(recipe, report.get("word_error_rates")),
    )
    # The figures in it changed the bundle's checksum: report it as it is now. Nothing is spoken or heard again.
    report = measure(bundle, recipe.data, recipe.speech, out, options)
    print(TABLE_HEADER, table_row(report), sep="\n")


def _quality_of_voice(recipe: Recipe, rates: dict[str, Any] | None) -> dict[str, str | int | float]:
    """Word error rates of the voice; where none were measured, those of the parent, whose graphs speak here, too."""
    understood = {
        "word_error_rate_original_voice_percent": "original",
        "word_error_rate_from_units_percent": "predicted_durations",
    }
    if rates:
        return {name: round(rates[variant]["rate"], 2) for name, variant in understood.items()}
    if not recipe.replaces_parent:
        return {}
    return {name: value for name, value in parent_of(recipe).config.quality.items() if name in understood}


def calibrate(recipe: Recipe, recording: Path | None = None, seen: str = FEATURES) -> None:
    """The bundle on the dev part -> its confidence, into the bundle, and calibration.json beside the evaluation's."""
    from im2sp.lab.evaluation.photo_sets import flickr8k_photos
    from im2sp.lab.stages import calibrate as stage
    from im2sp.lab.stages.import_speech import is_imported

    if recording is None and is_imported(recipe.speech):
        raise Im2SpError(
            f"{recipe.speech} holds imported recordings, so no voice can say that it is not sure: "
            "give --recording WAV, in which their speaker says it"
        )
    options = recipe.section("confidence", stage.CalibrationOptions, seed=recipe.seed)
    report = stage.calibrate(
        recipe.bundle_of(seen),
        flickr8k_photos(recipe.data, "dev"),
        [photo_path(recipe.data, name) for name in read_split(recipe.data, "train")],
        stage.recorded_take(recording) if recording else stage.spoken_takes(options.sentences, recipe.voice),
        recipe.evaluation_of(seen),
        _evaluation_options(recipe, "im2sp-lab calibrate"),
        options,
    )
    withheld, tested = report["withheld"], report["tested"]
    print(
        f"calibration error {tested['expected_calibration_error']:.3f}; "
        f"below {report['threshold']:.3f} {withheld['photos']:.1%} of the photos and {withheld['off_domain']:.0%} of "
        f"the off-domain pictures are withheld; {recipe.evaluation_of(seen) / stage.REPORT}"
    )
