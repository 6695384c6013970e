"""Figures of confidences against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.train.evaluate.reliability import (
    calibration_error,
    error_by_chance,
    measure,
    reliability_bins,
    risk_coverage,
)


def test_bins_and_calibration_error() -> None:
    bins = reliability_bins(np.array([0.0, 0.05, 0.55, 0.55, 1.0]), np.array([False, True, True, True, True]))
    assert [(one.low, one.high, one.captions, one.correct) for one in bins] == [
        (0.0, 0.1, 2, 0.5),
        (0.5, 0.6, 2, 1.0),
        (0.9, 1.0, 1, 1.0),
    ]
    assert calibration_error(bins) == pytest.approx((2 * (0.5 - 0.025) + 2 * 0.45 + 0) / 5)


def test_perfect_confidences_show_an_error_by_chance() -> None:
    assert error_by_chance(np.full(50, 0.5)) == pytest.approx(0.8 * 0.5 / 50**0.5, rel=0.2)  # mean deviation of a share
    assert error_by_chance(np.full(5_000, 0.5)) < 0.01


def test_risk_and_coverage() -> None:
    points = risk_coverage(np.array([0.9, 0.1, 0.8, 0.4]), np.array([True, False, True, False]))
    assert points == [(0.25, 0.0), (0.5, 0.0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]


def test_all_figures() -> None:
    figures = measure(np.array([0.5, 0.7]), np.array([True, True]))
    assert figures["auc"] is None
    assert figures["brier_score"] == pytest.approx((0.25 + 0.09) / 2)
    assert measure(np.array([0.2, 0.7]), np.array([False, True]))["auc"] == 1
