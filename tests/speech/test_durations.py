"""Durations: whole frames whose sum stays near what was expected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.speech.durations import LONGEST_UNIT, Rounding

EXPECTED = st.lists(st.floats(-5, 12), max_size=60)


def test_without_slack_each_is_rounded_by_itself() -> None:
    found = Rounding(None).take(np.array([-1, 0.2, 1.4, 1.4, 1.4, 2.6, 1e9]))
    assert found.tolist() == [1, 1, 1, 1, 1, 3, LONGEST_UNIT]


def test_what_is_rounded_away_is_made_good() -> None:
    assert Rounding(0.75).take(np.full(10, 1.4)).tolist() == [1, 2, 1, 1, 2, 1, 2, 1, 1, 2]
    assert Rounding(0.75).take(np.full(10, 2.6)).tolist() == [3, 2, 3, 3, 2, 3, 2, 3, 3, 2]


def test_what_is_nearly_whole_stays() -> None:
    nearly = np.array([1.05, 1.9, 1.1, 2.95, 2.1, 0.95, 1.05, 3.02])
    assert Rounding(0.75).take(nearly).tolist() == [1, 2, 1, 3, 2, 1, 1, 3]


@pytest.mark.parametrize("slack", [0.6, 0.75, 2.0])
@given(expected=EXPECTED)
def test_no_more_is_owed_than_the_slack(slack: float, expected: list[float]) -> None:
    bounded = np.maximum(expected, 1)
    found = Rounding(slack).take(np.array(expected))
    owed = np.cumsum(bounded - found)
    assert (found >= 1).all()
    assert (np.abs(found - bounded) < 1.5 + 1e-9).all()
    assert owed.size == 0 or np.abs(owed).max() <= max(slack, 0.5) + 1e-9


@pytest.mark.parametrize("slack", [None, 0.75])
@given(expected=EXPECTED, cut=st.integers(0, 60))
def test_pieces_are_rounded_as_the_whole(slack: float | None, expected: list[float], cut: int) -> None:
    rounding = Rounding(slack)
    parts = [rounding.take(np.array(part)) for part in (expected[:cut], expected[cut:])]
    assert np.concatenate(parts).tolist() == Rounding(slack).take(np.array(expected)).tolist()
