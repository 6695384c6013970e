"""Confidence: an image prefix and its caption in; the calibrated probability that it is right, and what to answer, out.

A logistic regression over signals of the image and the caption, fitted in training (docs/confidence.md). None of them
looks at words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.bundle import ConfidenceConfig, PCAConfig, Signal
from im2sp.decoding.decoder import Prefix
from im2sp.decoding.options import DecodingOptions, DecodingResult
from im2sp.decoding.strategies import DoubleArray

Answer = Literal["plain", "hedged", "abstained"]  # the caption; "perhaps" before it; that it cannot be told

_MAX_COORDINATE = 5.0  # deviations
_LOWEST = 3  # tokens


def signals(prefix: Prefix, result: DecodingResult) -> dict[Signal, float]:
    """Compute what tells a right caption from a wrong one."""
    evidence = np.zeros(0) if prefix.token_evidence is None else prefix.token_evidence[result.tokens]
    return {
        "score": result.score,
        "lowest": float(np.sort(result.log_probabilities)[:_LOWEST].mean()),
        "length": math.log(len(result.tokens)),  # long sentences have more to get wrong
        "named": float(prefix.token_bonus is not None and bool(prefix.token_bonus[result.tokens].any())),
        "evidence": float(evidence.sum() / max(1, np.count_nonzero(evidence))),
    }


def pool(prefix: Prefix) -> FloatArray:
    """Average the first decoder layer's values over the image tokens: float32 [heads * head_dim].

    Of all layers, keys and values, these separate blank pages and screens from photos best.
    """
    pooled: FloatArray = prefix.values[0, 0].mean(axis=1, dtype=np.float64).astype(np.float32).ravel()
    return pooled


class PrincipalComponents:
    """Principal components of the pooled prefixes of training photos."""

    def __init__(self, config: PCAConfig) -> None:
        self._mean = np.array(config.mean)
        self._components = np.array(config.components).reshape(-1, len(config.mean))
        self._deviations = np.array(config.deviations)

    def coordinates(self, pooled: FloatArray) -> DoubleArray:
        """Compute coordinates along the components: pooled float32 [n, width] -> float64 [n, k] in deviations."""
        along = (pooled.astype(np.float64) - self._mean) @ self._components.T / self._deviations
        coordinates: DoubleArray = np.clip(along, -_MAX_COORDINATE, _MAX_COORDINATE)
        return coordinates


class Confidence:
    """The calibration of a bundle."""

    def __init__(self, config: ConfidenceConfig) -> None:
        self._config = config
        self._components = PrincipalComponents(config.pca)

    def probability(self, prefix: Prefix, result: DecodingResult) -> float:
        """Compute the probability that a caption is right, from 0 to 1: of a photo, if it is one."""
        values = signals(prefix, result)
        log_odds = self._config.intercept
        log_odds += math.fsum(weight * values[name] for name, weight in self._config.weights.items())
        return logistic(log_odds) * self._photo_probability(pool(prefix))

    def _photo_probability(self, pooled: FloatArray) -> float:
        """Compute the probability that a picture is a photo, and no blank page, noise or screen of text."""
        if not self._config.photo_weights:
            return 1.0
        along = self._components.coordinates(pooled[None])[0]
        return logistic(self._config.photo_intercept + float(along @ np.array(self._config.photo_weights)))


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


def logistic(log_odds: float) -> float:
    """Compute 1 / (1 + exp(-log_odds))."""
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))  # exp of more would overflow
