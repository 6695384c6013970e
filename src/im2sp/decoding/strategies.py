"""Logit filters and decoding strategies: log probabilities of the next token in, proposed tokens out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from im2sp.arrays import IntArray
from im2sp.decoding.vocabulary import SpecialTokens

DoubleArray = npt.NDArray[np.float64]


class LogitFilter(Protocol):
    """Forbids tokens."""

    def apply(self, logits: DoubleArray, length: int) -> None:
        """Set logits [batch, vocabulary] of forbidden tokens to -inf, in place; `length` tokens are decoded so far."""
        ...


@dataclass(frozen=True)
class SuppressSpecials:
    """Forbid padding and the begin token, which are for training and for the first step."""

    specials: SpecialTokens

    def apply(self, logits: DoubleArray, length: int) -> None:
        logits[:, [self.specials.pad, self.specials.bos]] = -np.inf


@dataclass(frozen=True)
class SuppressEarlyEnd:
    """Forbid EOS before `min_tokens` tokens, and always before the first."""

    specials: SpecialTokens
    min_tokens: int

    def apply(self, logits: DoubleArray, length: int) -> None:
        if length < max(1, self.min_tokens):
            logits[:, self.specials.eos] = -np.inf


class Strategy(Protocol):
    """Proposes the next tokens."""

    width: int  # hypotheses side by side

    def propose(self, totals: DoubleArray, log_probabilities: DoubleArray) -> tuple[IntArray, IntArray]:
        """(totals [batch], log probabilities of the next token [batch, vocabulary]) -> (rows, tokens), best first."""
        ...


class GreedySearch:
    """Proposes the likeliest token."""

    width = 1

    def propose(self, totals: DoubleArray, log_probabilities: DoubleArray) -> tuple[IntArray, IntArray]:
        return np.zeros(1, dtype=np.int64), log_probabilities.argmax(axis=-1)[:1]


class BeamSearch:
    """Proposes the continuations of the `width` likeliest hypotheses."""

    def __init__(self, width: int) -> None:
        self.width = width

    def propose(self, totals: DoubleArray, log_probabilities: DoubleArray) -> tuple[IntArray, IntArray]:
        sums = (totals[:, None] + log_probabilities).ravel()
        count = min(2 * self.width, sums.size)  # each row may end once, and as many others must be able to continue
        threshold = max(np.partition(sums, -count)[-count], np.finfo(np.float64).min)  # drops what is forbidden
        likely = np.flatnonzero(sums >= threshold)
        best = likely[np.argsort(-sums[likely], kind="stable")][:count]  # of equals the first, as argmax does
        rows, tokens = np.divmod(best, log_probabilities.shape[1])
        return rows, tokens


class Sampling:
    """Draws a token of the `top_k` likeliest (0: of all) by softmax(log probability / temperature)."""

    width = 1

    def __init__(self, temperature: float, top_k: int, generator: np.random.Generator) -> None:
        self._temperature = temperature
        self._top_k = top_k
        self._generator = generator

    def propose(self, totals: DoubleArray, log_probabilities: DoubleArray) -> tuple[IntArray, IntArray]:
        order = np.argsort(-log_probabilities[0], kind="stable")[: self._top_k or None]
        with np.errstate(over="ignore", under="ignore"):  # a temperature near 0 leaves only the likeliest
            odds = np.exp((log_probabilities[0, order] - log_probabilities[0, order[0]]) / self._temperature)
        token = self._generator.choice(order, p=odds / odds.sum())
        return np.zeros(1, dtype=np.int64), np.array([token], dtype=np.int64)
