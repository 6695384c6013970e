"""Decoding strategies: log probabilities of the next token in, proposed tokens out, best first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from im2sp.arrays import IntArray
from im2sp.decoding.options import DecodingOptions

DoubleArray = npt.NDArray[np.float64]
# (log probabilities of hypotheses [batch], of the next token [batch, vocabulary]) -> (hypotheses, tokens), best first.
Strategy = Callable[[DoubleArray, DoubleArray], tuple[IntArray, IntArray]]


def strategy_for(options: DecodingOptions) -> tuple[Strategy, int]:
    """Choose sampling with a temperature, else beam search with a beam, else greedy search; return it and its width."""
    if options.temperature > 0:
        return sampling(options.temperature, options.seed), 1
    return (beam_search(options.beam) if options.beam > 1 else greedy_search), options.beam


def greedy_search(totals: DoubleArray, log_probabilities: DoubleArray) -> tuple[IntArray, IntArray]:
    """Propose the likeliest token."""
    return np.zeros(1, dtype=np.int64), log_probabilities.argmax(axis=-1)[:1]


def beam_search(width: int) -> Strategy:
    """Propose the continuations of the `width` likeliest hypotheses."""

    def propose(totals: DoubleArray, log_probabilities: DoubleArray) -> tuple[IntArray, IntArray]:
        sums = (totals[:, None] + log_probabilities).ravel()
        count = min(2 * width, sums.size)  # each row may end once, and as many others must be able to continue
        threshold = max(np.partition(sums, -count)[-count], np.finfo(np.float64).min)  # drops what is forbidden
        likely = np.flatnonzero(sums >= threshold)
        best = likely[np.argsort(-sums[likely], kind="stable")][:count]  # of equals the first, as argmax does
        rows, tokens = np.divmod(best, log_probabilities.shape[1])
        return rows, tokens

    return propose


def sampling(temperature: float, seed: int) -> Strategy:
    """Draw a token by softmax(log probability / temperature)."""
    generator = np.random.default_rng(seed)

    def propose(totals: DoubleArray, log_probabilities: DoubleArray) -> tuple[IntArray, IntArray]:
        order = np.argsort(-log_probabilities[0], kind="stable")
        with np.errstate(over="ignore", under="ignore"):  # a temperature near 0 leaves only the likeliest
            odds = np.exp((log_probabilities[0, order] - log_probabilities[0, order[0]]) / temperature)
        return np.zeros(1, dtype=np.int64), generator.choice(order, size=1, p=odds / odds.sum())

    return propose
