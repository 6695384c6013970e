"""Tokens that are words: text to tokens and back, subwords to tokens, and a file that is not one."""

from __future__ import annotations

from pathlib import Path

import pytest

from im2sp.bundle import Pronunciations, VocabularyConfig
from im2sp.errors import Im2SpError
from im2sp.train.data.unit_words import WORD_VOCABULARY, WordVocabulary, words_of_tokens

SAID = [(1, None, None, 0), (3, None, None, 1), (3, None, 1, 2), (4, None, None, 3)]
SPOKEN = VocabularyConfig(
    units=9, subwords=[[0], [1, 2], [1, 3], [4]], pronunciations=Pronunciations([0, 0, 0, 1, 2], [0, 0, 0, 1, 2], SAID)
)
VOCABULARY = WordVocabulary(["a", "dog"], [], SPOKEN)


def test_captions_become_tokens_and_words_again(tmp_path: Path) -> None:
    path = tmp_path / WORD_VOCABULARY
    path.parent.mkdir()
    VOCABULARY.save(path)
    assert WordVocabulary.load(path) == VOCABULARY
    assert VOCABULARY.encode("A dog.") == [3, 4]
    assert VOCABULARY.encode("a cat") is None
    assert VOCABULARY.encode("...") is None
    assert words_of_tokens(tmp_path)([1, 3, 4, 2]) == "a dog"
    assert VOCABULARY.token_of_subwords() == [1, 3, 3, 4]


def test_a_run_without_a_vocabulary_is_told(tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="give the output of the captioner recipe"):
        words_of_tokens(tmp_path)
