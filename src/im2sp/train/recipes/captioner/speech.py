"""Teachers, lexicon and voice -> captions of the teachers, and a vocabulary whose words are understood."""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from im2sp.captioner import Captioner
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.files import write_json
from im2sp.train.data.object_names import named_objects, read_synonyms
from im2sp.train.data.photo_corpora import Captions, class_phrases, names_thing
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.unit_words import WORD_VOCABULARY, WordVocabulary
from im2sp.train.distributed import work_alone
from im2sp.train.evaluate.dev_report import write_captions
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.lexicon.asr_feedback import Sentence, apply_asr_feedback
from im2sp.train.lexicon.clear_speech import ClearSpeech
from im2sp.train.lexicon.lexicon import LexiconSpeaker, PronunciationLexicon, Spoken, Variants
from im2sp.train.lexicon.pronunciations import CARRIER, SpokenSentence, SpokenWords, changed_words, sounds_of
from im2sp.train.recipes.captioner.options import (
    DISTILLED,
    LABELS,
    PSEUDO,
    SUBWORDS,
    SYNONYMS,
    TAGGER,
    TOKENIZER,
    Recipe,
    captions_of,
    class_names,
    corpora_of,
    naming_of,
    presence_penalty,
    read_labels,
    teachers_of,
    units_of,
    voice_of,
)

log = logging.getLogger(__name__)

PART = 1000  # photos that a process captions at once


def _describe(recipe: Recipe, photos: Sequence[str]) -> dict[str, list[str]]:
    """Caption photos by the teachers, with a bonus for the names of classes."""
    models = teachers_of(recipe)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    naming = naming_of(recipe, models[0], tokenizer.words)
    penalty = presence_penalty(recipe, tokenizer)
    return write_captions(models, tokenizer.decode, units_of(recipe), photos, recipe.beam, naming, penalty)


def _known_objects(recipe: Recipe) -> dict[str, set[str]]:
    """Objects of the photos where they are known, and those that their captions name."""
    corpora, synonyms = corpora_of(recipe), read_synonyms(recipe.data / SYNONYMS)
    described = captions_of(corpora)
    return {
        photo: {*names, *(name for text in described.get(photo, ()) for name in named_objects(text, synonyms))}
        for photo, names in corpora.objects.items()
    }


def make_distilled(recipe: Recipe, out: Path) -> None:
    """Caption the photos that train by the teachers, and keep what names nothing absent."""
    corpora, options = corpora_of(recipe), recipe.distillation
    photos = corpora.train_photos
    parts = [photos[start : start + PART] for start in range(0, len(photos), PART)]
    with ProcessPoolExecutor(None, get_context("spawn"), work_alone, (1,)) as pool:  # as many as there are cores
        found = dict(
            itertools.chain.from_iterable(part.items() for part in pool.map(partial(_describe, recipe), parts))
        )
    synonyms, known, phrases = read_synonyms(recipe.data / SYNONYMS), _known_objects(recipe), class_phrases(corpora)

    def fits(photo: str, text: str) -> bool:
        if photo in phrases:
            return names_thing(text, phrases[photo])
        return photo not in known or known[photo].issuperset(named_objects(text, synonyms))

    kept = {
        photo: fitting
        for photo, texts in found.items()
        if (fitting := [text for text in texts[: options.hypotheses] if fits(photo, text)])
    }
    log.info("%d of %d photos have captions of the teachers that fit", len(kept), len(photos))
    write_json(out / LABELS, kept)


def _names(recipe: Recipe) -> list[str]:
    """A sentence with the name of each class that captions do not teach."""
    return [CARRIER.format(name) for name in sorted({*class_names(recipe)} - {""})]


