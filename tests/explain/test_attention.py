"""When each token sounds, and what was looked at in a segment of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import Im2SpError
from im2sp.explain.attention import (
    MAX_SEGMENTS,
    describe_peak,
    segment_attention,
    segment_edges,
    token_boundaries,
)
from tests.tiny_bundle import SUBWORDS, tiny_config

VOCABULARY = Vocabulary(tiny_config().vocabulary)
FIRST = 3  # token of unit 0


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def token(*units: int) -> int:
    return FIRST + SUBWORDS.index(list(units))


def test_a_unit_that_two_tokens_share_sounds_with_the_first() -> None:
    tokens = ints(token(3, 7), token(7, 3), token(3), token(1))  # units 3 7 3 1
    assert VOCABULARY.decode(tokens).tolist() == [3, 7, 3, 1]
    assert token_boundaries(tokens, ints(2, 4, 1, 3), VOCABULARY).tolist() == [0, 6, 7, 7, 10]


@given(st.lists(st.integers(0, VOCABULARY.size - 1), min_size=1, max_size=30))
def test_boundaries_agree_with_the_vocabulary(tokens: list[int]) -> None:
    """Independent way: the units of the first t tokens, decoded together."""
    durations = np.arange(1, len(VOCABULARY.decode(tokens)) + 1)
    expected = [durations[: len(VOCABULARY.decode(tokens[:end]))].sum() for end in range(len(tokens) + 1)]
    assert token_boundaries(ints(*tokens), durations, VOCABULARY).tolist() == expected


def test_durations_of_something_else() -> None:
    with pytest.raises(Im2SpError, match="stand for 2 units, but there are 3 durations"):
        token_boundaries(ints(token(3, 7)), ints(1, 1, 1), VOCABULARY)


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (49, 1), (50, 2), (130, 5), (10_000, MAX_SEGMENTS)])
def test_segments_cover_the_speech(frames: int, count: int) -> None:
    edges = segment_edges(frames)
    assert (edges[0], edges[-1], len(edges)) == (0, frames, count + 1)
    assert np.ptp(np.diff(edges)) <= 1


def test_a_segment_weighs_tokens_by_their_time_in_it() -> None:
    maps = np.eye(3, dtype=np.float32).reshape(3, 1, 3)
    found = segment_attention(maps, ints(0, 30, 30, 40), ints(0, 20, 40))
    assert found[:, 0].tolist() == [[1, 0, 0], [0.5, 0, 0.5]]


@pytest.mark.parametrize(
    ("cell", "shape", "words"),
    [
        ((0, 0), (4, 4), "top left"),
        ((1, 2), (4, 4), "centre"),
        ((2, 3), (4, 4), "middle right"),
        ((7, 3), (8, 8), "bottom centre"),
        ((0, 0), (1, 1), "centre"),
    ],
)
def test_places_in_words(cell: tuple[int, int], shape: tuple[int, int], words: str) -> None:
    attention = np.full(shape, 0.0, dtype=np.float32)
    attention[cell] = 0.5
    assert describe_peak(attention) == (words, 1.0)
