"""Vocabulary: unit subwords, repeats across their borders, tokens that are said in several ways."""

from __future__ import annotations

import pytest

from im2sp.bundle import Pronunciations, VocabularyConfig
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import Im2SpError

SINGLE = [[unit] for unit in range(8)]
MERGED = Vocabulary(VocabularyConfig(units=8, subwords=[*SINGLE, [1, 2], [1, 2, 3], [3, 4], [2, 1]]))
ONE_TWO, ONE_TWO_THREE, TWO_ONE = 11, 12, 14


def test_repeats_go_where_subwords_meet() -> None:
    assert MERGED.decode([ONE_TWO, TWO_ONE, 4]).tolist() == [1, 2, 1]
    assert MERGED.decode([5, 5, 6, 6, 6]).tolist() == [2, 3]


def test_repeats_stay_where_the_vocabulary_keeps_them() -> None:
    vocabulary = Vocabulary(VocabularyConfig(units=8, subwords=SINGLE, keep_repeats=True))
    assert vocabulary.decode([4, 4, 1, 4, 5]).tolist() == [1, 1, 1, 2]


def test_unknown_tokens_are_refused() -> None:
    with pytest.raises(Im2SpError, match="token 15 does not exist"):
        MERGED.decode([3, 15])


# Tokens 3 and 4 begin with sounds 1 and 2 and end with 1; 4 is said in one way, 3 in several; silences around them.
BEGIN, END = (1, None, None, 0), (2, 1, None, 6)
SAID = [BEGIN, (3, None, None, 1), (3, None, 2, 2), (3, 1, None, 3), (3, 1, 2, 4), (4, None, None, 5), END]
SUBWORDS = [[0], [1, 1], [1, 2], [3], [3, 4], [4, 5], [7]]
PRONUNCIATIONS = Pronunciations([0, 0, 0, 1, 2], [0, 0, 0, 1, 1], SAID)
SPOKEN = VocabularyConfig(units=8, subwords=SUBWORDS, pronunciations=PRONUNCIATIONS)


def test_a_token_is_said_as_its_neighbours_ask() -> None:
    vocabulary = Vocabulary(SPOKEN)
    assert vocabulary.size == 5
    assert vocabulary.pronounce([3]) == [0, 1, 6]
    assert vocabulary.pronounce([3, 4]) == [0, 2, 5, 6]
    assert vocabulary.pronounce([3, 3, 3, 4]) == [0, 1, 3, 4, 5, 6]
    assert vocabulary.decode([3, 3, 3, 4]).tolist() == [0, 1, 3, 4, 5, 7]  # repeats go
    assert vocabulary.units_of([3, 3, 3, 4]) == [[0, 1, 1], [3], [3, 4], [4, 5, 7]]
    assert vocabulary.units_of([4]) == [[0, 4, 5, 7]]
    assert vocabulary.units_of([]) == []


def test_what_may_go_on_is_said_up_to_the_token_that_waits_for_its_neighbour() -> None:
    vocabulary = Vocabulary(SPOKEN)
    whole = vocabulary.decode([3, 3, 4, 3]).tolist()
    parts = [vocabulary.decode([3, 3, 4, 3][:length], ended=False).tolist() for length in range(5)]
    assert parts == [[], [0], [0, 1], [0, 1, 3, 4], [0, 1, 3, 4, 5]]
    assert all(whole[: len(part)] == part for part in parts)
    assert MERGED.decode([ONE_TWO], ended=False).tolist() == [1, 2]  # waits for nothing


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subwords": [[]]}, "a subword is empty"),
        ({"subwords": [*SINGLE, [1, 8]]}, "outside 0..7"),
        ({"eos": 1}, "must differ"),
        ({"subwords": SUBWORDS[:-1], "pronunciations": PRONUNCIATIONS}, "a subword outside 0..5"),
    ],
)
def test_inconsistent_vocabularies_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        VocabularyConfig(**{"units": 8, "subwords": SINGLE, **changes})


@pytest.mark.parametrize(
    ("last", "said", "reason"),
    [
        ([0] * 4, SAID, "as many first sounds"),
        ([0] * 5, SAID[:-2], "token 4 has no pronunciation"),
        ([0] * 5, [*SAID, (5, None, None, 0)], "outside 0..4"),
    ],
)
def test_inconsistent_pronunciations_are_refused(
    last: list[int], said: list[tuple[int, None, None, int]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Pronunciations([0] * 5, last, said)
