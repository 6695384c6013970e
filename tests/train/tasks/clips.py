"""Clips to learn from: every unit is a tone of its own."""

from __future__ import annotations

import numpy as np

from im2sp.train.data.clips import Clip


def tone_clips(speakers: int = 1) -> list[Clip]:
    """Four clips of 9 different units."""
    rng, clips = np.random.default_rng(0), []
    for number in range(4):
        units = np.repeat(rng.integers(9, size=12), rng.integers(1, 5, size=12))
        tones = np.repeat(200 + 150 * units, 320).cumsum() * (2 * np.pi / 16_000)
        clips.append(Clip(units.astype(np.uint16), (9000 * np.sin(tones)).astype(np.int16), number % speakers))
    return clips
