"""Captions, teachers, lexicon and voice -> captions in units, vocabulary, unit captioner."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.captioner import Captioner
from im2sp.files import atomic_write, sha256_of, write_json
from im2sp.train.data.caption_targets import Target
from im2sp.train.data.object_names import named_objects, read_synonyms
from im2sp.train.data.photo_corpora import class_phrases, names_thing
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.unit_bpe import UnitBPE
from im2sp.train.data.unit_table import UnitRow, iterate_unit_tables
from im2sp.train.data.unit_words import PIECE, SILENCE, Spoken, SpokenWords, TokenWords, spoken
from im2sp.train.evaluate.dev_report import write_captions
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.launch import is_main_process
from im2sp.train.lexicon.asr_feedback import Sentence, apply_asr_feedback
from im2sp.train.lexicon.captions import LexiconSpeaker, TextCaption, write_caption_units
from im2sp.train.lexicon.clear_speech import ClearSpeech
from im2sp.train.lexicon.lexicon import SILENCES, PronunciationLexicon, Variants
from im2sp.train.models.git import GitDecoderConfig
from im2sp.train.models.tagger import Tagger
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.recipes.captioner.options import (
    CAPTIONER,
    DISTILLED,
    LABELS,
    OUTPUT_UNITS,
    PSEUDO,
    SENTENCES,
    SPOKEN,
    SYNONYMS,
    TAGGER,
    TOKEN_WORDS,
    TOKENIZER,
    UNIT_BPE,
    VOCABULARY,
    Recipe,
    captions_of,
    class_names,
    corpora_of,
    naming_of,
    teachers_of,
    units_of,
    voice_of,
)
from im2sp.train.tasks.captioner import CaptionerTask
from im2sp.train.trainer import train

log = logging.getLogger(__name__)

PART = 1000  # photos that a process captions at once
PEOPLE, MODEL = "people", "model"  # names of tables: by whom the captions are
NAMES = "names"  # split of the sentences that hold the names of classes


def _say(recipe: Recipe, captions: Sequence[TextCaption], path: Path) -> None:
    """Write captions in units of the lexicon."""
    speaker = LexiconSpeaker(PronunciationLexicon.load(recipe.lexicon), PiperSynthesizer(SynthesisConfig()).phones)
    description: dict[str, str | int] = {"lexicon": sha256_of(recipe.lexicon)}
    write_caption_units(captions, speaker, recipe.voice, description, path)


def make_caption_units(recipe: Recipe, out: Path) -> None:
    """Say the captions of people, the pseudo-labels, and the names of classes."""
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
    names = [TextCaption(name, f"There is a {name} here.", NAMES) for name in sorted({*class_names(recipe)} - {""})]
    captions += recipe.vocabulary.min_count * names  # often enough for a token of each
    _say(recipe, captions, out / f"{PEOPLE}.parquet")


def _describe(recipe: Recipe, photos: Sequence[str]) -> dict[str, list[str]]:
    """Caption photos by the teachers, with a bonus for the names of classes."""
    torch.set_num_threads(1)
    models = teachers_of(recipe)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    return write_captions(models, tokenizer.decode, units_of(recipe), photos, recipe.beam, naming_of(recipe, models[0]))


def _known_objects(recipe: Recipe) -> dict[str, set[str]]:
    """Objects of the photos where they are known, and those that their captions name."""
    corpora, synonyms = corpora_of(recipe), read_synonyms(recipe.data / SYNONYMS)
    described = captions_of(corpora)
    return {
        photo: {*names, *(name for text in described.get(photo, ()) for name in named_objects(text, synonyms))}
        for photo, names in corpora.objects.items()
    }


def make_distilled(recipe: Recipe, out: Path) -> None:
    """Caption the photos that train by the teachers, and say what names nothing absent."""
    corpora, options = corpora_of(recipe), recipe.distillation
    photos = corpora.train_photos
    parts = [photos[start : start + PART] for start in range(0, len(photos), PART)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # as many as there are cores, a thread each
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
    captions = [TextCaption(photo, text) for photo, texts in kept.items() for text in texts]
    _say(recipe, captions, out / f"{MODEL}.parquet")


def _spoken_words(recipe: Recipe, rows: Iterable[UnitRow]) -> SpokenWords:
    """Count how the words of captions are said."""
    silences = {
        spoken(units)
        for (_, word, _), units in PronunciationLexicon.load(recipe.lexicon).entries.items()
        if word in SILENCES
    }
    return SpokenWords(rows, silences, TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER))


def _spoken_captions(recipe: Recipe) -> dict[str, list[UnitRow]]:
    """Captions of the photos that train, in units, by whom they are."""
    tables = {PEOPLE: recipe.runs / SPOKEN, MODEL: recipe.runs / DISTILLED}
    return {name: list(iterate_unit_tables(folder, "train")) for name, folder in tables.items()}


def make_vocabulary(recipe: Recipe, out: Path) -> None:
    """Choose the tokens, and write the sentences of all photos in them."""
    options, rows = recipe.vocabulary, _spoken_captions(recipe)
    rows[NAMES] = list(iterate_unit_tables(recipe.runs / SPOKEN, NAMES))
    said = _spoken_words(recipe, itertools.chain(*rows.values()))
    chosen = said.choose(options.whole_words, options.min_count)
    bpe = UnitBPE.train(
        said.seen.elements(), voice_of(recipe).config.vocoder.units, options.subwords, whole_words=chosen
    )
    bpe.save(out / UNIT_BPE)
    TokenWords.of(said, bpe).save(out / TOKEN_WORDS)
    rows["dev"] = list(iterate_unit_tables(recipe.runs / SPOKEN, "dev"))
    sentences: dict[str, dict[str, list[list[int]]]] = {name: defaultdict(list) for name in rows}
    for name, some in rows.items():
        for row in some:
            tokens = bpe.encode(said.replaced(spoken(word)) for word in row.words())
            if len(tokens) <= recipe.max_tokens:
                sentences[name][row.image_id].append(tokens)
    with atomic_write(out / SENTENCES) as temporary:
        temporary.write_text(json.dumps(sentences))


def make_feedback(recipe: Recipe, out: Path) -> None:
    """Replace how tokens are said that a recogniser misses in captions of photos that train, and names of classes."""
    voice, folder = voice_of(recipe), recipe.runs / VOCABULARY
    bpe, words = UnitBPE.load(folder / UNIT_BPE, voice.config.vocoder.units), TokenWords.load(folder / TOKEN_WORDS)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    sentences = json.loads((folder / SENTENCES).read_text())

    def written(name: str) -> list[Sentence[int]]:
        counts = Counter(tuple(sentence[1:-1]) for some in sentences[name].values() for sentence in some)
        return [
            Sentence(tokenizer.decode(words.decode(tokens)), tokens, places, count)
            for tokens, count in counts.items()
            if PIECE not in words.words[list(tokens)]
            if (places := tuple(place for place, token in enumerate(tokens) if words.words[token] != SILENCE))
        ]

    said = _spoken_words(recipe, itertools.chain(*_spoken_captions(recipe).values()))
    variants = Variants(PronunciationLexicon.load(recipe.lexicon))
    subwords = {token: tuple(subword) for token, subword in enumerate(bpe.subwords(), SPECIAL_TOKENS)}
    units = dict(subwords)
    captioner, recogniser = Captioner(voice, threads=1), open_recogniser("base", threads=torch.get_num_threads())
    captions, names, options = written(MODEL), written(NAMES), recipe.asr_feedback
    clear, holding = ClearSpeech(SynthesisConfig(), captioner.units), _texts_by_token([*captions, *names])

    def others(token: int, count: int) -> list[Spoken]:
        variant, word = subwords[token], words.words[token].item()
        known = dict.fromkeys([*said.others(variant, count), *variants.others(variant)])
        recorded = clear.ways(tokenizer.decode([int(word)]), holding[token]) if word >= 0 else []
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
        log.info("ASR feedback changed %d of %d tokens", changed, len(units))
    write_json(out / OUTPUT_UNITS, {token: said for token, said in units.items() if said != subwords[token]})


def _texts_by_token(sentences: Iterable[Sentence[int]]) -> dict[int, list[str]]:
    """The most frequent sentences that hold each token, two at most."""
    found: dict[int, list[str]] = defaultdict(list)
    for sentence in sorted(sentences, key=lambda sentence: -sentence.count):
        for token in set(sentence.entries):
            if len(found[token]) < 2:
                found[token].append(sentence.text)
    return found


def spoken_targets(recipe: Recipe, sentences: dict[str, dict[str, list[list[int]]]]) -> list[Target]:
    """Photos with sentences of people and, several times, of the teachers; COCO's drawn more often."""
    people, model = sentences[PEOPLE], sentences[MODEL]
    weights = {
        photo: recipe.corpus_weights.get(name, 1.0)
        for name, part in corpora_of(recipe).captions.items()
        for photo in part
    }
    found = {
        photo: people.get(photo, []) + recipe.distillation.repeats * model.get(photo, [])
        for photo in sorted(people.keys() | model.keys())
    }
    return [Target(photo, some, weights.get(photo, 1.0)) for photo, some in found.items()]


