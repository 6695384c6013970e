"""Captions as rows of numbers, and which are correct, in; a regularised logistic regression and its thresholds out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.bundle import PCAConfig
from im2sp.errors import Im2SpError
from im2sp.installing import require_extra
from im2sp.train.evaluate.reliability import Doubles, Flags

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

_INVERSE_RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3)  # the one with the least cross-validated loss is taken
_FOLDS = 5
_DIGITS = 5  # significant ones in the config


@dataclass(frozen=True)
class Table:
    """Captions, or pictures, of several sets."""

    features: Doubles  # float64 [n, columns]
    correct: Flags  # bool [n]; of pictures: whether it is a photo
    weights: Doubles  # float64 [n], how much each counts
    photos: Sequence[str]  # [n]: captions of one photo stay in one fold


@dataclass(frozen=True)
class Regression:
    """Log odds = intercept + features @ weights."""

    weights: Doubles  # float64 [columns]
    intercept: float


def fit_regression(table: Table, inverse_ridge: float) -> Regression:
    """Fit the regression; the ridge is on features in standard deviations.

    Raises Im2SpError unless some captions are correct and some are not.
    """
    correct = table.correct
    if correct.all() or not correct.any():
        found = "all" if correct.all() else "none"
        raise Im2SpError(f"{found} of {len(correct)} captions are correct, so no confidence can be fitted: give others")
    scaler, model = _model(inverse_ridge).fit(table.features, correct, **_fit_weights(table)).named_steps.values()
    weights = model.coef_[0] / scaler.scale_
    return Regression(weights, float(model.intercept_[0]) - float(weights @ scaler.mean_))


def fit_cross_validated(table: Table, seed: int = 0) -> tuple[Regression, Doubles]:
    """Fit to all captions, and compute confidences float64 [n] by regressions fitted to captions of other photos.

    The ridge is the one whose confidences are best. A ridge makes log odds too small, so they are scaled (Platt 1999).
    Raises Im2SpError for fewer than two correct or wrong captions.
    """
    with require_extra("train"):
        from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    correct = table.correct
    folds = min(_FOLDS, len(set(table.photos)), int(correct.sum()), int((~correct).sum()))
    if folds < 2:
        raise Im2SpError("one correct or one wrong caption is too few to calibrate a bundle: give more photos")
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    weights, tried = _fit_weights(table), []
    for ridge in _INVERSE_RIDGES:
        model, rows = _model(ridge), table.features
        log_odds = cross_val_predict(
            model, rows, correct, groups=table.photos, cv=splits, method="decision_function", params=weights
        )
        tried.append((ridge, *_platt(table, log_odds)))
    ridge, scale, shift, confidences = min(tried, key=lambda one: _loss(table, one[3]))
    whole = fit_regression(table, ridge)
    return Regression(scale * whole.weights, scale * whole.intercept + shift), confidences


def threshold_for_precision(confidences: Doubles, correct: Flags, weights: Doubles, precision: float) -> float:
    """Find the lowest confidence from which on at least this share of captions is correct; 1 where there is none."""
    order = np.argsort(-confidences, kind="stable")
    shares = np.cumsum((correct * weights)[order]) / np.cumsum(weights[order])
    enough = np.flatnonzero(shares >= precision)
    return math.floor(float(confidences[order[enough[-1]]]) * 1_000) / 1_000 if len(enough) else 1.0


def fit_pca(pooled: FloatArray, components: int) -> PCAConfig:
    """Fit principal components to pooled training photos float32 [n, width] (`im2sp.confidence.pool`).

    Raises Im2SpError for too few photos.
    """
    components = min(components, len(pooled) - 2, pooled.shape[1] - 1)
    if components < 1:
        raise Im2SpError(f"{len(pooled)} training photos are too few for principal components: give more")
    seen = pooled.astype(np.float64)
    mean = seen.mean(axis=0)
    _, singular, axes = np.linalg.svd(seen - mean, full_matrices=False)
    variances = singular[:components] ** 2 / (len(seen) - 1)
    least = 1e-6 * max(1e-6, float(variances[0]))  # equal photos must not make a deviation of 0
    return PCAConfig(
        mean=rounded(mean),
        components=[rounded(axis) for axis in axes[:components]],
        deviations=rounded(np.sqrt(np.maximum(least, variances))),
    )


def rounded(values: Iterable[float] | Doubles) -> list[float]:
    """Round numbers for a config."""
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _model(inverse_ridge: float) -> Pipeline:
    with require_extra("train"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler
    return Pipeline([("scaler", StandardScaler()), ("model", LogisticRegression(C=inverse_ridge, max_iter=1_000))])


def _fit_weights(table: Table) -> dict[str, Doubles]:
    return {f"{step}__sample_weight": table.weights for step in ("scaler", "model")}


def _platt(table: Table, log_odds: Doubles) -> tuple[float, float, Doubles]:
    """Scale and shift of log odds, and the confidences float64 [n] that these make of them."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1_000).fit(log_odds[:, None], table.correct, table.weights)
    scale, shift = max(0.0, float(model.coef_[0, 0])), float(model.intercept_[0])
    return scale, shift, 1 / (1 + np.exp(-np.clip(scale * log_odds + shift, -700, 700)))


def _loss(table: Table, confidences: Doubles) -> float:
    likely = np.clip(np.where(table.correct, confidences, 1 - confidences), 1e-12, 1)
    return float(-(table.weights * np.log(likely)).mean())
