"""The stages at the end: finished translator and voice -> a bundle, its evaluation and its confidence."""

from __future__ import annotations

import logging
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from im2sp.errors import Im2SpError
from im2sp.train.data.flickr8k import photo_path, read_split
from im2sp.train.recipe import CORPUS, FEATURES, VIT_VQGAN, Recipe
from im2sp.train.voice_pipeline import parent_of

if TYPE_CHECKING:
    from im2sp.train.evaluate.evaluation import EvaluationOptions

log = logging.getLogger(__name__)


def export(recipe: Recipe, start: str = "pretrained", seen: str = FEATURES) -> None:
    """Finished stages -> a bundle."""
    from im2sp.train.export import BundleOptions, BundleSources, export_bundle
    from im2sp.train.image_encoders import image_encoder
    from im2sp.train.models.saving import WEIGHTS
    from im2sp.train.unit_pipeline import frozen_unit_modules, image_unit_modules

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
    from im2sp.train.data.unit_table import iterate_unit_tables
    from im2sp.train.stages.import_speech import is_imported
    from im2sp.train.stages.translate import distilled_rows

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
    from im2sp.train.evaluate.evaluation import EvaluationOptions

    return EvaluationOptions(
        recogniser=recipe.recogniser, seed=recipe.seed, threads=len(os.sched_getaffinity(0)), command=command
    )


def evaluate(recipe: Recipe, seen: str = FEATURES) -> None:
    """Evaluate the bundle on the dev part."""
    from im2sp.train.evaluate import evaluation
    from im2sp.train.evaluate.photo_sets import read_photo_set
    from im2sp.train.evaluate.resynthesis import read_recordings

    data = read_photo_set(recipe.data, split="dev").sample(recipe.limit_photos, recipe.seed)
    clips = recipe.resynthesis_clips
    report = evaluation.evaluate(
        recipe.bundle_of(seen),
        data,
        recipe.evaluation_of(seen),
        _evaluation_options(recipe, "im2sp-lab evaluate"),
        recordings=read_recordings(recipe.speech, "dev", clips) if clips else None,
    )
    print(evaluation.summary(report))


def calibrate(recipe: Recipe, recording: Path | None = None, seen: str = FEATURES) -> None:
    """Fit the confidence of the bundle to the dev part and write it into the bundle.

    `recording`: of "I cannot tell what this shows", in place of the recipe's voice.
    """
    from im2sp.speech.audio import read_audio
    from im2sp.train.data.speech_shards import as_floats
    from im2sp.train.data.voice import PiperSpeaker
    from im2sp.train.evaluate import calibration
    from im2sp.train.evaluate.photo_sets import read_photo_set
    from im2sp.train.evaluate.phrases import ABSTAIN, Take
    from im2sp.train.export import set_confidence
    from im2sp.train.stages.import_speech import is_imported

    if recording is None and is_imported(recipe.speech):
        raise Im2SpError(f"{recipe.speech} holds imported recordings: give --recording WAV with their speaker's voice")
    if recording:
        takes = [Take(read_audio(recording))]
    else:
        speaker = PiperSpeaker(recipe.voice)
        takes = [Take(as_floats(speaker.speak(text)[0]), text) for text in ABSTAIN]
    train = [photo_path(recipe.data, name) for name in read_split(recipe.data, "train")]
    config, report = calibration.calibrate(
        recipe.bundle_of(seen),
        {"flickr8k": read_photo_set(recipe.data, split="dev")},
        random.Random(recipe.seed).sample(train, min(800, len(train))),
        {"abstain": takes},
        recipe.evaluation_of(seen),
        _evaluation_options(recipe, "im2sp-lab calibrate"),
        recipe.section("confidence", calibration.CalibrationOptions, seed=recipe.seed),
    )
    set_confidence(recipe.bundle_of(seen), config, {})
    figures = report["figures"]["all"]
    print(f"calibration error {figures['calibration_error']:.3f}, AUC {figures['auc']}")
