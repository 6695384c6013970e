"""Vocabulary: round trips, unit subwords, repeats across their borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.bundle import VocabularyConfig
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import Im2SpError
from im2sp.speech.units import remove_repeats

SINGLE = [[unit] for unit in range(8)]
PLAIN = Vocabulary(VocabularyConfig(units=8, subwords=SINGLE))
# learnt in this order: 1 2, then 1 2 3, then 3 4, then 5 5 is never met because repeats are removed
MERGED = Vocabulary(VocabularyConfig(units=8, subwords=[*SINGLE, [1, 2], [1, 2, 3], [3, 4], [2, 1]]))
ONE_TWO, ONE_TWO_THREE, THREE_FOUR, TWO_ONE = 11, 12, 13, 14


@given(st.lists(st.integers(0, 7), min_size=1, max_size=60))
@pytest.mark.parametrize("vocabulary", [PLAIN, MERGED])
def test_round_trip(vocabulary: Vocabulary, units: list[int]) -> None:
    tokens = vocabulary.encode(units)
    assert tokens.dtype == np.int64
    assert tokens.min() >= 3
    assert tokens.max() < vocabulary.size
    assert vocabulary.decode(tokens).tolist() == remove_repeats(units)[0].tolist()


@pytest.mark.parametrize(
    ("units", "tokens"),
    [
        ([0, 0, 7, 7, 7], [3, 10]),
        ([1, 1, 2, 2], [ONE_TWO]),
        ([1, 2, 3], [ONE_TWO_THREE]),
        ([1, 2, 3, 4], [ONE_TWO_THREE, 7]),  # 1 2 3 was learnt before 3 4
        ([1, 2, 1], [ONE_TWO, 4]),  # 1 2 was learnt before 2 1
        ([2, 1, 2, 1, 2], [5, ONE_TWO, ONE_TWO]),
    ],
)
def test_neighbours_are_merged_as_they_were_learnt(units: list[int], tokens: list[int]) -> None:
    assert MERGED.encode(units).tolist() == tokens


def test_repeats_go_where_subwords_meet() -> None:
    assert MERGED.decode([ONE_TWO, TWO_ONE, 4]).tolist() == [1, 2, 1]
    assert PLAIN.decode([5, 5, 6, 6, 6]).tolist() == [2, 3]


def test_repeats_stay_where_the_vocabulary_keeps_them() -> None:
    vocabulary = Vocabulary(VocabularyConfig(units=8, subwords=SINGLE, keep_repeats=True))
    assert vocabulary.decode([4, 4, 1, 4, 5]).tolist() == [1, 1, 1, 2]


def test_unknown_tokens_are_refused() -> None:
    with pytest.raises(Im2SpError, match="token 15 does not exist"):
        MERGED.decode([3, 15])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subwords": SINGLE[:-1]}, "unit 7 has no subword"),
        ({"subwords": [*SINGLE, [1]]}, "listed twice"),
        ({"subwords": [*SINGLE, [1, 8]]}, "outside 0..7"),
        ({"eos": 1}, "must differ"),
    ],
)
def test_inconsistent_vocabularies_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        VocabularyConfig(**{"units": 8, "subwords": SINGLE, **changes})


def test_output_units_override_the_subwords() -> None:
    said = [[7], [6], [5], [], [3, 2], [1], [0], [0, 4], [6, 5], [6, 5, 3], [3, 2], [2]]
    output_units = dict(enumerate(said, 3))
    config = VocabularyConfig(units=8, subwords=[*SINGLE, [1, 2], [1, 2, 3], [3, 4], [2, 1]], output_units=output_units)
    vocabulary = Vocabulary(config)
    assert vocabulary.encode([1, 2, 3, 4]).tolist() == MERGED.encode([1, 2, 3, 4]).tolist()
    assert vocabulary.decode([ONE_TWO_THREE, 7]).tolist() == [6, 5, 3, 2]  # no unit twice where they meet
    assert vocabulary.decode([6]).tolist() == []  # a subword that is said by nothing
