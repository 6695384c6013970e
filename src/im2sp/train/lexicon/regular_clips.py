"""Recordings said again in the units of the lexicon, so that a vocoder learns from what it will speak.

A captioner says a word by one unit sequence, or a few, whatever its neighbours are; a recording has the units of that
moment. Each recording is aligned with the lexicon's units of its words, and a vocoder learns its sound from these, too.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from im2sp.arrays import FloatArray, IntArray
from im2sp.speech.audio import HOP
from im2sp.speech.units import without_repeats
from im2sp.train.lexicon.lexicon import PronunciationLexicon, Spoken, Variants, spoken, words_of
from im2sp.train.lexicon.recordings import Recording
from im2sp.train.losses import log_mel
from im2sp.train.models.unit_vocoder import UnitVocoder

OTHER_WAY = 0.25  # probability that a word is said in another way than its context's
SKIPPED = 1.0  # cost of a unit that no frame gets, in mean distances of units
_STEADY = 24  # frames of a unit's own sound


class RegularSpeaker:
    """Recordings -> the lexicon's units of their words; now and then a word is said in another way."""

    def __init__(self, lexicon: PronunciationLexicon, distances: FloatArray, rng: random.Random) -> None:
        """`distances` of units float32 [K, K], as `unit_distances` computes them."""
        self._lexicon, self._variants, self._distances, self._rng = lexicon, Variants(lexicon), distances, rng

    def units(self, recording: Recording) -> IntArray | None:
        """Unit of each frame of a recording [F]; None when a word has no entry."""
        words = self._lexicon.pronounce(words_of(recording.phones))
        if words is None:
            return None
        said = without_repeats([unit for frames in words for unit in self._way(spoken(frames))])
        return align_units(recording.units.astype(np.int64), said, self._distances)

    def _way(self, variant: Spoken) -> Spoken:
        if self._rng.random() < OTHER_WAY and (others := self._variants.others(variant)):
            return self._rng.choice(others)
        return variant


def unit_distances(vocoder: UnitVocoder) -> FloatArray:
    """Mean distance between the log-mel spectra of the steady sounds of two units, over the mean of all: [K, K]."""
    units = torch.arange(vocoder.config.units)[:, None].expand(-1, _STEADY)
    with torch.no_grad():
        sounds = torch.cat([vocoder(part) for part in units.split(50)])
        middle = _STEADY * HOP // 4
        spectra = log_mel(sounds[:, middle:-middle]).mean(1)
        distances = torch.cdist(spectra, spectra, p=1)
    scaled: FloatArray = (distances / distances.mean()).numpy()
    return scaled


def align_units(recorded: IntArray, said: IntArray, distances: FloatArray) -> IntArray:
    """Units of the frames of a recording [F], and what is said in its place [U] -> a unit of `said` for each frame [F].

    Dynamic time warping: units keep their order, and a unit may be skipped at a cost.
    """
    costs = distances[np.ix_(recorded, said)]
    total = np.full(len(said), np.inf)
    total[0] = costs[0, 0]
    came_from = np.zeros(costs.shape, np.int64)
    for frame in range(1, len(recorded)):
        ways = np.stack([total, _later(total, 1), _later(total, 2) + SKIPPED, _later(total, 3) + 2 * SKIPPED])
        came_from[frame] = ways.argmin(0)
        total = ways.min(0) + costs[frame]
    place = len(said) - 1 if np.isfinite(total[-1]) else int(np.isfinite(total).nonzero()[0][-1])
    places = np.empty(len(recorded), np.int64)
    for frame in range(len(recorded) - 1, -1, -1):
        places[frame] = place
        place -= came_from[frame, place]
    return np.asarray(said)[places]


def _later(total: FloatArray, count: int) -> FloatArray:
    """Shift by `count` places; what comes from before the first is infinitely far."""
    return np.concatenate([np.full(min(count, len(total)), np.inf), total[:-count]])
