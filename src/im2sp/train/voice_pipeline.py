"""The stages that make a voice: recordings -> speech units, regular units, vocoder and durations; or a parent's."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from im2sp.errors import Im2SpError
from im2sp.train.recipe import CORPUS, HIFIGAN, PRONUNCIATIONS, REVOICE, Recipe

if TYPE_CHECKING:
    from im2sp.arrays import FloatArray, IntArray
    from im2sp.bundle import Bundle
    from im2sp.train.data.pronunciations import Pronunciations, RecordedWays
    from im2sp.train.data.unit_subwords import UnitSubwords
    from im2sp.train.stages.listen import Listening
    from im2sp.train.stages.mend import Mending, Sentence

log = logging.getLogger(__name__)


def speak(recipe: Recipe) -> None:
    """Captions -> spoken captions; a sample goes through the recogniser (`speech_check.json`).

    A recipe of a corpus with recordings takes those.
    """
    from im2sp.train.stages import speak as stage
    from im2sp.train.stages.import_speech import is_imported
    from im2sp.train.stages.revoice import RevoiceOptions

    if CORPUS in recipe.sections:
        from im2sp.train.stages.corpus import CorpusSection, ingest_corpus

        done = ingest_corpus(recipe.data, recipe.section(CORPUS, CorpusSection), recipe.speech)
        log.info("speak: %d recordings, %.1f hours; left out: %s", done.recordings, done.seconds / 3600, done.left_out)
        return
    if is_imported(recipe.speech):
        log.info("speak: %s holds imported recordings, nothing is to be spoken", recipe.speech)
        return
    # The voice of a parent is trained already: one shard of people's sentences holds out, and [revoice] says how many
    # more its vocoder learns on with.
    shards = None
    if recipe.replaces_parent:
        shards = 1
        if REVOICE in recipe.sections:
            shards += -(-recipe.section(REVOICE, RevoiceOptions).captions // stage.SHARD_SIZE)
    stage.speak(recipe.data, recipe.speech, recipe.voice, recipe.seed, shards)
    stage.check_speech(recipe.speech, recipe.runs / "speech_check.json", recipe.recogniser, recipe.resynthesis_clips)


def parent_of(recipe: Recipe) -> Bundle:
    """The bundle that a recipe goes on from.

    Raises:
        Im2SpError: it names none, or one that sees other pictures than the recipe's image encoder, though its
            translator is not going to learn to see anew.
    """
    from im2sp.bundle import Bundle, find_bundle
    from im2sp.train.image_encoders import image_encoder

    if not recipe.parent:
        raise Im2SpError("the recipe goes on from no bundle: name one as its `parent`")
    bundle = Bundle.load(find_bundle(recipe.parent))
    if not recipe.replaces_parent and bundle.config.image != image_encoder(recipe).image:
        raise Im2SpError(
            f"the bundle {bundle.folder} sees {bundle.config.image}, the recipe's image encoder another picture: make "
            "[backbone] that of the bundle"
        )
    return bundle


def hubert(recipe: Recipe) -> None:
    """Spoken captions -> speech encoder; with [revoice], that of the parent with finer units."""
    from im2sp.train.stages.hubert import HubertStage, train_speech_encoder
    from im2sp.train.stages.revoice import RevoiceOptions, revoice

    if REVOICE in recipe.sections:
        options = recipe.section(REVOICE, RevoiceOptions, seed=recipe.seed)
        revoice(parent_of(recipe), recipe.speech, options, recipe.speech_encoder, recipe.first_vocoder)
        return
    train_speech_encoder(recipe.speech, recipe.hubert, recipe.section("hubert", HubertStage, seed=recipe.seed))


def unit_count(recipe: Recipe) -> int:
    """How many speech units there are, without loading the HuBERT that hears them."""
    from im2sp.train.models.speech_encoder import CLUSTERS, Clusters

    if recipe.keeps_voice:
        return parent_of(recipe).config.vocabulary.units
    return len(Clusters.load(recipe.speech_encoder / CLUSTERS))


def units(recipe: Recipe) -> None:
    """Spoken captions -> unit tables and subwords."""
    from im2sp.train.stages.units import bundled_hearing, extract_units, learn_subwords, trained_hearing

    hearing = bundled_hearing(parent_of(recipe)) if recipe.keeps_voice else trained_hearing(recipe.speech_encoder)
    extract_units(recipe.speech, hearing, recipe.units)
    if not recipe.pronounces:
        learn_subwords(recipe.units, recipe.subword_file, unit_count(recipe), recipe.subwords)


def pronounce(recipe: Recipe) -> None:
    """Unit tables -> tables of regular units and their subwords, if asked for."""
    from im2sp.train.data.unit_table import iterate_unit_tables
    from im2sp.train.data.voice import PiperSpeaker
    from im2sp.train.stages import pronounce as stage
    from im2sp.train.stages.distil import read_sentences
    from im2sp.train.stages.units import learn_subwords
    from im2sp.train.stages.vocoder import learn_durations
    from im2sp.train.training.vocoder import VocoderTraining

    if not recipe.pronounces:
        log.info("pronounce: the recipe has no section [%s], so units stay as they were heard", PRONUNCIATIONS)
        return
    options = recipe.section(PRONUNCIATIONS, stage.PronunciationOptions, seed=recipe.seed)
    if options.heard:
        _check_speaks(recipe, PRONUNCIATIONS)
    unspoken = read_sentences(recipe.unspoken)

    def mended(table: Pronunciations, recorded: RecordedWays, sentences: Sequence[Sentence]) -> None:
        if options.heard:
            _mend(recipe, recipe.vocoder, table, recorded, sentences, options, recipe.lessons / "heard.jsonl")

    phones_of = PiperSpeaker(recipe.voice).phones
    stage.pronounce(recipe.speech, recipe.units, unspoken, phones_of, mended, options, recipe.lessons)
    learn_subwords(recipe.lessons, recipe.subword_file, unit_count(recipe), recipe.subwords)
    if recipe.voice_of_lessons != recipe.vocoder:
        heard, regular = (
            (row.speech_units for row in iterate_unit_tables(tables, "train"))
            for tables in (recipe.units, recipe.lessons)
        )
        training = recipe.section("vocoder", VocoderTraining, seed=recipe.seed)
        learn_durations(recipe.vocoder, heard, regular, training, recipe.voice_of_lessons)


def resound(recipe: Recipe, learned: Path) -> None:
    """A finished translator of another run and this run's voice -> what the translator's subwords are in its units.

    In place of the stage `translate`: the translator and its subwords come from the other run as they are.

    Args:
        learned: folder of the run in which the translator learned, with its table of pronunciations.

    Raises:
        Im2SpError: the recipe has no regular units, a part of one of the runs is missing, or what should be heard
            cannot be spoken.
    """
    from im2sp.train.data.flickr8k import clean_text
    from im2sp.train.data.pronunciations import Pronunciations, phones_of_words
    from im2sp.train.data.unit_subwords import UnitSubwords
    from im2sp.train.data.voice import PiperSpeaker
    from im2sp.train.stages import resound as stage
    from im2sp.train.stages.listen import Listening
    from im2sp.train.stages.mend import Sentence
    from im2sp.train.stages.pronounce import TABLE
    from im2sp.train.stages.translate import distilled_rows

    if not recipe.pronounces:
        raise Im2SpError(f"resound: the recipe has no section [{PRONUNCIATIONS}], so its units are not regular")
    options = recipe.section("resound", Listening)
    if options.heard:
        _check_speaks(recipe, "resound")
    other = replace(recipe, runs=learned)
    stage.check((other.lessons / TABLE, recipe.lessons / TABLE, other.subword_file))
    units = unit_count(recipe)
    subwords = UnitSubwords.load(other.subword_file, units)
    if (learned_units := 1 + max(max(subword) for subword in subwords.table())) != units:
        raise Im2SpError(
            f"resound: the translator in {learned} learned {learned_units} speech units, this voice has {units}: both "
            "must have as many"
        )
    if not recipe.said.is_file():
        speaker, texts = PiperSpeaker(recipe.voice), [clean_text(row.text) for row in distilled_rows(other.lessons)]
        words = {text: tuple(phones_of_words(speaker.phones(text))) for text in dict.fromkeys(texts)}
        before = Pronunciations.load(other.lessons / TABLE)
        after = _listened(recipe, other, before, subwords, [Sentence(*pair) for pair in words.items()], options)
        stage.resound(subwords, before, after, (words[text] for text in texts), recipe.said)
    stage.take_over(other.finished_translator(), other.subword_file, recipe.translator(), recipe.subword_file)


def _listened(
    recipe: Recipe,
    learned: Recipe,
    before: Pronunciations,
    subwords: UnitSubwords,
    sentences: Sequence[Sentence],
    options: Listening,
) -> Pronunciations:
    """The recipe's table of pronunciations, mended where what the translator of another run says is not understood.

    Args:
        before: the table in whose units that translator learned.
        subwords: of these units.
        sentences: that it may say.
        options: without `heard`, the table stays as it is.
    """
    from im2sp.train.data.flickr8k import read_split
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.data.pronunciations import Pronunciations, RecordedWays
    from im2sp.train.models.git import GitDecoder
    from im2sp.train.stages import listen as stage
    from im2sp.train.stages.pronounce import TABLE, PronunciationOptions, read_recordings

    table, target = Pronunciations.load(recipe.lessons / TABLE), recipe.lessons / "listened.table"
    if not options.heard:
        return table
    if target.is_file():
        return Pronunciations.load(target)
    features, held_out = ImageFeatures(*learned.all_features), set(read_split(recipe.data, "dev"))
    said = stage.said_about(
        GitDecoder.load(learned.finished_translator()),
        features,
        sorted(features.rows.keys() - held_out),
        subwords,
        stage.known_sentences(sentences, before),
        options,
    )
    recordings, _ = read_recordings(recipe.speech, recipe.units)
    minimum = recipe.section(PRONUNCIATIONS, PronunciationOptions).minimum
    recorded = RecordedWays.of((words for _, words in recordings), minimum, recipe.seed)
    sayable = [sentence for sentence in said if table.entries(sentence.words)]
    _mend(recipe, recipe.voice_of_lessons, table, recorded, sayable, options, recipe.lessons / "listened.jsonl")
    table.save(target)
    return table


def _check_speaks(recipe: Recipe, section: str) -> None:
    """Raise Im2SpError where `_voice` cannot speak for a section with `heard`."""
    if HIFIGAN in recipe.sections and not recipe.keeps_voice:
        raise Im2SpError(f"[{section}] with `heard` speaks through our own vocoder, not a [{HIFIGAN}]: leave out one")


def _mend(
    recipe: Recipe,
    voice: Path,
    table: Pronunciations,
    recorded: RecordedWays,
    sentences: Sequence[Sentence],
    options: Mending,
    cache: Path,
) -> None:
    """Let the recipe's recogniser hear sentences in the voice in a folder, and change entries that it misses."""
    from im2sp.train.evaluate.recognisers import open_recogniser
    from im2sp.train.stages.mend import mend

    recogniser = open_recogniser(recipe.recogniser, len(os.sched_getaffinity(0)))
    changed = mend(table, recorded, sentences, options, _voice(recipe, voice), recogniser, cache)
    log.info("%d entries are said in another way", changed)


