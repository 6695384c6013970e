"""Words of texts and words that are read in tokens are the same symbols."""

from __future__ import annotations

import numpy as np

from im2sp.speech.units import without_repeats
from im2sp.train.data.pronunciations import Pronunciations
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.stages.reward_translator import WordSymbols

WAYS = {"^": (9,), "$": (8,), "a": (1,), "d\u02c8og": (2, 3), "d\u02c8og.": (2, 3, 4), "k\u02c8at.": (5, 6)}
TABLE = Pronunciations({(None, word, None): units for word, units in WAYS.items()})
PHONES = {
    "a dog": ["^", "a", " ", "d", "\u02c8", "o", "g", ".", "$"],
    "a cat": ["^", "a", " ", "k", "\u02c8", "a", "t", ".", "$"],
}


def _tokens(subwords: UnitSubwords, *words: str) -> list[int]:
    said = TABLE.say(words)
    assert said is not None
    return subwords.encode(without_repeats(said))[1:]


def test_tokens_are_read_as_the_words_of_the_text() -> None:
    subwords = UnitSubwords.train([np.array([9, 1, 2, 3, 4, 8])] * 5, 10, 14)
    symbols = WordSymbols(TABLE, subwords, PHONES.__getitem__)
    dog, cat = symbols.of_text("a dog"), symbols.of_text("a cat")
    assert len(dog) == len(cat) == 3  # a word each, and the end
    assert (dog[0], dog[2]) == (cat[0], cat[2])
    said = _tokens(subwords, "^", "a", "d\u02c8og.", "$")
    assert symbols.of_tokens(said) == dog
    assert symbols.of_tokens(_tokens(subwords, "^", "a", "d\u02c8og", "$")) == dog  # punctuation makes no other word
    assert symbols.of_tokens(said[:-1]) == dog[:-1]  # without EOS it did not end
    assert symbols.of_texts({"photo": ["a dog", "a cat"]}) == {"photo": [dog, cat]}
