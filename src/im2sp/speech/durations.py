"""Durations: speech units in, whole frames for each unit out, also while the units are still being decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from im2sp.arrays import UNIT_RATE, FloatArray, IntArray
from im2sp.bundle import VocoderConfig
from im2sp.speech.units import check_units

LONGEST_UNIT = 5 * UNIT_RATE  # frames; no sound of speech is held longer, whatever is predicted
FIRST_WINDOW = 24  # units in the predictor's first window: mostly enough for speech to start
NEXT_WINDOWS = 4  # units in the windows after it: small, so that speech starts soon where it needs them
LARGEST_WINDOW = 256  # units
_SCALED_TOLERANCE = 0.51  # frames, at other rates than 1: half a frame, and never back and forth
_START_UNITS = 30  # by then the 0.6 s that the vocoder looks ahead are known; most units last one or two frames


class ErrorDiffusion:
    """Round durations to whole frames; carry the rounding error.

    Rounded one by one, a run of units of 1.4 frames each would lose a third of its time. So the error is carried, and a
    duration is adjusted by one frame when it exceeds `tolerance` frames: more than 0.5, so that near-integer durations
    stay as they are; 100 rounds each by itself, as in published vocoders; for rate 1 only. `rate` divides the expected
    durations; above 1, units that would be shorter than a frame are left out in turn.
    """

    def __init__(self, tolerance: float, rate: float = 1.0) -> None:
        self._tolerance = tolerance if rate == 1 else _SCALED_TOLERANCE
        self._rate = rate
        self._least = 0 if rate > 1 else 1  # frames of a unit
        self._residual = 0.5 if rate > 1 else 0.0  # frames expected minus frames given; the first unit always sounds

    def round(self, expected: FloatArray) -> IntArray:
        """Round the next expected durations: floats [U] in frames -> int64 [U], to LONGEST_UNIT, from 1 (from 0 above
        rate 1)."""
        bounded = np.clip(expected, 1, LONGEST_UNIT) / self._rate
        durations: IntArray = np.round(bounded).astype(np.int64)
        for index, frames in enumerate(bounded.tolist()):
            residual = self._residual + frames - int(durations[index])
            if residual > self._tolerance:
                durations[index] += 1
            elif residual < -self._tolerance and durations[index] > self._least:
                durations[index] -= 1
            self._residual += frames - int(durations[index])
        return durations


class StreamingDurations:
    """Durations of a growing sequence of units.

    The predictor (units int64 [U] -> floats [U] in frames) runs in windows that depend on nothing but a unit's index,
    each with `duration_context` units on both sides. So a growing sentence gets the same numbers as a complete one.
    """

    def __init__(self, predict: Callable[[IntArray], FloatArray], config: VocoderConfig, rate: float = 1.0) -> None:
        self._predict, self._config = predict, config
        self._diffusion = ErrorDiffusion(config.duration_tolerance, rate)
        self._known = 0  # units whose durations are final

    def extend(self, units: IntArray, *, complete: bool) -> IntArray:
        """Take all units known so far, int64 [U], U > 0; return int64 durations that have become final.

        They reach the end if the units are `complete`. Raises Im2SpError for units that cannot be spoken.
        """
        units = check_units(units, self._config.units)
        expected: list[FloatArray] = [np.zeros(0, np.float32), *self._final(units, complete=complete)]
        durations = self._diffusion.round(np.concatenate(expected))
        self._known += len(durations)
        return durations

    def _final(self, units: IntArray, *, complete: bool) -> Iterator[FloatArray]:
        context, start = self._config.duration_context, self._known
        while start < len(units):
            stop = start + _window(start)
            if not complete and stop + context > len(units):
                break
            left = max(0, start - context)
            yield self._predict(units[left : stop + context])[start - left :][: stop - start]
            start = stop


def _window(first: int) -> int:
    """Return the units of the window that starts at unit `first`: few where speech starts, then half of all before."""
    if first == 0:
        return FIRST_WINDOW
    return NEXT_WINDOWS if first < _START_UNITS else min(first // 2, LARGEST_WINDOW)