def _voice(recipe: Recipe, folder: Path) -> Callable[[IntArray], FloatArray]:
    """The voice in a folder, or the parent's where that is kept: units without repeats -> waveform float32 [samples].

    At 16 kHz.
    """
    from im2sp.captioner import Captioner
    from im2sp.train.models.unit_vocoder import load_vocoder, say

    if recipe.keeps_voice:
        captioner = Captioner(parent_of(recipe), threads=1)
        return lambda units: captioner.speak(units).waveform
    networks = load_vocoder(folder)
    return lambda units: say(*networks, units)


def vocoder(recipe: Recipe) -> None:
    """Units and speech -> vocoder and duration predictor: ours, or a unit HiFi-GAN where the recipe has [hifigan]."""
    from im2sp.train.models.saving import CONFIG
    from im2sp.train.models.unit_hifigan import UnitHifiganConfig
    from im2sp.train.models.unit_vocoder import VocoderConfig, load_vocoder
    from im2sp.train.stages import vocoder as stage
    from im2sp.train.training.hifigan import HifiganTraining
    from im2sp.train.training.vocoder import VocoderTraining, train_vocoder

    if (recipe.vocoder / CONFIG).is_file():
        log.info("vocoder: %s holds a finished one, trained or converted", recipe.vocoder)
        return
    if HIFIGAN in recipe.sections and (other := sorted({"vocoder", "vocoder_sizes"} & set(recipe.sections))):
        raise Im2SpError(f"the recipe has [{HIFIGAN}] and [{other[0]}]: leave out one, as they are two vocoders")
    # A voice that learns on hears the sentences that it is going to say, too.
    parts = ("train", "distilled") if REVOICE in recipe.sections else ("train",)
    clips, count = stage.clips_of(recipe.speech, recipe.units, recipe.vocoder, parts), unit_count(recipe)
    if HIFIGAN in recipe.sections:
        sizes = recipe.section("hifigan_sizes", UnitHifiganConfig, units=count)
        stage.train_published(clips, sizes, recipe.section(HIFIGAN, HifiganTraining, seed=recipe.seed), recipe.vocoder)
        return
    sizes_of_new = recipe.section("vocoder_sizes", VocoderConfig, units=count)
    start = load_vocoder(recipe.first_vocoder) if REVOICE in recipe.sections else sizes_of_new
    train_vocoder(clips, start, recipe.section("vocoder", VocoderTraining, seed=recipe.seed), recipe.vocoder)
