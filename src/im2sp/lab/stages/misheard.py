"""Which recordings of a word are not understood once they went through units and vocoder: part of `pronounce`.

Some words fail again and again: their units, as this voice and these units have it, are too near to those of others.
Where other recordings of such a word come through, these are the ones to repeat. A few hundred sentences that hold
all common words are spoken by the vocoder and heard by the recogniser. Of a word that is often missed, every recording
counts as misheard whose units are nearer to one that was missed than to any that was understood.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
from rapidfuzz.distance import Levenshtein

from im2sp.arrays import FloatArray, IntArray
from im2sp.lab.data.pronunciations import END, START, SpokenWord, Units
from im2sp.lab.evaluation.asr import SpeechRecogniser
from im2sp.lab.evaluation.words import normalise_words
from im2sp.speech.units import without_repeats

log = logging.getLogger(__name__)

COMMON = 20  # recordings of a word that is worth hearing
TIMES = 4  # sentences that such a word is heard in
OFTEN = 0.25  # share of them, and at least two, in which a word is missed that is often missed

Place = tuple[int, int]  # of a word: number of the recording, number of the word in it


@dataclass(frozen=True)
class Recording:
    """A sentence as it was said."""

    text: str
    words: list[SpokenWord]

    @property
    def units(self) -> IntArray:
        """Of all of it, without repeats."""
        return without_repeats([unit for word in self.words for unit in word.units or ()])


def misheard(
    recordings: Sequence[Recording],
    sentences: int,
    speak: Callable[[IntArray], FloatArray],
    recogniser: SpeechRecogniser,
    seed: int,
    cache: Path,
) -> set[Place]:
    """Where words were said in a way that is not understood.

    Args:
        sentences: to hear at most.
        speak: units without repeats -> waveform float32 [samples], 16 kHz.
        cache: transcripts, which are not made again.
    """
    chosen = _covering(recordings, seed)[:sentences]
    heard = recogniser.transcribe_all(((str(number), speak(recordings[number].units)) for number in chosen), cache)
    outcomes: defaultdict[str, dict[Place, bool]] = defaultdict(dict)
    for number in chosen:
        for place, understood in _understood(recordings[number], heard[str(number)]):
            outcomes[_plain(recordings[number].words[place].phones)][number, place] = understood
    places: defaultdict[str, list[Place]] = defaultdict(list)
    for number, recording in enumerate(recordings):
        for place, word in enumerate(recording.words):
            places[_plain(word.phones)].append((number, place))
    found = set()
    for phones, outcome in outcomes.items():
        missed, got = (
            [_ways(recordings, place) for place, understood in outcome.items() if understood is wanted]
            for wanted in (False, True)
        )
        if len(missed) >= 2 and got and len(missed) / len(outcome) >= OFTEN:
            found |= {at for at in places[phones] if _nearest(_ways(recordings, at), missed, got)}
    log.info("%d sentences heard; %d recordings of words are not to be repeated", len(chosen), len(found))
    return found


def _covering(recordings: Sequence[Recording], seed: int) -> list[int]:
    """Recordings in which every common word is there TIMES times; in random order, so that any prefix is fair."""
    words = [{word.phones for word in recording.words} for recording in recordings]
    counts = Counter(word.phones for recording in recordings for word in recording.words)
    missing = {word: TIMES for word, count in counts.items() if count >= COMMON}
    draw = random.Random(seed)
    order = draw.sample(range(len(recordings)), len(recordings))
    chosen: dict[int, None] = {}
    for word in sorted(missing, key=lambda word: (counts[word], word)):  # the rarest first: others come along
        for number in order:
            if missing[word] <= 0:
                break
            if word in words[number] and number not in chosen:
                chosen[number] = None
                for other in words[number] & set(missing):
                    missing[other] -= 1
    return draw.sample(list(chosen), len(chosen))


def _understood(recording: Recording, heard: str) -> list[tuple[int, bool]]:
    """(number of a word, whether it was understood); nothing where words as written are not those as spoken."""
    written = normalise_words(recording.text)
    places = [place for place, word in enumerate(recording.words) if word.phones not in (START, END)]
    if len(places) != len(written.split()):
        return []
    understood = [False] * len(places)
    if heard_words := normalise_words(heard):
        for piece in jiwer.process_words(written, heard_words).alignments[0]:
            if piece.type == "equal":
                understood[piece.ref_start_idx : piece.ref_end_idx] = [True] * (piece.ref_end_idx - piece.ref_start_idx)
    return list(zip(places, understood, strict=True))


def _plain(phones: str) -> str:
    """A word without the end of the sentence."""
    return phones.strip(".,!?")


def _ways(recordings: Sequence[Recording], place: Place) -> Units:
    number, word = place
    return tuple(without_repeats(recordings[number].words[word].units or ()).tolist())


def _nearest(units: Units, missed: list[Units], got: list[Units]) -> bool:
    """Whether one of those that were missed is nearer than all that were understood."""
    apart = [min(Levenshtein.normalized_distance(units, other) for other in others) for others in (missed, got)]
    return apart[0] < apart[1]
