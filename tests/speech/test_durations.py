"""Durations: whole frames whose sum stays near the expected one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.speech.durations import LONGEST_UNIT, ErrorDiffusion

EXPECTED = st.lists(st.floats(-5, 12), max_size=60)


@pytest.mark.parametrize(
    ("tolerance", "expected", "found"),
    [
        (100, [-1, 0.2, 1.4, 1.4, 1.4, 2.6, 1e9], [1, 1, 1, 1, 1, 3, LONGEST_UNIT]),
        (0.75, [1.4] * 10, [1, 2, 1, 1, 2, 1, 2, 1, 1, 2]),
        (0.75, [2.6] * 10, [3, 2, 3, 3, 2, 3, 2, 3, 3, 2]),
        (0.75, [1.05, 1.9, 1.1, 2.95, 2.1, 0.95, 1.05, 3.02], [1, 2, 1, 3, 2, 1, 1, 3]),
    ],
)
def test_the_rounding_error_is_carried(tolerance: float, expected: list[float], found: list[int]) -> None:
    assert ErrorDiffusion(tolerance).round(np.array(expected)).tolist() == found


@pytest.mark.parametrize("tolerance", [0.6, 0.75, 2.0])
@given(expected=EXPECTED, cut=st.integers(0, 60))
def test_the_residual_stays_within_the_tolerance(tolerance: float, expected: list[float], cut: int) -> None:
    bounded = np.maximum(expected, 1)
    found = ErrorDiffusion(tolerance).round(np.array(expected))
    residuals = np.cumsum(bounded - found)
    assert (found >= 1).all()
    assert (np.abs(found - bounded) < 1.5 + 1e-9).all()
    assert residuals.size == 0 or np.abs(residuals).max() <= tolerance + 1e-9
    pieces = ErrorDiffusion(tolerance)
    parts = [pieces.round(np.array(part)) for part in (expected[:cut], expected[cut:])]
    assert np.concatenate(parts).tolist() == found.tolist()


@given(expected=st.lists(st.floats(1, 12), min_size=1, max_size=60), rate=st.floats(0.5, 3))
def test_a_rate_scales_the_whole(expected: list[float], rate: float) -> None:
    found = ErrorDiffusion(100, rate).round(np.array(expected))
    assert found.min() >= (0 if rate > 1 else 1)
    assert found.sum() >= 1
    if rate != 1:
        assert abs(found.sum() - sum(expected) / rate) <= 1.02
