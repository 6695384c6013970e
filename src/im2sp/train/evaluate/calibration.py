"""Calibration: signals of captions and whether they were right in; a confidence, and what it is worth, out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from im2sp.arrays import FloatArray
from im2sp.bundle import PPCAConfig, Signal
from im2sp.confidence import PPCADensity
from im2sp.errors import Im2SpError, require_extra
from im2sp.train.evaluate.words import normalise_words

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

SIGNALS: tuple[Signal, ...] = ("score", "length", "ood_score")  # the columns of every table here
RIGHT = 1 / 3  # of what a caption says must be in the references
BINS = 10  # of equal width, for the calibration error
_STRENGTH = 10.0  # inverse of the ridge of the regression: next to none
_HELD_OUT = 4  # one in so many training photos says how far training photos are from each other
_NEARLY_ALL = 0.99  # of these are nearer than `PPCAConfig.ood_threshold`
_DIGITS = 5  # significant ones that go into the config


class Judge:
    """Says whether a caption is right: at least a third of what it says is in the references of its photo.

    A word weighs log(photos / photos with it in their references), as in CIDEr: nearly nothing for an article, most
    for a word that nobody wrote, such as a garbled one. Each word counts once. That needs no list of a language's
    words. With Flickr8k's captions, one in twenty captions is right about a photo that it was not made for, and three
    in four human captions are by the other four.
    """

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        """`references`: texts of every photo, by image id."""
        self._words = {image: self._known(texts) for image, texts in references.items()}
        counts = Counter(word for words in self._words.values() for word in words)
        self._weights = {word: math.log(len(references) / count) for word, count in counts.items()}
        self._most = math.log(max(2, len(references)))

    @staticmethod
    def _known(texts: Iterable[str]) -> set[str]:
        return {word for text in texts for word in normalise_words(text).split()}

    def share(self, text: str, image: str) -> float:
        """How much of what a text says is in the references of a photo, from 0 to 1."""
        return self._share(text, self._words[image])

    def is_right(self, text: str, image: str) -> bool:
        """Whether a text is right about a photo."""
        return self.share(text, image) >= RIGHT

    def human_rate(self, references: Mapping[str, Sequence[str]]) -> float:
        """How often the first reference of a photo is right by the other ones."""
        several = [texts for texts in references.values() if len(texts) > 1]
        if not several:
            return 0.0
        return float(np.mean([self._share(first, self._known(others)) >= RIGHT for first, *others in several]))

    def chance_rate(self, heard: Mapping[str, str], seed: int) -> float:
        """How often captions would be right if they were dealt out to the photos at random."""
        images = list(heard)
        dealt = np.random.default_rng(seed).permutation(len(images))
        return float(
            np.mean([self.is_right(heard[images[other]], image) for image, other in zip(images, dealt, strict=True)])
        )

    def _share(self, text: str, known: set[str]) -> float:
        weights = {word: self._weights.get(word, self._most) for word in normalise_words(text).split()}
        total = sum(weights.values())
        return sum(weight for word, weight in weights.items() if word in known) / total if total else 0.0


def fit_density(pooled: FloatArray, directions: int) -> PPCAConfig:
    """Pooled training photos float32 [n, width] (`im2sp.confidence.pool`), in random order -> their density.

    Raises Im2SpError for too few photos.
    """
    held_out, seen = pooled[::_HELD_OUT], np.delete(pooled, np.s_[::_HELD_OUT], axis=0).astype(np.float64)
    width = pooled.shape[1]
    directions = min(directions, len(seen) - 2, width - 1)
    if directions < 1:
        raise Im2SpError(f"{len(pooled)} training photos are too few to estimate their density: give more")
    mean = seen.mean(axis=0)
    _, singular, axes = np.linalg.svd(seen - mean, full_matrices=False)
    variances = singular**2 / (len(seen) - 1)
    rest = variances[directions:].sum() / (width - directions)
    least = 1e-6 * max(1e-6, float(variances[0]))  # photos that are all alike must not make a deviation of nothing
    config = PPCAConfig(
        mean=_rounded(mean),
        components=[_rounded(axis) for axis in axes[:directions]],
        deviations=_rounded(np.sqrt(np.maximum(least, variances[:directions]))),
        noise=_rounded([math.sqrt(max(least, float(rest)))])[0],
        ood_threshold=0.0,
    )
    far = float(np.quantile(PPCADensity(config).distances(held_out), _NEARLY_ALL))
    return msgspec.structs.replace(config, ood_threshold=_rounded([far])[0])


def halves(right: Flags, seed: int) -> tuple[Indices, Indices]:
    """Two halves by chance, with as many right captions in each: int64 [n / 2] each.

    Halves of 500 photos would otherwise differ by 3 points in what they have to be calibrated to, by chance alone.
    """
    random = np.random.default_rng(seed)
    dealt = np.concatenate([random.permutation(np.flatnonzero(right == value)) for value in (True, False)])
    return dealt[::2], dealt[1::2]


def fit_regression(signals: Doubles, right: Flags) -> tuple[dict[Signal, float], float]:
    """(signals float64 [n, SIGNALS], right bool [n]) -> weights and intercept of the logistic regression.

    Raises Im2SpError unless some are right and some are not.
    """
    with require_extra("train"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    if right.all() or not right.any():
        raise Im2SpError(
            f"{'all' if right.all() else 'none'} of the {len(right)} captions that the confidence is fitted to "
            f"{'are' if right.all() else 'is'} right, so that there is nothing to tell apart: evaluate more photos, or "
            "a better model"
        )
    scaler = StandardScaler().fit(signals)
    model = LogisticRegression(C=_STRENGTH, max_iter=1_000).fit(scaler.transform(signals), right)
    weights = model.coef_[0] / scaler.scale_
    intercept = model.intercept_[0] - float(weights @ scaler.mean_)
    return dict(zip(SIGNALS, _rounded(weights), strict=True)), _rounded([intercept])[0]


def probabilities(weights: Mapping[Signal, float], intercept: float, signals: Doubles) -> Doubles:
    """signals float64 [n, SIGNALS] -> confidences float64 [n], as `im2sp.confidence.logistic`."""
    log_odds = intercept + signals @ np.array([weights.get(name, 0.0) for name in SIGNALS])
    confidences: Doubles = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
    return confidences


def threshold_for(confidences: Doubles, withheld: float) -> float:
    """The threshold below which at most this share of captions lies, to three decimals."""
    return math.floor(float(np.quantile(confidences, withheld, method="lower")) * 1_000) / 1_000


@dataclass(frozen=True)
class Bin:
    """Captions of about the same confidence."""

    low: float  # ends of the bin
    high: float
    captions: int
    confidence: float  # mean
    right: float  # share


def reliability(confidences: Doubles, right: Flags, bins: int = BINS) -> list[Bin]:
    """Bins of equal width from 0 to 1; empty ones are left out."""
    places = np.minimum((confidences * bins).astype(np.int64), bins - 1)
    found = []
    for place in np.unique(places).tolist():
        inside = places == place
        mean, share = float(confidences[inside].mean()), float(right[inside].mean())
        found.append(Bin(place / bins, (place + 1) / bins, int(inside.sum()), mean, share))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Guo et al. 2017): |mean confidence - share of right ones|, mean over captions."""
    total = sum(one.captions for one in bins)
    return sum(one.captions * abs(one.confidence - one.right) for one in bins) / total


