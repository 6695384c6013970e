"""Units of a sentence -> its words, by the lexicon that they came from: what a captioner means, without ASR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from im2sp.arrays import IntArray
from im2sp.speech.units import without_repeats
from im2sp.train.data.synthesis import END, START
from im2sp.train.lexicon.lexicon import Context, PronunciationLexicon, adjacent_phone

UNKNOWN = "?"  # in place of units that no entry explains; one for each run of such units


class _State(NamedTuple):
    """What the words so far require of the next one."""

    before: str
    required: str | None  # the next word or its first phone, where the context of the last entry names it; None: any


class _Step(NamedTuple):
    """The best path into a state and where it came from."""

    unknown: int  # units that no entry explains
    place: int
    state: _State | None
    word: str


@dataclass
class _Node:
    """Node of the prefix tree of all entries."""

    following: dict[int, _Node] = field(default_factory=dict)
    entries: list[Context] = field(default_factory=list)


class LexiconReader:
    """Finds the words of a sentence by dynamic programming over its units."""

    def __init__(self, lexicon: PronunciationLexicon) -> None:
        self._root = _Node()
        for context, units in lexicon.entries.items():
            node = self._root
            for unit in without_repeats(units).tolist():
                node = node.following.setdefault(unit, _Node())
            node.entries.append(context)

    def words(self, units: Sequence[int] | IntArray) -> list[str]:
        """Units without repeats -> words (phones of each), with as few unknown units as possible.

        A word may begin with the unit that ends the one before it, as repeats are removed where words meet.
        """
        sentence = [int(unit) for unit in units]
        ways: list[dict[_State, _Step]] = [{} for _ in range(len(sentence) + 1)]
        ways[0][_State("", START)] = _Step(0, 0, None, "")
        for place, states in enumerate(ways):
            matches = self._matches(sentence, place) if states else []
            todo = list(states.items())
            while todo:
                state, step = todo.pop()
                if states[state].unknown < step.unknown:
                    continue
                for end, entry in matches:
                    if (word := self._fits(entry, state)) is None or (word == END and end < len(sentence)):
                        continue
                    following = _State(word, entry[2])
                    if _better(ways[end], following, _Step(step.unknown, place, state, word)) and end == place:
                        todo.append((following, ways[end][following]))
                if place < len(sentence):
                    _better(ways[place + 1], _State(UNKNOWN, None), _Step(step.unknown + 1, place, state, UNKNOWN))
        return _traced(ways)

    def _fits(self, entry: Context, state: _State) -> str | None:
        """The word of an entry if it may come next."""
        before, word, _ = entry
        if state.required not in (None, word, adjacent_phone(word, 0)):
            return None
        return word if before in (None, state.before, adjacent_phone(state.before, -1)) else None

    def _matches(self, sentence: list[int], place: int) -> list[tuple[int, Context]]:
        """Entries that begin at a place or at the unit before it, and where each ends."""
        found = []
        for first in (place, place - 1) if place else (place,):
            node, end = self._root, first
            while True:
                if end >= place:
                    found += [(end, entry) for entry in node.entries]
                if end >= len(sentence) or (following := node.following.get(sentence[end])) is None:
                    break
                node, end = following, end + 1
        return found


def _better(states: dict[_State, _Step], state: _State, step: _Step) -> bool:
    """Take a step into a state if it leaves fewer units unknown than the known one; return whether it does."""
    if state in states and states[state].unknown <= step.unknown:
        return False
    states[state] = step
    return True


def _traced(ways: list[dict[_State, _Step]]) -> list[str]:
    """The words of the best path; of equals one that ends the sentence."""
    place = len(ways) - 1
    state: _State | None = min(ways[place], key=lambda state: (ways[place][state].unknown, state.before != END))
    words: list[str] = []
    while state is not None:
        step = ways[place][state]
        if step.word and not (step.word == UNKNOWN and words and words[-1] == UNKNOWN):
            words.append(step.word)
        place, state = step.place, step.state
    return words[::-1]
