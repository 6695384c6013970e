"""What speech units tell about phones."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.train.evaluate.unit_quality import frame_phones, phone_information


def test_frame_phones_joins_marks_to_their_phone() -> None:
    names = frame_phones(["w", "ˈ", "ɔ", "ː", "k"], np.array([320, 160, 320, 160, 320]), 4)
    assert names.tolist() == ["w", "ɔ", "ɔ", "k"]


def test_a_perfect_and_a_useless_set_of_units() -> None:
    phones = np.array(list("aabbcc"), dtype=object)
    assert phone_information([(np.array([0, 0, 1, 1, 2, 2]), phones)]) == pytest.approx(1)
    assert phone_information([(np.zeros(6, int), phones)]) == pytest.approx(0, abs=1e-9)