def error_by_chance(confidences: Doubles, seed: int, draws: int = 200) -> float:
    """The calibration error that so many captions would show in the mean if their confidences were perfect."""
    random = np.random.default_rng(seed)
    drawn = (random.random(len(confidences)) < confidences for _ in range(draws))
    return float(np.mean([calibration_error(reliability(confidences, right)) for right in drawn]))


def risk_coverage(confidences: Doubles, right: Flags, points: int = 50) -> list[tuple[float, float]]:
    """(coverage, risk): if only so large a share of captions is said, the surest, so large a share of it is wrong."""
    order = np.argsort(-confidences, kind="stable")
    wrong = np.cumsum(~right[order])
    counts = np.unique(np.linspace(1, len(order), min(points, len(order))).round().astype(np.int64))
    return [(int(count) / len(order), float(wrong[count - 1] / count)) for count in counts]


def measure(confidences: Doubles, right: Flags, seed: int = 0) -> dict[str, Any]:
    """All of it for one set of captions, for a report."""
    with require_extra("train"):
        from sklearn.metrics import roc_auc_score
    bins = reliability(confidences, right)
    return {
        "captions": len(right),
        "right": float(right.mean()),
        "mean_confidence": float(confidences.mean()),
        "expected_calibration_error": calibration_error(bins),
        "calibration_error_by_chance": error_by_chance(confidences, seed),
        "brier_score": float(np.mean((confidences - right) ** 2)),
        "area_under_roc": float(roc_auc_score(right, confidences)) if 0 < right.sum() < len(right) else None,
        "bins": [vars(one) for one in bins],
        "risk_coverage": risk_coverage(confidences, right),
    }


def _rounded(values: Iterable[float] | Doubles) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
