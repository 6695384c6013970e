"""Off-domain pictures: fifty of each set, the same for the same seed, and no kind in both sets."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.train.data.off_domain import EACH, FITTED, TESTED, pictures


@pytest.mark.parametrize("makers", [TESTED, FITTED])
def test_fifty_pictures_by_a_seed(makers: dict) -> None:
    first, again, other = (dict(pictures(makers, seed)) for seed in (3, 3, 4))
    assert len(first) == len(makers) * EACH == 50
    assert list(first) == list(again) == list(other)
    for name, picture in first.items():
        assert picture.mode == "RGB"
        assert min(picture.size) >= 300
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(again[name]))
    differ = [np.asarray(first[name]).tobytes() != np.asarray(other[name]).tobytes() for name in first]
    assert sum(differ) >= 45  # two blank pages may be of one colour


def test_what_is_tested_was_not_fitted_to() -> None:
    assert not set(TESTED) & set(FITTED)
