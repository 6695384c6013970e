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
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from im2sp.files import atomic_write
from im2sp.speech.units import without_repeats

START, END = "^", "$"  # phones of the voice: silence before and after a sentence, words of their own
PAUSE = " "  # between words; belongs to the word before it
_COMPARED = 60  # ways of saying a word at most that its medoid is looked for among

_SCHEMA = pa.schema(
    [("before", pa.string()), ("word", pa.string()), ("after", pa.string()), ("units", pa.list_(pa.uint16()))]
)

Units = tuple[int, ...]  # of the frames of a word, 50 Hz, repeats kept
Context = tuple[str | None, str, str | None]  # neighbour before, word, neighbour after; None: whatever it is


@dataclass(frozen=True)
class SpokenWord:
    """A word as it was said once."""

    phones: str
    units: Units  # of its frames


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


def phones_of_words(phones: Sequence[str]) -> list[str]:
    """Phones of a sentence -> those of each of its words, in one."""
    return [word for word, _, _ in words_of(phones)]


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
    """How words are said, by the narrowest of these contexts: both neighbours, the next, the one before, none."""

    def __init__(self, table: dict[Context, Units]) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def entries(self, words: Sequence[str]) -> list[Context] | None:
        """The entries by which words (phones of each) are said; None where a word was never said."""
        found = []
        for contexts in _contexts(words):
            known = next((context for context in contexts if context in self._table), None)
            if known is None:
                return None
            found.append(known)
        return found

    def say(self, words: Sequence[str]) -> np.ndarray | None:
        """Words (phones of each) -> units uint16 [frames], repeats kept; None where a word was never said."""
        if (entries := self.entries(words)) is None:
            return None
        return np.array([unit for entry in entries for unit in self._table[entry]], np.uint16)

    def contexts(self) -> list[Context]:
        """All entries."""
        return list(self._table)

    def way(self, entry: Context) -> Units:
        """The units of an entry, repeats kept."""
        return self._table[entry]

    def change(self, entry: Context, units: Units) -> None:
        """Say a word otherwise in an entry's context."""
        self._table[entry] = units

    def save(self, path: Path) -> None:
        """Write a Parquet table of `before`, `word`, `after` (phones, null for any) and `units` (repeats kept)."""
        columns: dict[str, list[object]] = {
            name: [context[place] for context in self._table] for place, name in enumerate(_SCHEMA.names[:3])
        }
        table = pa.table(columns | {"units": list(self._table.values())}, schema=_SCHEMA)
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Pronunciations:
        """Read what `save` wrote."""
        *contexts, units = (column.to_pylist() for column in pq.read_table(path, schema=_SCHEMA).columns)
        return cls({context: tuple(said) for context, said in zip(zip(*contexts, strict=True), units, strict=True)})


class RecordedWays:
    """All ways in which words were said in recordings, by context."""

    def __init__(self, said: dict[Context, Counter[Units]], minimum: int = 3, seed: int = 0) -> None:
        draw = random.Random(seed)
        self._ways = {
            context: _Ways(ways, draw)
            for context, ways in sorted(said.items(), key=lambda item: [word or "" for word in item[0]])
            if context == (None, context[1], None) or ways.total() >= minimum
        }
        self._usual = {context: ways.medoid() for context, ways in self._ways.items()}

    @classmethod
    def of(cls, sentences: Iterable[Sequence[SpokenWord]], minimum: int = 3, seed: int = 0) -> RecordedWays:
        """Those in recordings.

        Args:
            minimum: recordings of a word between these neighbours that count as a context; a word without any has one.
        """
        said: defaultdict[Context, Counter[Units]] = defaultdict(Counter)
        for sentence in sentences:
            for spoken, contexts in zip(sentence, _contexts([word.phones for word in sentence]), strict=True):
                for context in contexts:
                    said[context][spoken.units] += 1
        return cls(said, minimum, seed)

    def usual(self) -> Pronunciations:
        """Each word said as it mostly is: by the medoid of the ways in its context."""
        return Pronunciations(dict(self._usual))

    def others(self, entry: Context, count: int) -> list[Units]:
        """Up to `count` other ways of saying an entry, unlike each other, the most usual first.

        Each is the medoid of the half of the recordings that is less like the one before. Where these are used up,
        recordings between other neighbours follow.
        """
        before, word, after = entry
        wider: list[Context] = [(None, word, after), (before, word, None), (None, word, None)]
        found = [self._usual[entry]]
        for context in [entry, *(context for context in wider if context in self._ways and context != entry)]:
            ways = self._ways[context]
            while len(found) <= count and (ways := ways.unlike(found[-1])):
                if all(plain(way) != plain(ways.medoid()) for way in found):
                    found.append(ways.medoid())
        return found[1 : count + 1]


class _Ways:
    """How often a word was said in which way."""

    def __init__(self, counts: Counter[Units], draw: random.Random) -> None:
        self._lengths: defaultdict[Units, Counter[Units]] = defaultdict(Counter)  # without repeats -> with them
        for frames, count in sorted(counts.items()):
            self._lengths[plain(frames)][frames] += count
        self._draw = draw

    def __len__(self) -> int:
        return len(self._lengths)

    def medoid(self) -> Units:
        """The way nearest to all, where length in frames does not count; its commonest length in frames."""
        candidates = sorted(self._lengths, key=lambda units: (-self._lengths[units].total(), units))
        if len(candidates) > _COMPARED:
            half = _COMPARED // 2
            candidates = candidates[:half] + self._draw.sample(candidates[half:], half)
        weights = np.array([self._lengths[units].total() for units in candidates], np.float32)
        distances = cdist(candidates, candidates, scorer=Levenshtein.normalized_distance, dtype=np.float32)
        best = candidates[int(np.argmin(distances @ weights))]
        return self._lengths[best].most_common(1)[0][0]

    def unlike(self, way: Units) -> _Ways:
        """The half of the ways, rounded down, that is less like a given one; never that one."""
        given = plain(way)
        apart = {units: Levenshtein.normalized_distance(units, given) for units in self._lengths}
        kept = sorted((units for units in apart if units != given), key=lambda units: (-apart[units], units))
        kept = kept[: len(self._lengths) // 2]
        counts = Counter({frames: count for units in kept for frames, count in self._lengths[units].items()})
        return _Ways(counts, self._draw)


def plain(frames: Sequence[int]) -> Units:
    """Units without repeats."""
    return tuple(without_repeats(frames).tolist())


def _contexts(words: Sequence[str]) -> list[tuple[Context, ...]]:
    """Of each word, those that it stands in, the narrowest first."""
    around = ["", *words, ""]
    return [
        ((before, word, after), (None, word, after), (before, word, None), (None, word, None))
        for before, word, after in zip(around, words, around[2:], strict=False)
    ]
