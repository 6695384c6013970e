"""Vocabulary: unit subwords, repeats across their borders, units in place of them."""

from __future__ import annotations

import pytest

from im2sp.bundle import VocabularyConfig
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
    assert vocabulary.decode([ONE_TWO_THREE, 7]).tolist() == [6, 5, 3, 2]  # no unit twice where they meet
    assert vocabulary.decode([6]).tolist() == []  # a subword that is said by nothing
