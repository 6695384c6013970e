"""Agreement: a caption and sentences drawn by the same decoder about the same image in; how often they say the same.

What the decoder is unsure of, its samples say in other words each time (self-consistency).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from im2sp.decoding.search import StepFunction
from im2sp.decoding.vocabulary import SpecialTokens

SAMPLES = 12


def draw_samples(step: StepFunction, specials: SpecialTokens, positions: int, seed: int = 0) -> list[set[int]]:
    """Draw SAMPLES sentences side by side, each cut at `positions` tokens; return the tokens of each."""
    random = np.random.default_rng(seed)
    tokens, cache = np.array([specials.bos]), None
    samples: list[set[int]] = [set() for _ in range(SAMPLES)]
    ended = np.zeros(SAMPLES, dtype=np.bool_)
    for position in range(positions):
        logits, _, cache = step(tokens, position, cache)
        logits[:, [specials.pad, specials.bos]] = -np.inf
        # The largest of log probabilities with Gumbel noise is a sample; the first step has one row for all.
        noise = -np.log(random.standard_exponential((SAMPLES, logits.shape[1]), dtype=np.float32))
        tokens = (logits + noise).argmax(axis=1)
        if position == 0:
            cache = cache.reorder(np.zeros(SAMPLES, dtype=np.int64))
        ended |= tokens == specials.eos
        if ended.all():
            break
        for row in np.flatnonzero(~ended).tolist():
            samples[row].add(int(tokens[row]))
    return samples


def agreement(tokens: Sequence[int], samples: Sequence[set[int]], frequent: Collection[int]) -> float:
    """Return the mean share of samples that hold a token of the caption, `frequent` tokens aside; 0 to 1."""
    telling = set(tokens).difference(frequent) or set(tokens)
    return sum(token in sample for sample in samples for token in telling) / (len(samples) * len(telling))
