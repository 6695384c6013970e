"""ASR feedback: entries of the lexicon that a speech recogniser misses are replaced by other recorded pronunciations.

A lexicon always says a word between the same neighbours alike, so what is misheard once is always misheard. Sentences
with the most used entries are spoken by the vocoder and transcribed. An entry that is missed is tried in other
pronunciations, and keeps the one with which it and its neighbours are understood best. Neighbours count because a
pronunciation can spoil them: of 17 that were chosen by the word alone 6 did more harm than good (docs/history).
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from im2sp.arrays import FloatArray, IntArray
from im2sp.speech.units import without_repeats
from im2sp.train.data.words import normalise_words
from im2sp.train.evaluate.recogniser import Recogniser
from im2sp.train.evaluate.words import differences
from im2sp.train.lexicon.lexicon import SILENCES, Context, PronunciationLexicon, Units, frames_of
from im2sp.train.lexicon.medoids import RecordedPronunciations
from im2sp.train.lexicon.selection import lazy_greedy

log = logging.getLogger(__name__)

REPEATS = 2  # sentences for each entry, where there are enough
ERROR_RATE = 0.5  # share of its sentences in which an entry is missed for others to be tried


@dataclass(frozen=True)
class AsrFeedbackConfig:
    """How much is transcribed, and which entries are replaced."""

    sentences: int = 0  # transcribed at most in the first round; 0 keeps the lexicon as it is
    candidates: int = 3  # other pronunciations that are tried


@dataclass(frozen=True)
class Sentence:
    """A sentence as it is written, and the phones of each word."""

    text: str
    words: tuple[str, ...]
    count: int = 1  # how often it is said


class WordOutcome(NamedTuple):
    """What the recogniser got of a word in one sentence."""

    missed: bool
    missed_around: int  # of the word and its two neighbours


def apply_asr_feedback(
    lexicon: PronunciationLexicon,
    recorded: RecordedPronunciations,
    sentences: Sequence[Sentence],
    config: AsrFeedbackConfig,
    speak: Callable[[IntArray], FloatArray],
    recogniser: Recogniser,
    cache: Path,
) -> int:
    """Replace entries that are not understood; returns how many.

    Args:
        lexicon: changed in place.
        recorded: other pronunciations.
        sentences: that the lexicon can say; how often an entry is used in them decides how much it matters.
        speak: units without repeats -> waveform float32 [samples], 16 kHz.
        cache: transcripts, which are not made again.
    """
    contexts = [lexicon.lookup(sentence.words) or [] for sentence in sentences]
    covering = _covering(sentences, contexts, config.sentences)
    outcomes: defaultdict[Context, defaultdict[Units, list[WordOutcome]]] = defaultdict(lambda: defaultdict(list))

    def transcribe(indices: Sequence[int], tried: set[Context]) -> list[Context]:
        """Speak and transcribe sentences; returns those of the tried entries that are missed."""
        waveforms = ((str(index), speak(_units(lexicon, sentences[index]))) for index in indices)
        transcripts = recogniser.transcribe_all(waveforms, cache)
        for index in indices:
            for context, outcome in _outcomes(sentences[index], contexts[index], transcripts[str(index)]):
                if context in tried:
                    outcomes[context][lexicon.entries[context]].append(outcome)
        missed = (c for c in tried if _error_rate(outcomes[c][lexicon.entries[c]]) >= ERROR_RATE)
        return sorted(missed, key=str)

    missed = transcribe(covering, {context for index in covering for context in contexts[index]})
    alternatives = {context: recorded.alternatives(context, config.candidates) for context in missed}
    for number in range(config.candidates):
        trying = {context for context in missed if len(alternatives[context]) > number}
        log.info("ASR feedback, round %d: %d entries missed, %d have another way", number, len(missed), len(trying))
        for context in trying:
            lexicon.entries[context] = alternatives[context][number]
        missed = transcribe([index for index in covering if trying & set(contexts[index])], trying)
    return _keep_best(lexicon, outcomes)


def _keep_best(lexicon: PronunciationLexicon, outcomes: dict[Context, defaultdict[Units, list[WordOutcome]]]) -> int:
    """Give each entry the pronunciation with the fewest missed words around it; returns how many changed."""
    changed = 0
    for context, tried in outcomes.items():
        first, *_ = tried
        best = min(tried, key=lambda units: fmean(o.missed_around for o in tried[units]) if tried[units] else 0)
        lexicon.entries[context] = best  # of equals the first
        changed += best != first
    return changed


def _covering(sentences: Sequence[Sentence], contexts: Sequence[Sequence[Context]], limit: int) -> list[int]:
    """Sentences that hold the most used entries up to REPEATS times each."""
    uses: Counter[Context] = Counter()
    for sentence, those in zip(sentences, contexts, strict=True):
        uses.update(dict.fromkeys(those, sentence.count))
    missing = dict.fromkeys(uses, REPEATS)

    def gain(index: int) -> float:
        return sum(uses[context] for context in set(contexts[index]) if missing[context] > 0)

    def take(index: int) -> None:
        for context in set(contexts[index]):
            missing[context] -= 1

    return list(lazy_greedy(len(sentences), gain, take, limit))


def _units(lexicon: PronunciationLexicon, sentence: Sentence) -> IntArray:
    return without_repeats(frames_of(lexicon.pronounce(sentence.words) or ()))


def _outcomes(sentence: Sentence, contexts: Sequence[Context], transcript: str) -> list[tuple[Context, WordOutcome]]:
    """Entry and outcome of each word; none when the text is not written in as many words as it is said."""
    places = [place for place, word in enumerate(sentence.words) if word not in SILENCES]
    if len(places) != len(normalise_words(sentence.text).split()):
        return []
    missed = {place for written, _ in differences(sentence.text, transcript) for place in places[written]}
    return [
        (contexts[place], WordOutcome(place in missed, len(missed & {place - 1, place, place + 1}))) for place in places
    ]


def _error_rate(outcomes: Sequence[WordOutcome]) -> float:
    """Share of the sentences in which a word was missed; 0 where nothing is known."""
    return fmean(outcome.missed for outcome in outcomes) if outcomes else 0.0
