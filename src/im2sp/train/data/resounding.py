"""Another voice for a finished translator: what each of its subwords is in the units of the new voice.

In regular units (`data.pronunciations`) a sentence is a function of its words, in one voice as in another. So
the same sentence, said by two tables of pronunciations, tells which of the new units lie where a subword of the old
ones lies: its ends fall into words, and a word takes its course alike in both. From then on a subword is said by what
it stands for most often, or by what joins best with its neighbours. The translator stays as it is: its tokens are signs
that mean what they meant.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from im2sp.arrays import IntArray
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import Im2SpError
from im2sp.train.data.pronunciations import Pronunciations, Units, plain
from im2sp.train.data.unit_subwords import FIRST_SUBWORD, UnitSubwords

CANDIDATES = 6  # ways of saying a subword that are compared
ROUNDS = 4
SENTENCES = 12_000  # on which they are compared in a round
_CHANGED = 0.6  # share of the subwords that may change in the first rounds, as neighbours that change at once miss


class Said(NamedTuple):
    """A sentence in subwords of the old units, and in new units."""

    subwords: list[int]
    units: Units  # without repeats
    times: int  # how often it was given


def resounded(
    subwords: UnitSubwords,
    before: Pronunciations,
    after: Pronunciations,
    sentences: Iterable[Sequence[str]],
    seed: int = 0,
) -> list[list[int]]:
    """The new units of every subword, by subword id; nothing for a subword that no sentence has.

    Args:
        subwords: of the translator, over the units that `before` gives.
        before, after: how words are said in the units that the translator learned, and in those of the new voice.
        sentences: phones of each word, of the sentences that the translator learned from.

    Raises:
        Im2SpError: no sentence can be said by both tables.
    """
    lengths = [len(units) for units in subwords.table()]
    votes: defaultdict[int, Counter[Units]] = defaultdict(Counter)
    said = []
    for words, times in Counter(tuple(words) for words in sentences).items():
        if pieces := _aligned(subwords, lengths, before, after, words):
            for subword, units in pieces:
                votes[subword][units] += times
            whole = tuple(unit for _, units in pieces for unit in units)
            said.append(Said([subword for subword, _ in pieces], whole, times))
    if not said:
        raise Im2SpError("no sentence can be said by both tables of pronunciations: are they of one voice's phones?")
    candidates = {subword: [units for units, _ in found.most_common(CANDIDATES)] for subword, found in votes.items()}
    chosen = _joined(candidates, said, random.Random(seed))
    return [list(chosen.get(subword, ())) for subword in range(len(lengths))]


def mean_difference(
    table: list[list[int]], subwords: UnitSubwords, pairs: Iterable[tuple[IntArray, IntArray]]
) -> float:
    """How far sentences that are put together by a table are from those that they should be: a share of their units.

    Args:
        pairs: units without repeats of sentences, old ones and new ones.
    """
    vocabulary, differences = Vocabulary(subwords.vocabulary(table)), []
    for old, new in pairs:
        found = vocabulary.decode(subwords.encode(old))
        differences.append(Levenshtein.normalized_distance(found.tolist(), new.tolist()))
    return float(np.mean(differences))


def _joined(candidates: dict[int, list[Units]], said: list[Said], draw: random.Random) -> dict[int, Units]:
    """Of the candidates of each subword the one with which sentences are most like what they should be."""
    chosen = {subword: found[0] for subword, found in candidates.items()}
    for number in range(ROUNDS):
        errors: defaultdict[int, Counter[Units]] = defaultdict(Counter)
        for sentence in draw.sample(said, min(SENTENCES, len(said))):
            pieces = [chosen[subword] for subword in sentence.subwords]
            for place, subword in enumerate(sentence.subwords):
                for candidate in candidates[subword]:
                    tried = [unit for piece in (*pieces[:place], candidate, *pieces[place + 1 :]) for unit in piece]
                    error = Levenshtein.distance(plain(tried), sentence.units)
                    errors[subword][candidate] += error * min(sentence.times, 5)
        for subword, found in errors.items():
            if number >= ROUNDS // 2 or draw.random() < _CHANGED:
                chosen[subword] = min(candidates[subword], key=found.__getitem__)  # of equals the commonest
    return chosen


def _aligned(
    subwords: UnitSubwords, lengths: Sequence[int], before: Pronunciations, after: Pronunciations, words: Sequence[str]
) -> list[tuple[int, Units]]:
    """Subword ids of a sentence with the new units of each; together these are the sentence in new units.

    Nothing where one of the tables cannot say it.
    """
    entries = before.entries(words), after.entries(words)
    if entries[0] is None or entries[1] is None:
        return []
    old, old_places = _begins([before.way(entry) for entry in entries[0]])
    new, new_places = _begins([after.way(entry) for entry in entries[1]])
    pieces, first, end = [], 0, 0
    for token in subwords.encode(old)[1:-1]:
        end += lengths[token - FIRST_SUBWORD]
        last = len(new)
        if end < len(old) and first < last:  # up to the unit that begins nearest to where the next subword begins
            last = first + int(np.abs(new_places[first:] - old_places[end]).argmin())
        pieces.append((token - FIRST_SUBWORD, tuple(new[first:last].tolist())))
        first = last
    return pieces


def _begins(ways: Sequence[Units]) -> tuple[IntArray, np.ndarray]:
    """Frames of each word -> (units without repeats, where each begins: words before it and share of its own word)."""
    frames = np.concatenate([np.asarray(way, np.int64) for way in ways])
    places = np.concatenate([number + np.arange(len(way)) / max(1, len(way)) for number, way in enumerate(ways)])
    changes = np.concatenate([[True], frames[1:] != frames[:-1]])
    return frames[changes], places[changes]