def new_unit_captioner(recipe: Recipe, tagger: Tagger, words: TokenWords, text: UnitCaptioner | None) -> UnitCaptioner:
    """A unit captioner of the text captioner's sizes that knows what it knows, or nothing."""
    sizes = {name: getattr(recipe.decoder, name) for name in ("width", "layers", "heads", "feed_forward")}
    config = GitDecoderConfig(vocabulary_size=len(words.words), max_positions=recipe.max_tokens, **sizes)
    model = UnitCaptioner(config, tagger)
    if text is None:
        model.separate_tags(tagger.config.vocabulary_size)
    else:
        model.start_from(text, words.words, words.shares)
    return model


def make_unit_captioner(recipe: Recipe, out: Path) -> None:
    """Train the unit captioner, which starts from the text captioner, by cross-entropy."""
    folder = recipe.runs / VOCABULARY
    words, sentences = TokenWords.load(folder / TOKEN_WORDS), json.loads((folder / SENTENCES).read_text())
    torch.manual_seed(recipe.seed)
    text = UnitCaptioner.load(recipe.runs / CAPTIONER)
    model = new_unit_captioner(recipe, Tagger.load(recipe.runs / TAGGER), words, text)
    dev = {
        name: [Target(photo, sentences["dev"][photo], 1.0) for photo in part if photo in sentences["dev"]][:300]
        for name, part in corpora_of(recipe).dev.items()
    }
    targets = spoken_targets(recipe, sentences)
    train(CaptionerTask(recipe.unit_captioner, model, units_of(recipe), targets, dev), out)
    if is_main_process():
        model.save(out)
