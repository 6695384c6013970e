"""Attention over time: a caption in; when each token sounds, and where the model looked meanwhile, out.

A token stands for one or several units, and each unit lasts some frames of 20 ms. Where two subwords meet, a unit that
repeats the one before it is dropped: it sounds with the token that comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import Im2SpError
from im2sp.speech.audio import UNIT_RATE
from im2sp.speech.units import without_repeats

if TYPE_CHECKING:
    from im2sp.captioner import Captioner, SpeechCaption

MIN_SEGMENT = UNIT_RATE // 2  # frames; shorter ones cannot be looked at one after the other
MAX_SEGMENTS = 8

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class AttentionTimeline:
    """Attention of a caption for each token, and for segments of half a second or more."""

    boundaries: IntArray  # int64 [T + 1], frames of 20 ms: token t sounds between the values t and t + 1
    maps: FloatArray  # float32 [T, rows, columns]: shares of the attention on the parts of the picture
    edges: IntArray  # int64 [S + 1], frames: the edges of the segments
    segment_maps: FloatArray  # float32 [S, rows, columns]

    @classmethod
    def of(cls, caption: SpeechCaption, captioner: Captioner) -> AttentionTimeline:
        """Build the timeline of a caption that `captioner` made and spoke; it begins after a hedge."""
        hedge, durations = np.split(caption.durations, [caption.hedge_units])
        boundaries = hedge.sum() + token_boundaries(caption.tokens, durations, captioner.vocabulary)
        rows, columns = captioner.bundle.config.image.grid  # which image tokens cover row by row, after any global ones
        maps = caption.attention[:, -rows * columns :].reshape(-1, rows, columns)
        edges = boundaries[0] + segment_edges(int(boundaries[-1] - boundaries[0]))
        return cls(boundaries, maps, edges, segment_attention(maps, boundaries, edges))

    def described(self) -> dict[str, Any]:
        """Describe it for JSON: times in seconds, maps as shares row by row, places in words."""
        return {
            "boundaries": (self.boundaries / UNIT_RATE).tolist(),
            "maps": rounded_rows(self.maps),
            "edges": (self.edges / UNIT_RATE).tolist(),
            "stretches": rounded_rows(self.segment_maps),
            "places": [describe_peak(attention)[0] for attention in self.segment_maps],
        }


def token_boundaries(tokens: IntArray, durations: IntArray, vocabulary: Vocabulary) -> IntArray:
    """Return when each token sounds: tokens int64 [T], durations int64 [U] of their units, in frames -> int64 [T + 1].

    Token t sounds from frame `boundaries[t]` up to `boundaries[t + 1]`; a special token, or one whose only unit repeats
    the one before it, takes no time. Raises Im2SpError when the durations are not those of the tokens' units.
    """
    counts, last = [], -1
    for said in vocabulary.units_of(tokens):
        units = said if vocabulary.keep_repeats else without_repeats(said).tolist()
        counts.append(len(units) - (units[:1] == [last] and not vocabulary.keep_repeats))
        last = units[-1] if units else last
    if sum(counts) != len(durations):
        raise Im2SpError(f"the tokens stand for {sum(counts)} units, but there are {len(durations)} durations")
    frames: IntArray = np.concatenate([[0], np.cumsum(durations)]).astype(np.int64)
    return np.asarray(frames[np.concatenate([[0], np.cumsum(counts)])])


def segment_edges(frames: int) -> IntArray:
    """Cut so many frames into 1 to MAX_SEGMENTS equal segments -> their edges int64 [S + 1], from 0 to `frames`."""
    count = min(max(1, frames // MIN_SEGMENT), MAX_SEGMENTS)
    return np.linspace(0, frames, count + 1).round().astype(np.int64)


def segment_attention(maps: FloatArray, boundaries: IntArray, edges: IntArray) -> FloatArray:
    """Average the maps of the tokens that sound in each segment, weighted by the frames for which they do.

    maps float32 [T, rows, columns], boundaries int64 [T + 1], edges int64 [S + 1] -> float32 [S, rows, columns].
    """
    starts = np.maximum(boundaries[None, :-1], edges[:-1, None])
    stops = np.minimum(boundaries[None, 1:], edges[1:, None])
    frames = (stops - starts).clip(0)  # [S, T]
    weights = frames / np.maximum(1, frames.sum(axis=1, keepdims=True))
    return np.tensordot(weights, maps, axes=1).astype(np.float32)


def describe_peak(attention: FloatArray) -> tuple[str, float]:
    """attention float32 [rows, columns] -> where its strongest cell is ("top left"), and that cell's share of all."""
    rows, columns = attention.shape
    row, column = divmod(int(attention.argmax()), columns)
    vertical, horizontal = _ROWS[_third(row, rows)], _COLUMNS[_third(column, columns)]
    total = float(attention.sum())
    share = float(attention[row, column]) / total if total > 0 else 0.0
    return "centre" if (vertical, horizontal) == ("middle", "centre") else f"{vertical} {horizontal}", share


def rounded_rows(maps: FloatArray) -> list[list[float]]:
    """maps float32 [N, rows, columns] -> N lists of shares, row by row, with five digits."""
    rows: list[list[float]] = maps.reshape(len(maps), -1).astype(np.float64).round(5).tolist()
    return rows


def _third(index: int, count: int) -> int:
    """Return in which third of `count` cells the middle of cell `index` lies: 0, 1 or 2."""
    return min(2, (2 * index + 1) * 3 // (2 * count))
