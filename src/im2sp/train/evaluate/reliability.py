"""Confidences and whether the captions were correct in; calibration error, AUC and shares of answers out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from im2sp.installing import require_extra

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BINS = 10  # of equal width, for the calibration error


def measure(confidences: Doubles, correct: Flags) -> dict[str, float | int | None]:
    """Compute all figures of confidences float64 [n] of captions that are correct or not, bool [n]."""
    with require_extra("train"):
        from sklearn.metrics import brier_score_loss, roc_auc_score
    return {
        "captions": len(correct),
        "correct": float(correct.mean()),
        "mean_confidence": float(confidences.mean()),
        "calibration_error": calibration_error(confidences, correct),
        "brier_score": float(brier_score_loss(correct, confidences, labels=[False, True])),
        "auc": float(roc_auc_score(correct, confidences)) if 0 < correct.sum() < len(correct) else None,
    }


def calibration_error(confidences: Doubles, correct: Flags) -> float:
    """Compute the expected calibration error (Guo et al. 2017): how far bins are off, weighted by their captions."""
    places = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(places, weights=confidences - correct)).sum() / len(correct))


def answers(confidences: Doubles, correct: Flags, thresholds: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Count the three answers: share of all captions, and the share of correct ones among them."""
    plain, silent = confidences >= thresholds["hedge"], confidences < thresholds["abstain"]
    parts = {"plain": plain, "hedged": ~plain & ~silent, "abstained": silent & ~plain}
    return {
        name: {
            "share": float(inside.mean()),
            "correct": float(correct[inside].mean()) if inside.any() else None,
        }
        for name, inside in parts.items()
    }
