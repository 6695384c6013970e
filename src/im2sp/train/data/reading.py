"""Regular units -> the words that they say, by the table of pronunciations that they were put together from.

What a translator says can then be compared with what people wrote word by word, without speaking and hearing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from im2sp.arrays import IntArray
from im2sp.speech.units import without_repeats
from im2sp.train.data.pronunciations import END, START, Context, Pronunciations

UNREAD = "?"  # in place of words that the table does not know; one for each run of such units


class _State(NamedTuple):
    """What the words so far ask of the next one."""

    before: str
    wanted: str | None  # the next word, where the last entry was for one before that; None: any


class _Step(NamedTuple):
    """The cheapest way into a state: units that were not read, and where it came from."""

    unread: int
    place: int
    state: _State | None
    word: str


@dataclass
class _Node:
    """Of the tree of all ways of saying words."""

    following: dict[int, _Node] = field(default_factory=dict)
    entries: list[Context] = field(default_factory=list)


class Reader:
    """Reads the sentences of one table of pronunciations."""

    def __init__(self, table: Pronunciations) -> None:
        self._known = set(table.contexts())
        self._root = _Node()
        for entry in table.contexts():
            node = self._root
            for unit in without_repeats(table.way(entry)).tolist():
                node = node.following.setdefault(unit, _Node())
            node.entries.append(entry)

    def words(self, units: Sequence[int] | IntArray) -> list[str]:
        """Units without repeats -> words (phones of each) with as few units unread as can be.

        A word may begin with the unit that the one before it ends with, as repeats are removed where words meet.
        """
        sentence = [int(unit) for unit in units]
        ways: list[dict[_State, _Step]] = [{} for _ in range(len(sentence) + 1)]
        ways[0][_State("", START)] = _Step(0, 0, None, "")
        for place, states in enumerate(ways):
            matches = self._matches(sentence, place) if states else []
            todo = list(states.items())
            while todo:
                state, step = todo.pop()
                if states[state].unread < step.unread:
                    continue
                for end, entry in matches:
                    if (word := self._fits(entry, state)) is None or (word == END and end < len(sentence)):
                        continue
                    following = _State(word, entry[2])
                    if _better(ways[end], following, _Step(step.unread, place, state, word)) and end == place:
                        todo.append((following, ways[end][following]))
                if place < len(sentence):
                    _better(ways[place + 1], _State(UNREAD, None), _Step(step.unread + 1, place, state, UNREAD))
        return _traced(ways)

    def _fits(self, entry: Context, state: _State) -> str | None:
        """The word of an entry, where it may come next; a wider entry may not where there is a narrower one."""
        before, word, after = entry
        if state.wanted not in (None, word) or before not in (None, state.before):
            return None
        if before is None and after is not None and (state.before, word, after) in self._known:
            return None
        return word

    def _matches(self, sentence: list[int], place: int) -> list[tuple[int, Context]]:
        """Entries that begin at a place, or with the unit before it, and where each of them ends."""
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
    """Take a step into a state, if it leaves fewer units unread than the one that is known."""
    if state in states and states[state].unread <= step.unread:
        return False
    states[state] = step
    return True


def _traced(ways: list[dict[_State, _Step]]) -> list[str]:
    """The words of the best way to the end; one that ends as a sentence does comes before others that are as good."""
    place = len(ways) - 1
    state: _State | None = min(ways[place], key=lambda state: (ways[place][state].unread, state.before != END))
    words: list[str] = []
    while state is not None:
        step = ways[place][state]
        if step.word and not (step.word == UNREAD and words and words[-1] == UNREAD):
            words.append(step.word)
        place, state = step.place, step.state
    return words[::-1]
