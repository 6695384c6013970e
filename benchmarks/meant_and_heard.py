"""What a bundle means about the dev photos, and what is heard of it: the error budget behind the translator.

    python benchmarks/meant_and_heard.py --recipe recipes/flickr8k/retaught.toml [--runs RUNS] [--learned RUNS]

RUNS is the folder of a finished run of a recipe with [pronunciations], up to `evaluate`; --learned is that of the run
in which its translator learned, where `resound` gave that another voice. Its translator says regular
units, so what it means can be looked up: the nearest (edit distance) of all sentences that the teacher found about any
photo, in the units of the run's table. Printed, on all dev photos that were evaluated:

    teacher        the text captioner's own sentences
    meant          the translator's, through that oracle, and how many are one of the sentences unit for unit
    heard          what the recogniser heard, from the evaluation
    misheard       of the sentences that are known unit for unit: word error rate, sentences with any difference, and
                   with one in a word that matters (neither article nor preposition nor form of "to be")

and the ratio of meant and heard CIDEr. Nothing is spoken or heard anew; finding the sentences takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import structs
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.train.data.flickr8k import clean_text, photo_path
from im2sp.train.data.pronunciations import Pronunciations, phones_of_words
from im2sp.train.data.voice import PiperSpeaker
from im2sp.train.evaluate.caption_metrics import caption_scores
from im2sp.train.evaluate.photo_sets import flickr8k_photos
from im2sp.train.evaluate.report import CAPTIONS
from im2sp.train.evaluate.words import differences, normalise_words, word_error_rate
from im2sp.train.recipe import Recipe
from im2sp.train.stages import listen
from im2sp.train.stages.distil import read_hypotheses
from im2sp.train.stages.mend import Sentence
from im2sp.train.stages.pronounce import TABLE

ARTICLES, PREPOSITIONS = ("a", "an", "the"), ("in", "on", "at", "of", "to", "with", "by")
OTHERS = ("is", "are", "and", "his", "her", "its", "their", "it")
SMALL = frozenset(ARTICLES + PREPOSITIONS + OTHERS)


def known_sentences(recipe: Recipe, teacher: dict[str, str]) -> dict[tuple[int, ...], str]:
    """Sentences by their regular units, in the units that the translator learned."""
    table, speaker = Pronunciations.load(recipe.lessons / TABLE), PiperSpeaker(recipe.voice)
    texts = set(teacher.values())
    texts.update(*read_hypotheses(recipe.distilled).values())
    sentences = (Sentence(text, tuple(phones_of_words(speaker.phones(clean_text(text))))) for text in sorted(texts))
    return {units: sentence.text for units, sentence in listen.known_sentences(sentences, table).items()}


def said_about(recipe: Recipe, photos: list[str]) -> dict[str, tuple[int, ...]]:
    """What the bundle of a run says about photos, in the units that its translator learned, without repeats."""
    captioner = Captioner(Bundle.load(recipe.bundle), threads=1)
    learned = Vocabulary(structs.replace(captioner.bundle.config.vocabulary, output_units=None))
    found = {}
    for image_id in photos:
        tokens = captioner.decode(captioner.encode(photo_path(recipe.data, image_id))).tokens
        found[image_id] = tuple(learned.decode(tokens).tolist())
    return found


def nearest(said: dict[str, tuple[int, ...]], known: dict[tuple[int, ...], str]) -> dict[str, str]:
    """The known sentence with the nearest units, of each."""
    keys = list(known)
    distances = cdist(list(said.values()), keys, scorer=Levenshtein.distance, dtype=np.int32)
    return {image_id: known[keys[int(row.argmin())]] for image_id, row in zip(said, distances, strict=True)}


def confusions(meant: dict[str, str], heard: dict[str, str]) -> tuple[Counter[tuple[str, str]], float, float]:
    """(what was heard in place of what, share of sentences with a difference, with one in a word that matters)."""
    counts: Counter[tuple[str, str]] = Counter()
    different = mattering = 0
    for image_id, text in meant.items():
        written, words = normalise_words(text).split(), normalise_words(heard[image_id]).split()
        pairs = [(written[one], words[other]) for one, other in differences(text, heard[image_id])]
        counts.update((" ".join(one), " ".join(other)) for one, other in pairs)
        different += bool(pairs)
        mattering += any((set(one) | set(other)) - SMALL for one, other in pairs)
    return counts, different / len(meant), mattering / len(meant)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/retaught.toml"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--learned", type=Path)
    parser.add_argument("--confusions", type=int, default=20)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe, arguments.data, arguments.runs)
    (path,) = recipe.evaluation.glob(f"*/{CAPTIONS}")
    heard = json.loads(path.read_text())
    teacher = json.loads((recipe.teacher / "dev_captions.json").read_text())
    references = flickr8k_photos(recipe.data, "dev").references
    learned = replace(recipe, runs=arguments.learned) if arguments.learned else recipe
    known, said = known_sentences(learned, teacher), said_about(recipe, sorted(heard))
    exact = {image_id: known[units] for image_id, units in said.items() if units in known}
    others = {image_id: units for image_id, units in said.items() if units not in known}
    rows = {
        "teacher": {image_id: teacher[image_id] for image_id in said},
        f"meant ({len(exact) / len(said):.0%} of {len(known)} known sentences)": exact | nearest(others, known),
        "heard": heard,
    }
    print("| | BLEU-4 | METEOR | CIDEr | different |")
    print("|---" * 5 + "|")
    ciders = []
    for name, texts in rows.items():
        scores = caption_scores(texts, {image_id: references[image_id] for image_id in said})
        ciders.append(scores.cider)
        cells = [f"{scores.bleu4:.1f}", f"{scores.meteor:.1f}", f"{scores.cider:.3f}"]
        print(f"| {' | '.join([name, *cells, str(scores.different_sentences)])} |")
    rate = word_error_rate([exact[name] for name in exact], [heard[name] for name in exact])
    counts, different, mattering = confusions(exact, heard)
    print(f"\nmisheard, of {len(exact)} sentences: {rate.rate:.1f} % ({rate.low:.1f}-{rate.high:.1f}) of the words;")
    print(f"{different:.1%} of the sentences have a difference, {mattering:.1%} one in a word that matters")
    for (one, other), count in counts.most_common(arguments.confusions):
        print(f"  {count:3d}  {one or '(nothing)'} -> {other or '(nothing)'}")
    print(f"\nCIDEr, meant / heard: {ciders[1] / ciders[2]:.2f} times")


if __name__ == "__main__":
    main()
