"""Confidence: an image prefix and what was decoded from it in, the calibrated probability that it is right out.

A logistic regression over three signals, with weights that the lab fitted (`im2sp-lab calibrate`, docs/confidence.md).
All signals come from numbers that decoding makes anyway; none of them looks at words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.bundle import ConfidenceConfig, FamiliarConfig, Signal
from im2sp.decoding.decoder import Prefix
from im2sp.decoding.search import Translation
from im2sp.decoding.strategies import DoubleArray

_STRANGEST = 10.0  # of the signal: far beyond any picture, and small enough for every weight
_LEAST_DISTANCE = 1e-9  # whose logarithm is taken


@dataclass(frozen=True)
class Signals:
    """What is known about a caption before anybody has heard it."""

    score: float  # mean log probability of a token
    length: float  # natural log of the number of tokens: long sentences have more to get wrong
    pooled: FloatArray  # float32 [width]: the photo, as `pool` has it

    @classmethod
    def of(cls, prefix: Prefix, translation: Translation) -> Signals:
        """The signals of what was decoded from an image prefix."""
        return cls(translation.score, math.log(len(translation.tokens)), pool(prefix))

    def values(self, familiar: Familiar) -> dict[Signal, float]:
        """By the names of the config; `strangeness` is the distance beyond that of nearly all training photos."""
        strangeness = min(_STRANGEST, max(0.0, float(familiar.distances(self.pooled[None])[0]) - familiar.far))
        return {"score": self.score, "length": self.length, "strangeness": strangeness}


def pool(prefix: Prefix) -> FloatArray:
    """The first decoder layer's values of an image, mean over its tokens: float32 [heads * head_dim].

    Of all layers, keys and values, these tell blank pages and screens from photos best.
    """
    pooled: FloatArray = prefix.values[0, 0].mean(axis=1, dtype=np.float64).astype(np.float32).ravel()
    return pooled


class Familiar:
    """A Gaussian around the training photos (probabilistic PCA: Tipping and Bishop 1999)."""

    def __init__(self, config: FamiliarConfig) -> None:
        self.far = config.far
        self._mean = np.array(config.mean)
        self._directions = np.array(config.directions).reshape(-1, len(config.mean))
        self._deviations = np.array(config.deviations)
        self._rest = config.rest

    def distances(self, pooled: FloatArray) -> DoubleArray:
        """pooled float32 [n, width] -> float64 [n]: log of the squared Mahalanobis distance over the dimensions.

        0 is what a training photo has in the mean.
        """
        centred = pooled.astype(np.float64) - self._mean
        along = centred @ self._directions.T
        across = np.maximum(0.0, (centred**2).sum(axis=1) - (along**2).sum(axis=1))
        squared = ((along / self._deviations) ** 2).sum(axis=1) + across / self._rest**2
        distances: DoubleArray = np.log(np.maximum(_LEAST_DISTANCE, squared / len(self._mean)))
        return distances


class Confidence:
    """The calibration of a bundle at work."""

    def __init__(self, config: ConfidenceConfig) -> None:
        self._intercept = config.intercept
        self._weights = config.weights
        self._familiar = Familiar(config.familiar)

    def probability(self, prefix: Prefix, translation: Translation) -> float:
        """How likely it is that what was decoded from the prefix is right, from 0 to 1."""
        values = Signals.of(prefix, translation).values(self._familiar)
        return logistic(self._weights, self._intercept, values)


def logistic(weights: Mapping[Signal, float], intercept: float, values: Mapping[Signal, float]) -> float:
    """1 / (1 + exp(-(intercept + sum of weight x signal)))."""
    log_odds = intercept + math.fsum(weight * values[name] for name, weight in weights.items())
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))  # exp of more would overflow
