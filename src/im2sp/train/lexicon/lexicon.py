"""Pronunciation lexicon: words between their neighbours -> speech units.

An entry maps a word in a context to units of its frames. A sentence is a function of its words then: two recordings of
one sentence differ in a few units, its lexicon units never do. Where no entry knows both neighbouring words, one that
knows their adjacent phones is used, as those shape the ends of a word.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from im2sp.errors import Im2SpError
from im2sp.files import atomic_write
from im2sp.speech.units import without_repeats
from im2sp.train.data.synthesis import END, START, clean_text

PAUSE = " "  # phone between words; belongs to the word before it
_STOPS = frozenset(".!?")  # phones before END, which are part of it
SILENCES = frozenset({START, END, *",;:", *_STOPS})  # phones that are words of their own, and none to a listener

_MARKS = dict.fromkeys(map(ord, "ˈˌːʲ"))  # stress, length, glide: no phones of their own

Units = tuple[int, ...]  # of the frames of a word, 50 Hz, repeats kept
Spoken = tuple[int, ...]  # units of a word, without repeats
Context = tuple[str | None, str, str | None]  # before, word, after: a neighbouring word, its adjacent phone, or any
ADJACENT = "~"  # before the adjacent phone of a neighbour

# espeak writes some function words as one; tokens are words or less, so they are taken apart here.
_CONTRACTED = re.compile(
    "(əv|ʌv|ˌ?ɪn|ɔn|æɾ|fɚɹ?|wɪð|fɹʌm|ðæt)(ə|ɐ|ən|ɚ|ðə|ðɪʲ)"  # of, in, on, at, for, with, from, that; a, an, the
    "|(ðɛɹ)(ˌɑːɹ)|(ˌaʊɾ)(əv)|(tə)(biʲ?)|(hɐ[zv])(bɪn)"  # there are, out of, to be, has been
)
_SCHEMA = pa.schema(
    [("before", pa.string()), ("word", pa.string()), ("after", pa.string()), ("units", pa.list_(pa.uint16()))]
)


def spoken(units: Sequence[int]) -> Spoken:
    """Units of a word, repeats removed."""
    return tuple(without_repeats(units).tolist())


def split_words(phones: Sequence[str]) -> list[tuple[str, int, int]]:
    """Phones of a sentence -> its words: (phones of the word, index of its first phone, index after its last)."""
    words: list[tuple[str, int, int]] = []
    first = 0
    for index, phone in enumerate([*phones, PAUSE]):
        if phone != PAUSE and phone not in SILENCES:
            continue
        words += _without_contraction(phones, first, index)
        if phone == END and words and words[-1][0] in _STOPS:
            words[-1] = (END, words[-1][1], index + 1)
        elif phone != PAUSE:
            words.append((phone, index, index + 1))
        elif words and index < len(phones):
            words[-1] = (*words[-1][:2], index + 1)
        first = index + 1
    return words


def _without_contraction(phones: Sequence[str], first: int, after: int) -> Iterator[tuple[str, int, int]]:
    """Words in phones[first:after]: none, one, or two that espeak writes as one."""
    word = "".join(phones[first:after])
    if contracted := _CONTRACTED.fullmatch(word):
        left, right = (group for group in contracted.groups() if group)
        cut = next(index for index in range(first, after) if "".join(phones[first:index]) == left)
        yield left, first, cut
        yield right, cut, after
    elif word:
        yield word, first, after


def words_of(phones: Sequence[str]) -> tuple[str, ...]:
    """Phones of a sentence -> the phones of each word."""
    return tuple(word for word, _, _ in split_words(phones))


def contexts_of(words: Sequence[str]) -> Iterator[tuple[Context, ...]]:
    """Words -> the contexts that an entry may have for each, the narrowest first.

    They know both neighbouring words; the adjacent phones of both, of the next, of the previous one; nothing.
    """
    around = ["", *words, ""]
    for before, word, after in zip(around, words, around[2:], strict=False):
        last, first = adjacent_phone(before, -1), adjacent_phone(after, 0)
        yield (before, word, after), (last, word, first), (None, word, first), (last, word, None), (None, word, None)


def adjacent_phone(word: str, index: int) -> str:
    """The first (index 0) or last (-1) phone of a word, without stress and length."""
    phones = word.translate(_MARKS) or word
    return ADJACENT + phones[index : index + 1 or None]


class PronunciationLexicon:
    """Entries by context. A word is said by the entry of its narrowest known context."""

    def __init__(self, entries: dict[Context, Units]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def lookup(self, words: Sequence[str]) -> list[Context] | None:
        """Words (phones of each) -> the context of each word's entry; None when a word has no entry."""
        found = [next((c for c in contexts if c in self.entries), None) for contexts in contexts_of(words)]
        return None if None in found else [context for context in found if context]

    def pronounce(self, words: Sequence[str]) -> list[Units] | None:
        """Words (phones of each) -> units of each word; None when a word has no entry."""
        contexts = self.lookup(words)
        return None if contexts is None else [self.entries[context] for context in contexts]

    def save(self, path: Path) -> None:
        """Write a Parquet table: before, word, after (see `Context`; null for any) and units, sorted by word."""
        rows = sorted(self.entries.items(), key=lambda row: (row[0][1], row[0][0] or "", row[0][2] or ""))
        columns: dict[str, Iterable[object]] = {
            name: [context[place] for context, _ in rows] for place, name in enumerate(_SCHEMA.names[:3])
        }
        table = pa.table(columns | {"units": [units for _, units in rows]}, schema=_SCHEMA)
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", compression_level=19)

    @classmethod
    def load(cls, path: Path) -> PronunciationLexicon:
        """Read what `save` wrote. Raises Im2SpError when the file is missing or no such table."""
        try:
            *contexts, units = (column.to_pylist() for column in pq.read_table(path, schema=_SCHEMA).columns)
        except (OSError, pa.ArrowException) as error:
            raise Im2SpError(f"the lexicon {path} cannot be read: {error}") from error
        keys = zip(*contexts, strict=True)
        return cls({context: tuple(frames) for context, frames in zip(keys, units, strict=True)})


def frames_of(words: Iterable[Units]) -> np.ndarray:
    """Units of each word -> uint16 [F], 50 Hz, repeats kept."""
    return np.array([unit for units in words for unit in units], np.uint16)


class Variants:
    """The ways in which a lexicon says each word, in its order."""

    def __init__(self, lexicon: PronunciationLexicon) -> None:
        self._words: dict[Spoken, str] = {}
        self._variants: dict[str, list[Spoken]] = defaultdict(list)
        for (_, word, _), units in lexicon.entries.items():
            self._words[spoken(units)] = word
            self._variants[word].append(spoken(units))

    def others(self, variant: Spoken) -> list[Spoken]:
        """All other ways to say a word; none for what the lexicon does not say."""
        return [other for other in self._variants.get(self._words.get(variant, ""), ()) if other != variant]


class LexiconSpeaker:
    """Text -> units by the lexicon.

    Args:
        phonemize: text -> phones, as the voice says them.
    """

    def __init__(self, lexicon: PronunciationLexicon, phonemize: Callable[[str], list[str]]) -> None:
        self.lexicon, self.phonemize = lexicon, phonemize

    def said(self, text: str) -> list[tuple[str, Units]] | None:
        """Text -> (phones, units) of each word, silences included, repeats kept; None when a word has no entry."""
        cleaned = clean_text(text)
        names = words_of(self.phonemize(cleaned)) if cleaned else ()
        units = self.lexicon.pronounce(names)
        return list(zip(names, units, strict=True)) if units else None
