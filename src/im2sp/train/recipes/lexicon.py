"""Recipe of a pronunciation lexicon: texts and a voice -> recordings of the synthetic voice -> lexicon.parquet.

The bundle that is named as `voice` gives the speech encoder that hears units, and the vocoder that ASR feedback listens
to. A captioner recipe of the same voice names the lexicon.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from im2sp.bundle import Bundle, find_bundle
from im2sp.captioner import Captioner
from im2sp.files import write_json
from im2sp.train.data.photo_corpora import read_photo_corpora
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig
from im2sp.train.data.tiny_photo_corpora import write_tiny_photo_corpora
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.lexicon.asr_feedback import AsrFeedbackConfig, Sentence, apply_asr_feedback
from im2sp.train.lexicon.lexicon import SILENCES, Context, PronunciationLexicon, words_of
from im2sp.train.lexicon.medoids import RecordedPronunciations, align
from im2sp.train.lexicon.recordings import read_recordings, record
from im2sp.train.lexicon.selection import SelectionConfig, select_sentences
from im2sp.train.lexicon.texts import read_texts
from im2sp.train.stages import BaseRecipe, Stage

log = logging.getLogger(__name__)

SENTENCES, RECORDINGS, LEXICON = "sentences", "recordings", "lexicon"
SELECTED = "selected.json"  # sentences to record, the most useful first
HELD_OUT = "held_out.json"  # captions that are never recorded
LEXICON_FILE = "lexicon.parquet"
MIN_RECORDINGS = 3  # of a word between the same neighbours for an entry of its own
MIN_GAIN = 0.08  # of an entry over that of the next wider context
RECOGNISER = "base"


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Options of a lexicon; `data` holds the folders of the corpora."""

    voice: str = "default"  # a bundle
    lists: Path = Path("recipes/captioner")  # folder of things.txt and imagenet_classes.txt
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    asr_feedback: AsrFeedbackConfig = field(default_factory=AsrFeedbackConfig)


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
    record(selected, PiperSynthesizer(recipe.synthesis), _captioner(recipe).units, out)


def make_lexicon(recipe: Recipe, out: Path) -> None:
    """Take the medoid of each context, and replace what the recogniser does not understand."""
    words = (align(one.phones, one.phone_samples, one.units) for one in read_recordings(recipe.runs / RECORDINGS))
    recorded = RecordedPronunciations(words, MIN_RECORDINGS, random.Random(recipe.seed))
    lexicon = recorded.lexicon(MIN_GAIN)
    if recipe.asr_feedback.sentences:
        captioner = _captioner(recipe)
        changed = apply_asr_feedback(
            lexicon.entries,
            recorded.alternatives,
            list(_sentences(recipe, lexicon)),
            recipe.asr_feedback,
            lambda units: captioner.speak(units).waveform,
            open_recogniser(RECOGNISER),
            out / "transcripts.jsonl",
        )
        log.info("ASR feedback changed %d of %d entries", changed, len(lexicon))
    lexicon.save(out / LEXICON_FILE)


def _texts(recipe: Recipe) -> tuple[Counter[str], list[str]]:
    """Texts and how often each occurs; captions that are held out."""
    corpora = read_photo_corpora(recipe.data, recipe.lists)
    return read_texts(corpora, random.Random(recipe.seed))


def _sentences(recipe: Recipe, lexicon: PronunciationLexicon) -> Iterator[Sentence[Context]]:
    """All texts that the lexicon can say."""
    voice = PiperSynthesizer(recipe.synthesis)
    for text, count in _texts(recipe)[0].items():
        words = words_of(voice.phones(text))
        if contexts := lexicon.lookup(words):
            places = tuple(place for place, word in enumerate(words) if word not in SILENCES)
            yield Sentence(text, tuple(contexts), places, count)


def _captioner(recipe: Recipe) -> Captioner:
    """The voice: speech encoder and vocoder of the bundle."""
    return Captioner(Bundle.load(find_bundle(recipe.voice)), threads=1)


STAGES = [
    Stage[Recipe]("select", SENTENCES, make_sentences),
    Stage[Recipe]("record", RECORDINGS, make_recordings, (SENTENCES,)),
    Stage[Recipe]("lexicon", LEXICON, make_lexicon, (RECORDINGS,)),
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
    )
