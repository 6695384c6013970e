"""ASR feedback: entries that a speech recogniser misses are replaced by other recorded pronunciations.

An entry says a word by the same units wherever it stands: a context of a lexicon, or a token of a captioner. So what is
misheard once is always misheard. Sentences with the most used entries are spoken by the vocoder and transcribed. An
entry that is missed is tried in other pronunciations, and keeps the one with which it and its neighbours are understood
best. Neighbours count because a pronunciation can spoil them: of 17 that were chosen by the word alone 6 did more harm
than good (docs/history). The best of many in a few sentences is partly luck: a change that does not help in other
sentences, too, is taken back.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Generic, NamedTuple, TypeVar

from im2sp.arrays import FloatArray, IntArray
from im2sp.speech.units import without_repeats
from im2sp.train.data.words import normalise_words
from im2sp.train.evaluate.recogniser import Recogniser
from im2sp.train.evaluate.words import differences
from im2sp.train.lexicon.lexicon import Units, frames_of
from im2sp.train.lexicon.selection import lazy_greedy

log = logging.getLogger(__name__)

Entry = TypeVar("Entry", bound=Hashable)


@dataclass(frozen=True)
class AsrFeedbackConfig:
    """How much is transcribed, and which entries are replaced."""

    sentences: int = 0  # transcribed at most in the first round; 0 keeps the entries as they are
    repeats: int = 2  # sentences for each entry, where there are enough
    candidates: int = 3  # other pronunciations that are tried
    entries: int = 0  # the most used ones, which alone are tried; 0: all
    error_rate: float = 0.5  # share of its sentences in which an entry is missed, from which others are tried
    checks: int = 5  # other sentences in which a change must help, where there are any


@dataclass(frozen=True)
class Sentence(Generic[Entry]):
    """A sentence as it is written, and the entries that say it.

    Attributes:
        words: places of entries that say a word; the others are silences.
        count: how often it is said.
    """

    text: str
    entries: tuple[Entry, ...]
    words: tuple[int, ...]
    count: int = 1


class WordOutcome(NamedTuple):
    """What the recogniser got of a word in one sentence."""

    missed: bool
    missed_around: int  # of the word and its two neighbours


@dataclass(frozen=True)
class _Listener(Generic[Entry]):
    """Speaks sentences and transcribes them; what was transcribed once is in the cache."""

    sentences: Sequence[Sentence[Entry]]
    speak: Callable[[IntArray], FloatArray]
    recogniser: Recogniser
    cache: Path

    def hear(self, indices: Sequence[int], said: Mapping[Entry, Units]) -> list[tuple[Entry, WordOutcome]]:
        """Sentences, and the units of each entry -> what was got of each word."""
        some = [self.sentences[index] for index in indices]
        units = [without_repeats(frames_of(said[one] for one in sentence.entries)) for sentence in some]
        names = [hashlib.sha256(frames.tobytes()).hexdigest() for frames in units]
        waveforms = ((name, self.speak(frames)) for name, frames in dict(zip(names, units, strict=True)).items())
        transcripts = self.recogniser.transcribe_all(waveforms, self.cache)
        heard = zip(some, names, strict=True)
        return [one for sentence, name in heard for one in _outcomes(sentence, transcripts[name])]


def apply_asr_feedback(
    said: MutableMapping[Entry, Units],
    alternatives: Callable[[Entry, int], Sequence[Units]],
    sentences: Sequence[Sentence[Entry]],
    config: AsrFeedbackConfig,
    speak: Callable[[IntArray], FloatArray],
    recogniser: Recogniser,
    cache: Path,
) -> int:
    """Replace what is not understood; returns how many entries changed.

    Args:
        said: units of each entry; changed in place.
        alternatives: entry, number -> at most so many other pronunciations, the most usual first.
        sentences: how often an entry is used in them decides how much it matters.
        speak: units without repeats -> waveform float32 [samples], 16 kHz.
        cache: transcripts, which are not made again.
    """
    before, listener = dict(said), _Listener(sentences, speak, recogniser, cache)
    uses = _most_used(sentences, config.entries)
    covering = _covering(sentences, uses, config.repeats, config.sentences)
    outcomes: defaultdict[Entry, defaultdict[Units, list[WordOutcome]]] = defaultdict(lambda: defaultdict(list))

    def missed_of(indices: Sequence[int], tried: set[Entry]) -> list[Entry]:
        """Hear sentences; returns those of the tried entries that are missed."""
        for entry, outcome in listener.hear(indices, said):
            if entry in tried:
                outcomes[entry][said[entry]].append(outcome)
        missed = (entry for entry in tried if _error_rate(outcomes[entry][said[entry]]) >= config.error_rate)
        return sorted(missed, key=str)

    missed = missed_of(covering, {entry for index in covering for entry in sentences[index].entries if entry in uses})
    others = {entry: alternatives(entry, config.candidates) for entry in missed}
    for number in range(config.candidates):
        trying = {entry for entry in missed if len(others[entry]) > number}
        log.info("ASR feedback, round %d: %d entries missed, %d have another way", number, len(missed), len(trying))
        for entry in trying:
            said[entry] = others[entry][number]
        missed = missed_of([index for index in covering if trying & set(sentences[index].entries)], trying)
    for entry, tried in outcomes.items():
        said[entry] = _best(tried)
    changed = {entry: uses[entry] for entry in outcomes if said[entry] != before[entry]}
    fresh = sorted(set(range(len(sentences))) - set(covering))
    chosen = _covering([sentences[index] for index in fresh], changed, config.checks, config.sentences)
    _take_back(said, before, changed, listener, [fresh[place] for place in chosen])
    return sum(said[entry] != before[entry] for entry in changed)


def _take_back(
    said: MutableMapping[Entry, Units],
    before: Mapping[Entry, Units],
    changed: Iterable[Entry],
    listener: _Listener[Entry],
    indices: Sequence[int],
) -> None:
    """Say changed entries as before where the change did not help in these sentences."""
    missed_more: Counter[Entry] = Counter()  # words around an entry, after the change than before
    for (entry, new), (_, old) in zip(listener.hear(indices, said), listener.hear(indices, before), strict=True):
        missed_more[entry] += new.missed_around - old.missed_around
    for entry in {entry for index in indices for entry in listener.sentences[index].entries}.intersection(changed):
        if missed_more[entry] >= 0:
            said[entry] = before[entry]


def _best(tried: Mapping[Units, Sequence[WordOutcome]]) -> Units:
    """The pronunciation with the fewest missed words around it, of equals the first."""
    return min(tried, key=lambda way: fmean(one.missed_around for one in tried[way]) if tried[way] else 0)


def _most_used(sentences: Sequence[Sentence[Entry]], count: int) -> dict[Entry, int]:
    """The most used entries, or with a count of 0 all, and how often they are used."""
    uses: Counter[Entry] = Counter()
    for sentence in sentences:
        uses.update(dict.fromkeys(sentence.entries, sentence.count))
    return dict(uses.most_common(count or None))


def _covering(sentences: Sequence[Sentence[Entry]], uses: Mapping[Entry, int], repeats: int, limit: int) -> list[int]:
    """Places of sentences that hold the most used entries up to `repeats` times each."""
    missing = dict.fromkeys(uses, repeats)

    def gain(index: int) -> float:
        return sum(uses[entry] for entry in set(sentences[index].entries) if missing.get(entry, 0) > 0)

    def take(index: int) -> None:
        for entry in set(sentences[index].entries) & missing.keys():
            missing[entry] -= 1

    return list(lazy_greedy(len(sentences), gain, take, limit))


def _outcomes(sentence: Sentence[Entry], transcript: str) -> list[tuple[Entry, WordOutcome]]:
    """Entry and outcome of each word; none when the text is not written in as many words as it is said."""
    places = sentence.words
    if len(places) != len(normalise_words(sentence.text).split()):
        return []
    missed = {number for written, _ in differences(sentence.text, transcript) for number in range(len(places))[written]}
    return [
        (sentence.entries[place], WordOutcome(number in missed, len(missed & {number - 1, number, number + 1})))
        for number, place in enumerate(places)
    ]


def _error_rate(outcomes: Sequence[WordOutcome]) -> float:
    """Share of the sentences in which a word was missed; 0 where nothing is known."""
    return fmean(outcome.missed for outcome in outcomes) if outcomes else 0.0
