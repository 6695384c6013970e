"""Confidences and whether the captions were correct in; calibration error, AUC, reliability bins and coverage out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from im2sp.installing import require_extra

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BINS = 10  # of equal width, for the calibration error
_DRAWS = 200  # of labels from perfect confidences


@dataclass(frozen=True)
class Bin:
    """Captions of about the same confidence."""

    low: float  # ends of the bin
    high: float
    captions: int
    confidence: float  # mean
    correct: float  # share


def measure(confidences: Doubles, correct: Flags, seed: int = 0) -> dict[str, Any]:
    """Compute all figures of confidences float64 [n] of captions that are correct or not, bool [n]."""
    with require_extra("train"):
        from sklearn.metrics import roc_auc_score
    bins = reliability_bins(confidences, correct)
    return {
        "captions": len(correct),
        "correct": float(correct.mean()),
        "mean_confidence": float(confidences.mean()),
        "calibration_error": calibration_error(bins),
        "calibration_error_by_chance": error_by_chance(confidences, seed),
        "brier_score": float(np.mean((confidences - correct) ** 2)),
        "auc": float(roc_auc_score(correct, confidences)) if 0 < correct.sum() < len(correct) else None,
        "bins": [asdict(one) for one in bins],
        "risk_coverage": risk_coverage(confidences, correct),
    }


def reliability_bins(confidences: Doubles, correct: Flags) -> list[Bin]:
    """Sort captions into bins of equal width from 0 to 1; leave out empty ones."""
    places = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    found = []
    for place in np.unique(places).tolist():
        inside = places == place
        mean, share = float(confidences[inside].mean()), float(correct[inside].mean())
        found.append(Bin(place / BINS, (place + 1) / BINS, int(inside.sum()), mean, share))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Compute the expected calibration error (Guo et al. 2017)."""
    return sum(one.captions * abs(one.confidence - one.correct) for one in bins) / sum(one.captions for one in bins)


def error_by_chance(confidences: Doubles, seed: int = 0) -> float:
    """Estimate the calibration error that perfect confidences would show on so many captions."""
    random = np.random.default_rng(seed)
    drawn = (random.random(len(confidences)) < confidences for _ in range(_DRAWS))
    return float(np.mean([calibration_error(reliability_bins(confidences, correct)) for correct in drawn]))


def risk_coverage(confidences: Doubles, correct: Flags, points: int = 50) -> list[tuple[float, float]]:
    """Compute (coverage, risk): the share of wrong captions among so large a share of the most confident ones."""
    wrong = np.cumsum(~correct[np.argsort(-confidences, kind="stable")])
    counts = np.unique(np.linspace(1, len(wrong), min(points, len(wrong))).round().astype(np.int64))
    return [(int(count) / len(wrong), float(wrong[count - 1] / count)) for count in counts]
