"""A caption in, where the model looked while each part of it sounds out: what the page lays over the photo."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, Field

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner, SpeechCaption
from im2sp.explain.explanation import place_in_words
from im2sp.explain.timing import attention_in_stretches, attention_maps, equal_stretches, token_boundaries
from im2sp.speech.audio import UNIT_RATE

_DIGITS = 5  # of a share of attention


class Attention(BaseModel):
    """Where the model looked, and when: a map is a list of shares, row by row over the whole photo."""

    rows: int = Field(description="Of each map.")
    columns: int = Field(description="Of each map.")
    boundaries: list[float] = Field(description="Seconds; token t sounds between the values t and t + 1.")
    maps: list[list[float]] = Field(description="One for each token.")
    edges: list[float] = Field(description="Seconds; stretch s of the speech, half a second or more, lies between two.")
    stretches: list[list[float]] = Field(description="One map for each stretch: the mean of its tokens.")
    places: list[str] = Field(description='Where the strongest part of each stretch is, such as "top left".')


def attention_of(caption: SpeechCaption, captioner: Captioner) -> Attention:
    """What `captioner` looked at while it decided on this caption of its own."""
    boundaries = token_boundaries(caption.tokens, caption.durations, captioner.vocabulary)
    maps = attention_maps(caption.attention, captioner.bundle.config.image.grid)
    edges = equal_stretches(int(boundaries[-1]))
    stretches = attention_in_stretches(maps, boundaries, edges)
    return Attention(
        rows=maps.shape[1],
        columns=maps.shape[2],
        boundaries=(boundaries / UNIT_RATE).tolist(),
        maps=_rows(maps),
        edges=(edges / UNIT_RATE).tolist(),
        stretches=_rows(stretches),
        places=[place_in_words(stretch)[0] for stretch in stretches],
    )


def _rows(maps: FloatArray) -> list[list[float]]:
    rows: list[list[float]] = maps.reshape(len(maps), -1).astype(np.float64).round(_DIGITS).tolist()
    return rows
