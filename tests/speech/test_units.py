"""Units: repeats, durations, text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.errors import Im2SpError
from im2sp.speech.units import (
    TEXT_LIMIT,
    UNITS_LIMIT,
    check_units,
    expand,
    parse_units,
    remove_repeats,
    without_repeats,
)


@given(st.lists(st.integers(0, 4), max_size=80))
def test_expand_undoes_remove_repeats(frames: list[int]) -> None:
    units, durations = remove_repeats(frames)
    assert units.dtype == durations.dtype == np.int64
    assert (np.diff(units) != 0).all()
    assert (durations >= 1).all()
    assert expand(units, durations).tolist() == frames
    assert without_repeats(frames).tolist() == units.tolist()
    assert without_repeats(frames).dtype == np.int64


@pytest.mark.parametrize("durations", [[1], [1, 2, 3], [0, 0], [1, -1]])
def test_durations_that_do_not_fit_are_refused(durations: list[int]) -> None:
    with pytest.raises(Im2SpError, match="duration"):
        expand([3, 4], durations)


@given(st.lists(st.integers(0, 199), min_size=1, max_size=50), st.sampled_from([" ", "\n", ",", ", ", "\t "]))
def test_parse_reads_what_was_written(units: list[int], separator: str) -> None:
    assert parse_units(separator.join(map(str, units)), 200).tolist() == units


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no units"),
        ("1 x 3", "'x' is not a unit"),
        ("٣", "is not a unit"),
        ("1 200", "unit 200 does not exist"),
        ("-1", "unit -1 does not exist"),
        ("9" * 5_000, "does not exist"),
        ("-" + "9" * 5_000, "does not exist"),
        ("1 " * (UNITS_LIMIT + 1), "too many"),
        ("1" * (TEXT_LIMIT + 1), "too many"),
    ],
)
def test_text_that_is_not_units_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Im2SpError, match=reason):
        parse_units(text, 200)


@pytest.mark.parametrize("units", [[], [[1, 2]], [1.5], [True], ["a"], [200], [-1], [1] * (UNITS_LIMIT + 1)])
def test_arrays_that_are_not_units_are_refused(units: object) -> None:
    with pytest.raises(Im2SpError):
        check_units(units, 200)