def make_vocabulary(recipe: Recipe, out: Path) -> None:
    """Make tokens of the words of all captions that the lexicon says, and choose how each is said between others."""
    corpora, tokenizer = corpora_of(recipe), TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    speaker = LexiconSpeaker(PronunciationLexicon.load(recipe.lexicon), PiperSynthesizer(SynthesisConfig()).phones)
    parts: list[Captions] = [*corpora.captions.values(), *(read_labels(recipe, one) for one in (PSEUDO, DISTILLED))]
    texts = Counter(
        text for part in parts for photo, captions in part.items() for text in captions if photo not in corpora.held_out
    )
    texts.update(_names(recipe))
    sentences = {text: SpokenSentence.of(text, tokenizer, speaker) for text in texts}
    known = [sentence for text in texts.elements() if (sentence := sentences[text])]
    said = SpokenWords(known, sounds_of(tokenizer, speaker))
    units, chosen = voice_of(recipe).config.vocoder.units, PronunciationLexicon.load(recipe.pronunciations)
    vocabulary = said.vocabulary(tokenizer, units, recipe.vocabulary, chosen)
    vocabulary.save(out / Path(WORD_VOCABULARY).name)
    log.info("%d words, said in %d ways", len(vocabulary.words), len(vocabulary.spoken.subwords))


def make_feedback(recipe: Recipe, out: Path) -> None:
    """Replace how words are said that a recogniser misses in captions of photos that train, and names of classes."""
    vocabulary = WordVocabulary.load(recipe.runs / WORD_VOCABULARY)
    said, written = vocabulary.token_of_subwords(), partial(_sentences, vocabulary)
    captions = written(text for texts in read_labels(recipe, DISTILLED).values() for text in texts)
    names, options = written(_names(recipe)), recipe.asr_feedback
    variants = Variants(PronunciationLexicon.load(recipe.lexicon))
    before = [tuple(units) for units in vocabulary.spoken.subwords]
    units = dict(enumerate(before))
    ways: defaultdict[int, list[Spoken]] = defaultdict(list)
    for token, way in zip(said, before, strict=True):
        ways[token].append(way)
    captioner, recogniser = Captioner(voice_of(recipe), threads=1), open_recogniser("base", torch.get_num_threads())
    clear, holding = ClearSpeech(SynthesisConfig(), captioner.units), _texts_by_entry([*captions, *names])

    def others(subword: int, count: int) -> list[Spoken]:
        way, token = before[subword], said[subword]
        known = dict.fromkeys([*(other for other in ways[token] if other != way), *variants.others(way)])
        recorded = clear.ways(word, holding[subword]) if (word := vocabulary.decode([token])) else []
        return list(dict.fromkeys([*list(known)[: count // 2], *recorded, *known]))[:count]

    for part, config in (
        (captions, options),
        (names, replace(options, sentences=len(names), repeats=1, candidates=6)),
        # "a" and "in" are in most captions, so that few of them may be missed
        (captions, replace(options, entries=20, repeats=20, error_rate=0.06)),
    ):
        changed = apply_asr_feedback(
            units,
            others,
            part,
            config,
            lambda spoken_units: captioner.speak(spoken_units).waveform,
            recogniser,
            out / "transcripts.jsonl",
        )
        log.info("ASR feedback changed %d of %d ways", changed, len(units))
    chosen = {subword: way for subword, way in units.items() if way != before[subword]}
    write_json(out / SUBWORDS, chosen)
    pronunciations = PronunciationLexicon.load(recipe.pronunciations)
    pronunciations.entries |= changed_words(vocabulary, chosen).entries
    pronunciations.save(out / recipe.pronunciations.name)


def _sentences(vocabulary: WordVocabulary, texts: Iterable[str]) -> list[Sentence[int]]:
    """Find the subwords that say each text; leave out texts with words that have no token."""
    spoken = Vocabulary(vocabulary.spoken)
    found = ((vocabulary.encode(text), count) for text, count in Counter(texts).items())
    return [
        Sentence(vocabulary.decode(tokens), tuple(spoken.pronounce(tokens)), tuple(range(1, len(tokens) + 1)), n)
        for tokens, n in found
        if tokens
    ]


def _texts_by_entry(sentences: Iterable[Sentence[int]]) -> dict[int, list[str]]:
    """The most frequent sentences that hold each entry, two at most."""
    found: dict[int, list[str]] = defaultdict(list)
    for sentence in sorted(sentences, key=lambda sentence: -sentence.count):
        for entry in set(sentence.entries):
            if len(found[entry]) < 2:
                found[entry].append(sentence.text)
    return found
