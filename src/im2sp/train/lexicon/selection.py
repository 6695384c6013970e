"""Sentences to record: greedy choice of those that cover the most used words and contexts of a text."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from im2sp.train.data.synthesis import END
from im2sp.train.lexicon.lexicon import SILENCES, Context, contexts_of

_SHARES = (0.4, 0.3, 0.3)  # of the value of a context that each of its first recordings brings
_MAX_WORDS = 20  # of a sentence, silences included
_LIMIT = 2000  # of the count of a context, beyond which it is worth no more
_WEIGHTS = (1.0, 0.5, 0.4, 0.25)  # of contexts, the narrowest first, but for the word alone
_SILENCE = 0.3  # weight of contexts of the silences
_WORD = 40.0, 0.5  # value of a word: plus so much times its count


@dataclass(frozen=True)
class SelectionConfig:
    """What is worth recording."""

    sentences: int = 13_000  # at most
    min_count: int = 3  # of a context in the text for it to be worth recordings


def select_sentences(
    texts: Mapping[str, int], words: Mapping[str, Sequence[str]], config: SelectionConfig
) -> list[str]:
    """Texts and their counts -> those to record, the most useful for its length first.

    Args:
        texts: sentence -> how often it occurs.
        words: sentence -> phones of each of its words.
    """
    counts: Counter[Context] = Counter()
    for text, count in texts.items():
        for contexts in contexts_of(words[text]):
            counts.update(dict.fromkeys(contexts, count))
    candidates = [text for text in texts if 4 <= len(words[text]) <= _MAX_WORDS and words[text].count(END) == 1]
    values = [dict(_values(words[text], counts, config.min_count)) for text in candidates]
    lengths = [sum(len(word) + 1 for word in words[text]) for text in candidates]
    recorded: Counter[Context] = Counter()

    def gain(index: int) -> float:
        shares = ((value, recorded[context]) for context, value in values[index].items())
        return sum(value * _SHARES[known] for value, known in shares if known < len(_SHARES)) / lengths[index]

    def take(index: int) -> None:
        recorded.update(values[index].keys())

    return [candidates[index] for index in lazy_greedy(len(candidates), gain, take, config.sentences)]


def lazy_greedy(count: int, gain: Callable[[int], float], take: Callable[[int], None], limit: int) -> Iterator[int]:
    """Yield up to `limit` of `count` items, each time the one with the largest gain, until none gains.

    Gains may only shrink as items are taken, so that most need not be computed again (Minoux, 1978).
    """
    queue = [(-gain(index), index) for index in range(count)]
    heapq.heapify(queue)
    while queue and limit > 0:
        _, index = heapq.heappop(queue)
        now = gain(index)
        if now <= 0:
            continue
        if queue and -now > queue[0][0]:
            heapq.heappush(queue, (-now, index))
            continue
        take(index)
        limit -= 1
        yield index


def _values(words: Sequence[str], counts: Mapping[Context, int], min_count: int) -> Iterator[tuple[Context, float]]:
    """What recordings of each context in a sentence are worth: its count in the text, up to a limit, times a weight."""
    for *narrow, alone in contexts_of(words):
        factor = _SILENCE if alone[1] in SILENCES else 1.0
        for context, weight in zip(narrow, _WEIGHTS, strict=True):
            if counts[context] >= min_count:
                yield context, factor * weight * min(counts[context], _LIMIT)
        yield alone, _WORD[0] * min(1, counts[alone] / 5) + _WORD[1] * min(counts[alone], _LIMIT)
