"""Confidence: an image prefix and its caption in; the calibrated probability that it is right, and what to answer, out.

A logistic regression over three signals, fitted in training (docs/confidence.md). All signals come from numbers that
decoding computes anyway. None of them looks at words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.bundle import ConfidenceConfig, PPCAConfig, Signal
from im2sp.decoding.decoder import Prefix
from im2sp.decoding.options import DecodingOptions, DecodingResult
from im2sp.decoding.strategies import DoubleArray

Answer = Literal["plain", "hedged", "abstained"]  # the caption; "perhaps" before it; that it cannot be told

_MAX_OOD_SCORE = 10.0  # far beyond any picture, and small enough for every weight
_MIN_DISTANCE = 1e-9  # before taking the logarithm


@dataclass(frozen=True)
class Signals:
    """What tells a right caption from a wrong one."""

    score: float  # mean log probability of a token
    length: float  # natural log of the number of tokens: long sentences have more to get wrong
    pooled: FloatArray  # float32 [width], see `pool`

    @classmethod
    def of(cls, prefix: Prefix, result: DecodingResult) -> Signals:
        """Compute the signals of a caption decoded from an image prefix."""
        return cls(result.score, math.log(len(result.tokens)), pool(prefix))

    def values(self, density: PPCADensity) -> dict[Signal, float]:
        """Return the signals by their names in the config."""
        return {"score": self.score, "length": self.length, "ood_score": density.ood_score(self.pooled)}


def pool(prefix: Prefix) -> FloatArray:
    """Average the first decoder layer's values over the image tokens: float32 [heads * head_dim].

    Of all layers, keys and values, these separate blank pages and screens from photos best.
    """
    pooled: FloatArray = prefix.values[0, 0].mean(axis=1, dtype=np.float64).astype(np.float32).ravel()
    return pooled


class PPCADensity:
    """Gaussian density of the training photos (probabilistic PCA, Tipping and Bishop 1999)."""

    def __init__(self, config: PPCAConfig) -> None:
        self._threshold = config.ood_threshold
        self._mean = np.array(config.mean)
        self._components = np.array(config.components).reshape(-1, len(config.mean))
        self._deviations = np.array(config.deviations)
        self._noise = config.noise

    def distances(self, pooled: FloatArray) -> DoubleArray:
        """Compute distances: pooled float32 [n, width] -> float64 [n], log of the mean squared Mahalanobis distance
        per dimension. 0 is the average of training photos.
        """
        centred = pooled.astype(np.float64) - self._mean
        along = centred @ self._components.T
        across = np.maximum(0.0, (centred**2).sum(axis=1) - (along**2).sum(axis=1))
        squared = ((along / self._deviations) ** 2).sum(axis=1) + across / self._noise**2
        distances: DoubleArray = np.log(np.maximum(_MIN_DISTANCE, squared / len(self._mean)))
        return distances

    def ood_score(self, pooled: FloatArray) -> float:
        """Score how far a photo is out of distribution: pooled float32 [width] -> 0 for nearly all training photos."""
        return min(_MAX_OOD_SCORE, max(0.0, float(self.distances(pooled[None])[0]) - self._threshold))


class Confidence:
    """The calibration of a bundle."""

    def __init__(self, config: ConfidenceConfig) -> None:
        self._intercept = config.intercept
        self._weights = config.weights
        self._density = PPCADensity(config.density)

    def probability(self, prefix: Prefix, result: DecodingResult) -> float:
        """Compute the probability that a caption is right, from 0 to 1."""
        values = Signals.of(prefix, result).values(self._density)
        return logistic(self._weights, self._intercept, values)


@dataclass(frozen=True)
class Thresholds:
    """Probabilities below which the captioner abstains, or speaks a hedge before the caption."""

    abstain: float = 0.0
    hedge: float = 0.0

    @classmethod
    def of(cls, config: ConfidenceConfig | None, options: DecodingOptions) -> Thresholds:
        """Those of the options, else of the bundle. A bundle without a hedge abstains only where it is asked to."""
        if config is None or options.always_speak:
            return cls()
        recommended = config.threshold if config.hedge_units else 0.0
        abstain = recommended if options.min_confidence is None else options.min_confidence
        return cls(abstain, config.hedge_threshold or 0.0)

    @property
    def decide(self) -> bool:
        """Whether anything depends on the probability."""
        return max(self.abstain, self.hedge) > 0

    def answer(self, probability: float | None) -> Answer:
        """Choose the answer; None: without calibration."""
        if probability is None or probability >= max(self.abstain, self.hedge):
            return "plain"
        return "hedged" if probability >= self.abstain else "abstained"


def share_in_words(probability: float) -> str:
    """Say a probability as the share of such captions that were right; nothing is certain."""
    return f"of captions like this, {min(99, max(1, round(100 * probability)))} of 100 were right"


def logistic(weights: Mapping[Signal, float], intercept: float, values: Mapping[Signal, float]) -> float:
    """Compute 1 / (1 + exp(-(intercept + sum of weight x signal)))."""
    log_odds = intercept + math.fsum(weight * values[name] for name, weight in weights.items())
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))  # exp of more would overflow
