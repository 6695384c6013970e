"""Recipe of a pronunciation lexicon: texts and a voice -> recordings of the synthetic voice -> lexicon.parquet.

The bundle that is named as `voice` gives the speech encoder that hears units, and the vocoder and durations that are
trained further on the recordings: they learn the sounds of the words that the lexicon says. A captioner recipe names
the lexicon, and the bundle with the further trained voice.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from im2sp.bundle import Bundle, find_bundle
from im2sp.captioner import Captioner
from im2sp.files import write_json
from im2sp.train.data.clips import CLIPS, StoredClips, write_clips
from im2sp.train.data.photo_corpora import read_photo_corpora
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig
from im2sp.train.data.tiny_photo_corpora import write_tiny_photo_corpora
from im2sp.train.distributed import Distributed
from im2sp.train.export import TrainedVoice, replace_vocoder
from im2sp.train.launch import is_main_process
from im2sp.train.lexicon.lexicon import PronunciationLexicon, words_of
from im2sp.train.lexicon.medoids import RecordedPronunciations, align
from im2sp.train.lexicon.recordings import SHARD_SIZE, read_recordings, record
from im2sp.train.lexicon.regular_clips import RegularSpeaker, unit_distances
from im2sp.train.lexicon.selection import SelectionConfig, select_sentences
from im2sp.train.lexicon.texts import read_texts
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig
from im2sp.train.onnx_import import load_graph_weights
from im2sp.train.stages import BaseRecipe, Stage
from im2sp.train.tasks.vocoder import DurationTask, DurationTraining, VocoderTask, VocoderTraining
from im2sp.train.trainer import train

log = logging.getLogger(__name__)

SENTENCES, RECORDINGS, VOICE, LEXICON = "sentences", "recordings", "voice", "lexicon"
BUNDLE = "bundle"  # in the folder of the voice
SELECTED = "selected.json"  # sentences to record, the most useful first
HELD_OUT = "held_out.json"  # captions that are never recorded
LEXICON_FILE = "lexicon.parquet"
MIN_RECORDINGS = 3  # of a word between the same neighbours for an entry of its own
MIN_GAIN = 0.08  # of an entry over that of the next wider context


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Options of a lexicon; `data` holds the folders of the corpora."""

    voice: str = "default"  # a bundle
    lists: Path = Path("recipes/captioner")  # folder of things.txt and imagenet_classes.txt
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    own_vocoder: VocoderConfig = field(default_factory=VocoderConfig)  # sizes of the voice's
    vocoder: VocoderTraining = field(default_factory=lambda: VocoderTraining(steps=2400, learning_rate=6e-4, batch=16))
    durations: DurationTraining = field(default_factory=lambda: DurationTraining(steps=600, learning_rate=3e-4))


def make_sentences(recipe: Recipe, out: Path) -> None:
    """Choose the sentences to record."""
    texts, held_out = _texts(recipe)
    voice = PiperSynthesizer(recipe.synthesis)
    selected = select_sentences(texts, {text: words_of(voice.phones(text)) for text in texts}, recipe.selection)
    log.info("%d sentences of %d are recorded", len(selected), len(texts))
    for name, sentences in ((SELECTED, selected), (HELD_OUT, held_out)):
        write_json(out / name, sentences)


def make_recordings(recipe: Recipe, out: Path) -> None:
    """Speak the sentences and hear their units."""
    selected = json.loads((recipe.runs / SENTENCES / SELECTED).read_text())
    encode = Captioner(_given_voice(recipe), threads=1).units
    record(selected, PiperSynthesizer(recipe.synthesis), encode, out)


def make_lexicon(recipe: Recipe, out: Path) -> None:
    """Take the medoid of each context."""
    words = (align(one.phones, one.phone_samples, one.units) for one in read_recordings(recipe.runs / RECORDINGS))
    recorded = RecordedPronunciations(words, MIN_RECORDINGS, random.Random(recipe.seed))
    recorded.lexicon(MIN_GAIN).save(out / LEXICON_FILE)


def make_voice(recipe: Recipe, out: Path) -> None:
    """Train the vocoder and the duration predictor of the voice further, on the recordings.

    Half of the clips have the units of the recording, half those of the lexicon.
    """
    bundle = _given_voice(recipe)
    sizes = replace(recipe.own_vocoder, units=bundle.config.vocoder.units)
    vocoder, durations = UnitVocoder(sizes), DurationPredictor(sizes)
    load_graph_weights(vocoder, bundle.folder / "vocoder.onnx")
    load_graph_weights(durations, bundle.folder / "duration_predictor.onnx")
    with Distributed().main_first():
        if not (out / CLIPS).is_file():
            lexicon = PronunciationLexicon.load(recipe.runs / LEXICON / LEXICON_FILE)
            speaker = RegularSpeaker(lexicon, unit_distances(vocoder), random.Random(recipe.seed))
            write_clips(_clip_shards(recipe, speaker), f"no recordings are in {recipe.runs / RECORDINGS}", out / CLIPS)
    clips = StoredClips(out / CLIPS)
    of_sound = VocoderTask(recipe.vocoder, vocoder, clips)
    train(of_sound, out / "vocoder")
    of_durations = DurationTask(recipe.durations, durations, [clips[place].units for place in range(len(clips))])
    train(of_durations, out / "durations")
    if is_main_process():
        replace_vocoder(bundle, TrainedVoice(of_sound.model, of_durations.model, None), out / BUNDLE)
        (out / CLIPS).unlink()


def _clip_shards(recipe: Recipe, speaker: RegularSpeaker) -> Iterator[list[dict[str, Any]]]:
    """Recordings with their units and with those of the lexicon, some hundreds at a time."""
    recordings = read_recordings(recipe.runs / RECORDINGS)
    while some := list(islice(recordings, SHARD_SIZE)):
        said = [(one, units) for one in some for units in (one.units, speaker.units(one)) if units is not None]
        yield [{"units": units, "waveform": one.waveform, "speaker": recipe.synthesis.speaker} for one, units in said]


def _texts(recipe: Recipe) -> tuple[Counter[str], list[str]]:
    """Texts and how often each occurs; captions that are held out."""
    corpora = read_photo_corpora(recipe.data, recipe.lists)
    return read_texts(corpora, random.Random(recipe.seed))


def _given_voice(recipe: Recipe) -> Bundle:
    return Bundle.load(find_bundle(recipe.voice))


STAGES = [
    Stage[Recipe]("select", SENTENCES, make_sentences),
    Stage[Recipe]("record", RECORDINGS, make_recordings, (SENTENCES,)),
    Stage[Recipe]("lexicon", LEXICON, make_lexicon, (RECORDINGS,)),
    Stage[Recipe]("voice", VOICE, make_voice, (RECORDINGS, LEXICON), distributed=True),
]


def smoke(folder: Path) -> Recipe:
    """Write tiny corpora; return a recipe that records three of their sentences."""
    write_tiny_photo_corpora(folder / "data", folder / "lists")
    return Recipe(
        "lexicon",
        data=folder / "data",
        runs=folder / "lexicon",
        lists=folder / "lists",
        selection=SelectionConfig(sentences=3),
        vocoder=VocoderTraining(steps=2, batch=2, segment_frames=16),
        durations=DurationTraining(steps=2, batch=2),
    )
