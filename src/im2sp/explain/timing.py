"""Tokens and durations in, times out: when each token of a caption sounds, and what was looked at in a stretch of time.

A token stands for one or several units, and each unit lasts some frames of 20 ms. Where two subwords meet, a unit that
repeats the one before it is dropped: it sounds with the token that comes first.
"""

from __future__ import annotations

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import Im2SpError
from im2sp.speech.audio import UNIT_RATE

SHORTEST_STRETCH = UNIT_RATE // 2  # frames; shorter ones cannot be looked at one after the other
MOST_STRETCHES = 8


def token_boundaries(tokens: IntArray, durations: IntArray, vocabulary: Vocabulary) -> IntArray:
    """When each token sounds: tokens int64 [T], durations int64 [U] of their units, in frames -> int64 [T + 1].

    Token t sounds from frame `boundaries[t]` up to `boundaries[t + 1]`; a special token, or one whose only unit repeats
    the one before it, takes no time. Raises Im2SpError when the durations are not those of the tokens' units.
    """
    counts, last = [], -1
    for token in tokens.tolist():
        units = vocabulary.decode([token]).tolist()
        counts.append(len(units) - (units[:1] == [last]))
        last = units[-1] if units else last
    if sum(counts) != len(durations):
        raise Im2SpError(f"the tokens stand for {sum(counts)} units, but there are {len(durations)} durations")
    frames: IntArray = np.concatenate([[0], np.cumsum(durations)]).astype(np.int64)
    return np.asarray(frames[np.concatenate([[0], np.cumsum(counts)])])


def equal_stretches(frames: int) -> IntArray:
    """Cut so many frames into 1 to MOST_STRETCHES equal stretches: their edges int64 [S + 1], from 0 to `frames`."""
    count = min(max(1, frames // SHORTEST_STRETCH), MOST_STRETCHES)
    return np.linspace(0, frames, count + 1).round().astype(np.int64)


def attention_maps(attention: FloatArray, grid: tuple[int, int]) -> FloatArray:
    """attention float32 [T, image_tokens] -> float32 [T, rows, columns] over the picture; global tokens are left out.

    Image tokens cover the grid row by row, after any global ones (docs/bundle.md).
    """
    rows, columns = grid
    return attention[:, attention.shape[1] - rows * columns :].reshape(-1, rows, columns)


def attention_in_stretches(maps: FloatArray, boundaries: IntArray, edges: IntArray) -> FloatArray:
    """What was looked at in each stretch of time: the mean of the tokens' maps, each by the frames it sounds there.

    maps float32 [T, rows, columns], boundaries int64 [T + 1], edges int64 [S + 1] -> float32 [S, rows, columns].
    """
    begins = np.maximum(boundaries[None, :-1], edges[:-1, None])
    ends = np.minimum(boundaries[None, 1:], edges[1:, None])
    shared = (ends - begins).clip(0)  # frames [S, T]
    shares = shared / np.maximum(1, shared.sum(axis=1, keepdims=True))
    return np.tensordot(shares, maps, axes=1).astype(np.float32)
