"""Words of phones, and lookup of units by the narrowest context."""

from __future__ import annotations

from pathlib import Path

import pytest

from im2sp.errors import Im2SpError
from im2sp.train.lexicon.lexicon import PronunciationLexicon, Variants, contexts_of, frames_of, split_words, words_of

LEXICON = PronunciationLexicon(
    {(None, "a", None): (1,), (None, "bˈe", None): (2, 2), (None, "bˈe", "~a"): (3,), ("a", "bˈe", "a"): (4,)}
)


def test_words_stand_between_pauses_and_silences_are_words() -> None:
    a_dog = ["^", "@", " ", "d", "o", "g", ".", "$"]
    assert split_words(a_dog) == [("^", 0, 1), ("@", 1, 3), ("dog", 3, 6), ("$", 6, 8)]
    assert split_words(list("^d, @$")) == [("^", 0, 1), ("d", 1, 2), (",", 2, 4), ("@", 4, 5), ("$", 5, 6)]
    assert split_words(["^", " ", "@", "$"]) == [("^", 0, 2), ("@", 2, 3), ("$", 3, 4)]
    assert split_words(["d", "o"]) == [("do", 0, 2)]
    assert split_words([]) == []


def test_words_that_espeak_writes_as_one_are_two() -> None:
    assert split_words(list("^ɪnðə d$")) == [("^", 0, 1), ("ɪn", 1, 3), ("ðə", 3, 6), ("d", 6, 7), ("$", 7, 8)]
    assert words_of(list("əvən")) == ("əv", "ən")
    assert words_of(list("ˌɪntʊ")) == ("ˌɪntʊ",)


def test_the_narrowest_context_is_used() -> None:
    assert LEXICON.lookup(["a", "bˈe", "a"]) == [(None, "a", None), ("a", "bˈe", "a"), (None, "a", None)]
    assert LEXICON.pronounce(["bˈe", "a"]) == [(3,), (1,)]
    assert LEXICON.pronounce(["bˈe", "bˈe"]) == [(2, 2), (2, 2)]
    assert LEXICON.pronounce(["a", "new"]) is None
    assert LEXICON.lookup([]) == []
    assert frames_of(LEXICON.pronounce(["bˈe", "bˈe", "a"]) or []).tolist() == [2, 2, 3, 1]


def test_contexts_go_from_words_to_adjacent_phones_to_none() -> None:
    first, second = contexts_of(["ˈan", "bˈiː"])
    assert first == (
        ("", "ˈan", "bˈiː"),
        ("~", "ˈan", "~b"),
        (None, "ˈan", "~b"),
        ("~", "ˈan", None),
        (None, "ˈan", None),
    )
    assert second[1] == ("~n", "bˈiː", "~")


def test_a_lexicon_is_read_as_it_was_written(tmp_path: Path) -> None:
    LEXICON.save(tmp_path / "lexicon.parquet")
    assert PronunciationLexicon.load(tmp_path / "lexicon.parquet").entries == LEXICON.entries
    with pytest.raises(Im2SpError, match="cannot be read"):
        PronunciationLexicon.load(tmp_path / "none.parquet")


def test_variants_are_the_other_ways_to_say_a_word() -> None:
    variants = Variants(LEXICON)
    assert variants.others((3,)) == [(2,), (4,)]
    assert variants.others((9,)) == []
