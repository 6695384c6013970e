"""Which entries of a table of pronunciations are not understood, and what is said in their place: part of `pronounce`.

Regular units say a word between the same neighbours always alike, so what is misheard once is misheard each time; and
there is a finite number of such entries. Sentences that hold the most used ones are spoken by the vocoder and heard by
the recogniser. An entry that is missed is said in another way, and its sentences are heard again; in the end each such
entry keeps the way with which it and the words beside it were understood best. Those beside it count because a way can
take something from them: of 17 ways that were chosen by the word alone 6 did more harm than good (docs/results.md,
0.11.0).
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from im2sp.arrays import FloatArray, IntArray
from im2sp.speech.units import without_repeats
from im2sp.train.data.pronunciations import END, START, Context, Pronunciations, RecordedWays, Units
from im2sp.train.evaluate.recogniser import Recogniser
from im2sp.train.evaluate.words import differences, normalise_words

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mending:
    """How much is heard, and what counts as not understood."""

    heard: int = 0  # sentences at most
    times: int = 2  # sentences that an entry is heard in, where there are enough
    ways: int = 3  # of saying an entry that are tried after the first
    missed: float = 0.5  # share of its sentences in which an entry is missed for another way to be tried


@dataclass(frozen=True)
class Sentence:
    """A sentence as it is written, and its words as the voice says them (phones of each)."""

    text: str
    words: tuple[str, ...]
    count: int = 1  # how often it is said


class Outcome(NamedTuple):
    """What was heard of a word in a sentence."""

    understood: bool
    missed_around: int  # of the word and those beside it, how many were missed


def mend(
    table: Pronunciations,
    recorded: RecordedWays,
    sentences: Sequence[Sentence],
    options: Mending,
    speak: Callable[[IntArray], FloatArray],
    recogniser: Recogniser,
    cache: Path,
) -> int:
    """Change the entries of a table that are not understood; returns how many.

    Args:
        recorded: where other ways of saying them come from.
        sentences: that the table can say; how often each entry is said in them says how much it matters.
        options: without `heard`, nothing is changed.
        speak: units without repeats -> waveform float32 [samples], 16 kHz.
        cache: transcripts, which are not made again.
    """
    entries = [table.entries(sentence.words) or [] for sentence in sentences]
    heard_in = _covering(sentences, entries, options)
    outcomes: defaultdict[Context, defaultdict[Units, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    waiting: dict[Context, list[Units]] = {}
    sounding = heard_in
    for number in range(options.ways + 1):
        waves = ((str(place), speak(_units(table, sentences[place]))) for place in sounding)
        heard = recogniser.transcribe_all(waves, cache)
        trying = set(waiting) if number else {entry for place in sounding for entry in entries[place]}
        for place in sounding:
            for entry, outcome in _outcomes(sentences[place], entries[place], heard[str(place)]):
                if entry in trying:
                    outcomes[entry][table.way(entry)].append(outcome)
        missed = [entry for entry in trying if _missed(outcomes[entry][table.way(entry)]) >= options.missed]
        log.info(
            "round %d: %d sentences, %d entries, %d not understood", number, len(sounding), len(trying), len(missed)
        )
        if number == options.ways:
            break
        before, waiting = waiting, {}
        for entry in sorted(missed, key=str):
            others = before[entry] if number else recorded.others(entry, options.ways)
            if others:
                table.change(entry, others[0])
                waiting[entry] = others[1:]
        sounding = [place for place in heard_in if waiting.keys() & set(entries[place])]
    changed = 0
    for entry, ways in outcomes.items():
        first, *_ = ways
        best = min(ways, key=lambda way: _missed_around(ways[way]))  # of equals the first
        table.change(entry, best)
        changed += best != first
    return changed


def _covering(sentences: Sequence[Sentence], entries: Sequence[Sequence[Context]], options: Mending) -> list[int]:
    """Sentences in which the most used entries are there up to `times` times each, the most useful sentence first."""
    uses: Counter[Context] = Counter()
    for sentence, those in zip(sentences, entries, strict=True):
        for entry in those:
            uses[entry] += sentence.count
    missing = dict.fromkeys(uses, options.times)

    def gain(number: int) -> int:
        return sum(uses[entry] for entry in set(entries[number]) if missing[entry] > 0)

    queue = [(-gain(number), number) for number in range(len(entries))]
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and len(chosen) < options.heard:
        _, number = heapq.heappop(queue)
        now = gain(number)  # gains only shrink, so the first that is still as large as it was is the largest
        if now == 0:
            continue
        if queue and -now > queue[0][0]:
            heapq.heappush(queue, (-now, number))
            continue
        chosen.append(number)
        for entry in set(entries[number]):
            missing[entry] -= 1
    return chosen


def _units(table: Pronunciations, sentence: Sentence) -> IntArray:
    units = table.say(sentence.words)
    return without_repeats([] if units is None else units)


def _outcomes(sentence: Sentence, entries: Sequence[Context], heard: str) -> list[tuple[Context, Outcome]]:
    """Entries of a sentence's words, and what was heard of each; none where words are not written as spoken."""
    places = [place for place, word in enumerate(sentence.words) if word not in (START, END)]
    if len(places) != len(normalise_words(sentence.text).split()):
        return []
    missed = {place for written, _ in differences(sentence.text, heard) for place in places[written]}
    return [
        (entries[place], Outcome(place not in missed, len(missed & {place - 1, place, place + 1}))) for place in places
    ]


def _missed(outcomes: list[Outcome]) -> float:
    """Share of what was not understood; 0 where nothing can be said of it."""
    return sum(not outcome.understood for outcome in outcomes) / max(1, len(outcomes))


def _missed_around(outcomes: list[Outcome]) -> float:
    """How many words are missed in the mean, of a word and those beside it."""
    return sum(outcome.missed_around for outcome in outcomes) / max(1, len(outcomes))
