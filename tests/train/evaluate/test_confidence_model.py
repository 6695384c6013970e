"""Fits of the confidence against known answers."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.confidence import PrincipalComponents
from im2sp.errors import Im2SpError
from im2sp.train.evaluate.confidence_model import (
    Table,
    fit_cross_validated,
    fit_pca,
    fit_regression,
    threshold_for_precision,
)
from im2sp.train.evaluate.reliability import calibration_error


def table(count: int, seed: int = 0) -> Table:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 3)) * [0.2, 0.5, 1.0] + [-1.3, 3.0, 0.5]
    correct = random.random(count) < 1 / (1 + np.exp(-(features @ [4.0, -1.0, -0.5] + 8.0)))
    return Table(features, correct, np.ones(count), [str(row // 2) for row in range(count)])


def test_regression_finds_the_odds_that_made_the_labels() -> None:
    fitted = fit_regression(table(20_000), 10.0)
    np.testing.assert_allclose(fitted.weights, [4.0, -1.0, -0.5], rtol=0.15)
    assert fitted.intercept == pytest.approx(8, rel=0.15)
    whole, confidences = fit_cross_validated(table(4_000))
    np.testing.assert_allclose(whole.weights, [4.0, -1.0, -0.5], rtol=0.3)  # the ridge is scaled away
    assert calibration_error(confidences, table(4_000).correct) < 0.03
    alike = table(4_000)
    weighted = fit_regression(
        Table(alike.features, alike.correct, np.where(alike.correct, 3.0, 1.0), alike.photos), 10.0
    )
    assert weighted.intercept > fit_regression(alike, 10.0).intercept + 0.8  # about log 3
    with pytest.raises(Im2SpError, match="all of 3 captions"):
        fit_regression(Table(np.zeros((3, 3)), np.full(3, True), np.ones(3), ["a", "b", "c"]), 1.0)
    with pytest.raises(Im2SpError, match="too few"):
        fit_cross_validated(Table(np.eye(3), np.array([True, False, False]), np.ones(3), ["a", "b", "c"]))


def test_components_are_those_of_the_training_photos() -> None:
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(24, 24)))[0]
    photos = ((random.normal(size=(600, 24)) * np.array([5.0, 3.0, *[0.1] * 22])) @ axes + 2).astype(np.float32)
    pca = fit_pca(photos, 2)
    np.testing.assert_allclose(pca.deviations, [5, 3], rtol=0.15)
    np.testing.assert_allclose(np.abs(np.array(pca.components) @ axes[:2].T), np.eye(2), atol=0.05)
    assert PrincipalComponents(pca).coordinates(photos).std(axis=0) == pytest.approx([1, 1], abs=0.01)
    alike = fit_pca(np.ones((8, 16), dtype=np.float32), 4)
    assert np.abs(PrincipalComponents(alike).coordinates(np.ones((1, 16), dtype=np.float32))).max() <= 5
    with pytest.raises(Im2SpError, match="2 training photos"):
        fit_pca(photos[:2], 2)


def test_thresholds() -> None:
    confidences = np.array([0.95, 0.9, 0.8, 0.5, 0.05])
    correct, even = np.array([True, False, True, True, False]), np.ones(5)
    assert threshold_for_precision(confidences, correct, even, 0.7) == 0.5
    assert threshold_for_precision(confidences, correct, even, 0.9) == 0.95
    assert threshold_for_precision(confidences, ~correct, even, 0.9) == 1.0
    assert threshold_for_precision(confidences, correct, np.array([1, 9, 1, 1, 1]), 0.7) == 0.95
