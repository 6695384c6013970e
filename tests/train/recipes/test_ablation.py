"""Tokens of the ablation: ways to say words, of captions that fit the decoder, read as words again."""

from __future__ import annotations

import pytest

from im2sp.bundle import Pronunciations, VocabularyConfig
from im2sp.train.data.caption_targets import Target
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.unit_words import WordVocabulary
from im2sp.train.recipes.captioner.ablation import MAX_TOKENS, UnitVocabulary

SAID = [(1, None, None, 0), (2, None, None, 4), (3, None, None, 1), (3, None, 1, 2), (4, None, None, 3)]
SOUNDS = [0, 0, 0, 0, 1]  # that tokens begin and end with
SPOKEN = VocabularyConfig(
    units=9, subwords=[[0], [1, 2], [1, 3], [4], [8]], pronunciations=Pronunciations(SOUNDS, SOUNDS, SAID)
)
VOCABULARY = UnitVocabulary.of(WordVocabulary(["a", "dog"], [], SPOKEN))


def test_tokens_are_ways_to_say_words() -> None:
    assert VOCABULARY.encode("A dog, a") == [1, 3, 5, 6, 4, 7, 2]
    assert VOCABULARY.encode("a cat") is None
    assert VOCABULARY.decode([1, 3, 5, 6, 4, 7, 2]) == "a dog a"


def test_long_captions_are_cut_to_the_positions_of_the_decoder() -> None:
    tokens = VOCABULARY.encode(100 * "a dog ")
    assert tokens
    assert len(tokens) - 1 <= MAX_TOKENS  # the last one is only predicted


def test_each_token_starts_with_its_share_of_a_word() -> None:
    targets = [Target("photo", [[1, 3, 5, 6, 7, 2], [1, 3, 5, 6, 7, 2], [1, 3, 4, 7, 2]], 1.0)]
    tokenizer = TextTokenizer.of_words(["a", "dog"])
    words, shares = VOCABULARY.words_and_shares(tokenizer, targets)
    assert words.tolist() == [-1, 1, 2, -1, *tokenizer.tokens_of(["a", "a", "dog"]), -1]
    assert shares[[4, 5, 6]].tolist() == pytest.approx([2 / 5, 3 / 5, 1])  # one added to each count
