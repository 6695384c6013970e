"""Recordings of a voice -> entries of the lexicon: of all pronunciations in a context, the medoid by edit distance."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from im2sp.train.lexicon.lexicon import ADJACENT, Context, PronunciationLexicon, Units, contexts_of, split_words, spoken

UNIT_LEAD = 1.25  # frames that units are ahead of the voice's phones; least edit distance of sentences to recordings
MEDOID_CANDIDATES = 60  # pronunciations of a context that are compared at most


@dataclass(frozen=True)
class SpokenWord:
    """A word of one recording."""

    phones: str
    units: Units


def align(phones: Sequence[str], phone_samples: np.ndarray, units: np.ndarray) -> list[SpokenWord]:
    """Cut a recording into words.

    Args:
        phones, phone_samples: what the voice said, and how long each phone took [samples].
        units: int [F], 50 Hz, repeats kept.
    """
    ends = np.cumsum([0, *phone_samples])
    frames = np.rint(ends * (len(units) / max(1, ends[-1])) - UNIT_LEAD).astype(int).clip(0)
    frames[-1] = len(units)
    return [
        SpokenWord(word, tuple(units[frames[first] : frames[after]].tolist()))
        for word, first, after in split_words(phones)
    ]


class RecordedPronunciations:
    """All recorded pronunciations by context."""

    def __init__(
        self, sentences: Iterable[Sequence[SpokenWord]], min_recordings: int = 3, rng: random.Random | None = None
    ) -> None:
        """Collect what was recorded.

        Args:
            min_recordings: of a word between the same words for an entry of its own; other contexts need one.
            rng: draws the candidates for the medoid of a context with many pronunciations.
        """
        counts: defaultdict[Context, Counter[Units]] = defaultdict(Counter)
        self._wider: dict[Context, tuple[Context, ...]] = {}  # contexts that hold a context, the narrowest first
        for sentence in sentences:
            for said, contexts in zip(sentence, contexts_of([word.phones for word in sentence]), strict=True):
                for index, context in enumerate(contexts):
                    counts[context][said.units] += 1
                    self._wider[context] = contexts[index + 1 if index < 2 else max(index + 1, 4) :]
        rng = rng or random.Random(0)
        self._variants = {
            context: _Variants(counts[context], rng)
            for context in sorted(counts, key=lambda context: [part or "" for part in context])
            if not _knows_words(context) or counts[context].total() >= min_recordings
        }
        self._medoids = {context: variants.medoid() for context, variants in self._variants.items()}

    def lexicon(self, min_gain: float = 0.0) -> PronunciationLexicon:
        """The medoid of every context, but for those in which a wider context's entry does about as well.

        Args:
            min_gain: how much nearer to the recordings in a context its medoid must be than the entry of the next wider
                context (mean edit distance as a fraction of the length). Fewer entries make shorter token sequences.
        """
        entries: dict[Context, Units] = {}
        for context in sorted(self._medoids, key=lambda context: len(self._wider[context])):
            wider = (entries[one] for one in self._wider[context] if one in entries)
            if (fallback := next(wider, None)) is not None:
                variants = self._variants[context]
                if variants.distance(fallback) - variants.distance(self._medoids[context]) < min_gain:
                    continue
            entries[context] = self._medoids[context]
        return PronunciationLexicon(entries)


def _knows_words(context: Context) -> bool:
    return not any(part is None or part.startswith(ADJACENT) for part in (context[0], context[2]))


class _Variants:
    """Pronunciations of a context and how often each was recorded."""

    def __init__(self, counts: Counter[Units], rng: random.Random) -> None:
        self._frames: defaultdict[Units, Counter[Units]] = defaultdict(Counter)  # without repeats -> with repeats
        for frames, count in sorted(counts.items()):
            self._frames[spoken(frames)][frames] += count
        self._rng = rng

    def __len__(self) -> int:
        return len(self._frames)

    def medoid(self) -> Units:
        """The variant nearest to all others by edit distance without repeats, with its commonest durations."""
        candidates = sorted(self._frames, key=lambda units: (-self._frames[units].total(), units))
        if len(candidates) > MEDOID_CANDIDATES:
            half = MEDOID_CANDIDATES // 2
            candidates = candidates[:half] + self._rng.sample(candidates[half:], half)
        weights = np.array([self._frames[units].total() for units in candidates], np.float32)
        distances = cdist(candidates, candidates, scorer=Levenshtein.normalized_distance, dtype=np.float32)
        best = candidates[int(np.argmin(distances @ weights))]
        return self._frames[best].most_common(1)[0][0]

    def distance(self, pronunciation: Units) -> float:
        """Mean normalized edit distance of the recordings to a pronunciation."""
        given = spoken(pronunciation)
        distances = ((Levenshtein.normalized_distance(units, given), c.total()) for units, c in self._frames.items())
        total = sum(counts.total() for counts in self._frames.values())
        return sum(distance * count for distance, count in distances) / total
