"""Variants of words: which become tokens, what replaces the others, and what tokens say."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.train.data.text_tokenizer import UNKNOWN, TextTokenizer
from im2sp.train.data.unit_bpe import UnitBPE
from im2sp.train.data.unit_table import UnitRow
from im2sp.train.data.unit_words import PIECE, SILENCE, SpokenWords, TokenWords

PAUSE = (0,)
DOG, DOGS_OTHER, RARE, CAT = (1, 2, 3), (1, 2, 4), (1, 2, 3, 5), (6, 7)


def row(text: str, *words: tuple[int, ...]) -> UnitRow:
    frames = np.array([unit for word in words for unit in word], np.uint16)
    lengths = np.array([len(word) for word in words], np.uint16)
    return UnitRow("photo", "caption", frames, "train", "voice", 1.0, text, word_frames=lengths)


@pytest.fixture
def said() -> SpokenWords:
    rows = [row("a dog", CAT, DOG, PAUSE)] * 4 + [row("dog", DOGS_OTHER, PAUSE)] * 3 + [row("dog", RARE, (), PAUSE)]
    return SpokenWords(rows, {PAUSE}, TextTokenizer.of_words(["a", "dog"]))


def test_rare_variants_are_said_by_the_most_similar_one_that_has_a_token(said: SpokenWords) -> None:
    assert said.choose(4, 1) == [CAT, DOG, PAUSE, DOGS_OTHER]
    assert said.replaced(RARE) == DOG
    assert said.replaced(DOGS_OTHER) == DOGS_OTHER
    assert said.replaced((9, 9)) == (9, 9)  # nobody knows its word


def test_each_frequent_word_has_a_token_before_variants_get_theirs(said: SpokenWords) -> None:
    assert said.choose(2, 3) == [CAT, DOG]


def test_tokens_are_read_as_words(said: SpokenWords) -> None:
    bpe = UnitBPE.train(said.seen.elements(), 10, 10, whole_words=said.choose(4, 1))
    words, tokenizer = TokenWords.of(said, bpe), TextTokenizer.of_words(["a", "dog"])
    sentence = bpe.encode([CAT, DOGS_OTHER, PAUSE])
    assert tokenizer.decode(words.decode(sentence[1:-1])) == "a dog"
    assert words.decode(bpe.encode([(8, 9)])[1:-1]) == [UNKNOWN]
    dog = words.words == words.words[bpe.encode([DOG])[1]]
    assert float(words.shares[dog].sum()) == pytest.approx(1)
    assert {SILENCE, PIECE} <= set(words.words.tolist())
