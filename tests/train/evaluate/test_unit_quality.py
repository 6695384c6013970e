"""Quality of speech units against phones."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.train.evaluate.unit_quality import frame_phones, unit_quality


def test_frame_phones_joins_marks_to_their_phone() -> None:
    names = frame_phones(["w", "ˈ", "ɔ", "ː", "k"], np.array([320, 160, 320, 160, 320]), 4)
    assert names.tolist() == ["w", "ɔ", "ɔ", "k"]


def test_unit_quality_of_a_perfect_and_a_useless_set() -> None:
    phones = np.array(list("aabbcc"), dtype=object)
    perfect = unit_quality([(np.array([0, 0, 1, 1, 2, 2]), phones)])
    assert perfect.phone_purity == perfect.cluster_purity == pytest.approx(1)
    assert perfect.phone_information == pytest.approx(1)
    assert perfect.rate == pytest.approx(25)
    useless = unit_quality([(np.zeros(6, int), phones)])
    assert useless.phone_information == pytest.approx(0, abs=1e-9)
    assert useless.phone_purity == pytest.approx(1 / 3)


def test_without_phones_no_phone_scores_are_claimed() -> None:
    quality = unit_quality([(np.array([0, 0, 1]), frame_phones([], np.zeros(0, np.int32), 3))])
    assert (quality.phone_purity, quality.phone_information, quality.used) == (0, 0, 2)
