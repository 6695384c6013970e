"""How a voice says a word between its neighbours, in speech units; and sentences that are put together from that.

A voice never says the same twice. Of two recordings of one sentence a few units in a hundred differ, of the same six
words before different endings fifteen; as subwords, which are cut anew around every difference, that is most of a
sentence. A translator can only guess such differences, and a search for the likeliest sentence finds the one that is
said most evenly. Where a voice tells when it says which phone, its recordings become a table: of all ways in which a
word was said between two neighbours, the one nearest to all others (their medoid, by edit distance). Sentences of the
table are a function of their words and sound as natural as recordings do, since a word keeps its neighbours' influence.
Words alone, without their neighbours, were not understood (docs/results.md).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from im2sp.speech.units import without_repeats

START, END = "^", "$"  # phones of the voice: silence before and after a sentence, words of their own
PAUSE = " "  # between words; belongs to the word before it
_COMPARED = 60  # ways of saying a word at most that its medoid is looked for among

Units = tuple[int, ...]  # of the frames of a word, 50 Hz, repeats kept
Context = tuple[str | None, str, str | None]  # neighbour before, word, neighbour after; None: whatever it is


@dataclass(frozen=True)
class SpokenWord:
    """A word as it was said once."""

    phones: str
    units: Units | None  # None where it was said badly: nothing to repeat


def words_of(phones: Sequence[str]) -> list[tuple[str, int, int]]:
    """Phones of a sentence -> its words: (phones in one, first phone, first phone of the next word)."""
    words: list[tuple[str, int, int]] = []
    first = 0
    for place, phone in enumerate(phones):
        if phone in (START, END):
            if place > first:
                words.append(("".join(phones[first:place]), first, place))
            words.append((phone, place, place + 1))
        elif phone == PAUSE:
            if place > first:
                words.append(("".join(phones[first:place]), first, place + 1))
        else:
            continue
        first = place + 1
    if first < len(phones):
        words.append(("".join(phones[first:]), first, len(phones)))
    return words


def spoken_words(phones: Sequence[str], phone_samples: np.ndarray, units: np.ndarray) -> list[SpokenWord]:
    """The words of a recording.

    Args:
        phones, phone_samples: what the voice said, and how long each took [samples].
        units: int [frames], repeats kept.
    """
    ends = np.cumsum([0, *phone_samples])
    frames = np.rint(ends * (len(units) / max(1, ends[-1]))).astype(int)
    return [
        SpokenWord(word, tuple(units[frames[first] : frames[following]].tolist()))
        for word, first, following in words_of(phones)
    ]


class Pronunciations:
    """A table of them, for each of four kinds of context: both neighbours, the next, the one before, none."""

    def __init__(self, table: dict[Context, Units]) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    @classmethod
    def learn(cls, sentences: Iterable[Sequence[SpokenWord]], minimum: int = 3, seed: int = 0) -> Pronunciations:
        """From recordings.

        Args:
            minimum: recordings of a word between these neighbours that make an entry; a word without any has one.
        """
        said: defaultdict[Context, Counter[Units]] = defaultdict(Counter)
        for sentence in sentences:
            for spoken, contexts in zip(sentence, _contexts([word.phones for word in sentence]), strict=True):
                if spoken.units is not None:
                    for context in contexts:
                        said[context][spoken.units] += 1
        draw = random.Random(seed)
        return cls(
            {
                context: _medoid(ways, draw)
                for context, ways in sorted(said.items(), key=lambda item: [word or "" for word in item[0]])
                if context == (None, context[1], None) or ways.total() >= minimum
            }
        )

    def say(self, words: Sequence[str]) -> np.ndarray | None:
        """Words (phones of each) -> units uint16 [frames], repeats kept; None where a word was never said."""
        frames: list[int] = []
        for contexts in _contexts(words):
            known = next((self._table[context] for context in contexts if context in self._table), None)
            if known is None:
                return None
            frames.extend(known)
        return np.array(frames, np.uint16)


def _contexts(words: Sequence[str]) -> list[tuple[Context, ...]]:
    """Of each word, those that it stands in, the narrowest first."""
    around = ["", *words, ""]
    return [
        ((before, word, after), (None, word, after), (before, word, None), (None, word, None))
        for before, word, after in zip(around, words, around[2:], strict=False)
    ]


def _medoid(ways: Counter[Units], draw: random.Random) -> Units:
    """The way nearest to all, where length in frames does not count; its commonest length in frames."""
    lengths: defaultdict[Units, Counter[Units]] = defaultdict(Counter)
    for frames, count in sorted(ways.items()):
        lengths[tuple(without_repeats(frames).tolist())][frames] += count
    candidates = sorted(lengths, key=lambda units: (-lengths[units].total(), units))
    if len(candidates) > _COMPARED:
        half = _COMPARED // 2
        candidates = candidates[:half] + draw.sample(candidates[half:], half)
    weights = np.array([lengths[units].total() for units in candidates], np.float32)
    distances = cdist(candidates, candidates, scorer=Levenshtein.normalized_distance, dtype=np.float32)
    best = candidates[int(np.argmin(distances @ weights))]
    return lengths[best].most_common(1)[0][0]
