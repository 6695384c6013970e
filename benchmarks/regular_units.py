"""How much of a sentence in speech units is chance: units as they were heard, and regular ones, side by side.

    python benchmarks/regular_units.py --recipe recipes/flickr8k/retaught.toml [--runs RUNS]

RUNS is the folder of a run of a recipe with [pronunciations], up to the stage `pronounce`. Printed for both kinds:

    subwords       of a sentence, by byte-pair encoding of so many subwords, learnt from the same sentences
    twice          of sentences that were spoken more than once: share of units, and of subwords, that differ
    six words      the same of the first six words of sentences that go on differently (regular: of as many units)
    bigram         cross-entropy [nats a sentence] of a bigram model of subwords (two thirds learn, one third is tested)

and the ratio of the last. Shares are 1 - 2 M / T, M matches of `difflib` and T the length of both.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import numpy as np

from im2sp.speech.units import without_repeats
from im2sp.train.data.pronunciations import phones_of_words, spoken_words
from im2sp.train.data.speech_shards import read_phones
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.data.unit_table import description_of, iterate_unit_tables, unit_table_files
from im2sp.train.recipe import Recipe

FIRST_WORDS = 6
PAIRS = 300  # of sentences that are compared


@dataclass(frozen=True)
class Said:
    """A sentence in units without repeats, and its first words alone."""

    words: tuple[str, ...]
    units: np.ndarray
    beginning: np.ndarray


def read(recipe: Recipe) -> tuple[list[Said], list[Said]]:
    """The spoken sentences of the train part as they were heard, and in regular units."""
    phones = {said.caption_id: said for said in read_phones(recipe.speech)}
    regular = {row.caption_id: row.speech_units for row in iterate_unit_tables(recipe.lessons, "train")}
    heard, pronounced = [], []
    for row in iterate_unit_tables(recipe.units, "train"):
        if row.caption_id not in regular:
            continue
        said = phones[row.caption_id]
        words = tuple(phones_of_words(said.phones))
        parts = spoken_words(said.phones, said.phone_samples, row.speech_units)
        first = [unit for word in parts[: FIRST_WORDS + 1] for unit in word.units]  # and the silence before
        heard.append(Said(words, without_repeats(row.speech_units), without_repeats(first)))
        units = without_repeats(regular[row.caption_id])
        pronounced.append(Said(words, units, units[: len(heard[-1].beginning)]))
    return heard, pronounced


def apart(one: Sequence[int], other: Sequence[int]) -> float:
    """Share that differs."""
    return 1 - SequenceMatcher(None, list(one), list(other), autojunk=False).ratio()


def alike(sentences: list[Said], words: int | None) -> list[tuple[int, int]]:
    """Pairs of sentences of the same words; or of the same first words that go on differently."""
    groups: defaultdict[tuple[str, ...], dict[tuple[str, ...], int]] = defaultdict(dict)
    pairs = []
    for number, said in enumerate(sentences):
        if words is None:  # recordings that are the same to the last unit are one, which was kept for both
            groups[said.words].setdefault(tuple(map(str, said.units)), number)
        else:
            groups[said.words[: words + 1]].setdefault(said.words, number)
    for group in groups.values():
        if len(group) > 1:
            first, second = list(group.values())[:2]
            pairs.append((first, second))
    return pairs[:PAIRS]


def bigram(tokens: list[list[int]]) -> float:
    """Nats a sentence."""
    learnt, tested = tokens[: len(tokens) * 2 // 3], tokens[len(tokens) * 2 // 3 :]
    single = Counter(token for sentence in learnt for token in sentence)
    double = Counter(pair for sentence in learnt for pair in pairwise(sentence))
    total, kinds = single.total(), len(single) + 1
    nats = 0.0
    for left, right in (pair for sentence in tested for pair in pairwise(sentence)):
        alone = (single[right] + 1) / (total + kinds)
        nats -= math.log((double[left, right] + 2 * alone) / (single[left] + 2))
    return nats / len(tested)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/retaught.toml"))
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe, runs=arguments.runs)
    (count,) = {description_of(path)["units"] for path in unit_table_files(recipe.units)}
    print("| units | sentences | units each | subwords each | twice: units, subwords | six words | bigram |")
    print("|---" * 7 + "|")
    entropies = []
    for name, sentences in zip(("as heard", "regular"), read(recipe), strict=True):
        subwords = UnitSubwords.train((said.units for said in sentences), count, recipe.subwords)
        tokens = [subwords.encode(said.units) for said in sentences]
        cells = []
        for words in (None, FIRST_WORDS):
            pairs = alike(sentences, words)
            whole = [(said.units if words is None else said.beginning) for said in sentences]
            for coded in (lambda units: units, subwords.encode):
                shares = [apart(coded(whole[one]), coded(whole[other])) for one, other in pairs]
                cells.append(f"{np.mean(shares):.1%}" if shares else "none")
        entropies.append(bigram(tokens))
        lengths = [f"{np.mean([len(said.units) for said in sentences]):.1f}", f"{np.mean(list(map(len, tokens))):.1f}"]
        shares_of = [", ".join(cells[:2]), ", ".join(cells[2:])]
        print(f"| {' | '.join([name, str(len(sentences)), *lengths, *shares_of, f'{entropies[-1]:.1f}'])} |")
    print(f"\nbigram, as heard / regular: {entropies[0] / entropies[1]:.2f} times")


if __name__ == "__main__":
    main()
