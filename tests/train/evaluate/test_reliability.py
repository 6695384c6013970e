"""Figures of confidences against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.train.evaluate.reliability import answers, calibration_error, measure


def test_calibration_error_and_other_figures() -> None:
    confidences, correct = np.array([0.0, 0.05, 0.55, 0.55, 1.0]), np.array([False, True, True, True, True])
    assert calibration_error(confidences, correct) == pytest.approx((2 * (0.5 - 0.025) + 2 * 0.45 + 0) / 5)
    figures = measure(np.array([0.5, 0.7]), np.array([True, True]))
    assert (figures["auc"], figures["captions"], figures["correct"]) == (None, 2, 1)
    assert figures["brier_score"] == pytest.approx((0.25 + 0.09) / 2)
    assert measure(np.array([0.2, 0.7]), np.array([False, True]))["auc"] == 1


def test_answers() -> None:
    confidences, correct = np.array([0.95, 0.9, 0.8, 0.5, 0.05]), np.array([True, False, True, True, False])
    assert answers(confidences, correct, {"hedge": 0.8, "abstain": 0.1}) == {
        "plain": {"share": 0.6, "correct": pytest.approx(2 / 3)},
        "hedged": {"share": 0.2, "correct": 1.0},
        "abstained": {"share": 0.2, "correct": 0.0},
    }
