"""Durations: for how many frames units are said, predicted as they become known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import VocoderConfig
from im2sp.speech.audio import UNIT_RATE
from im2sp.speech.units import check_units

LONGEST_UNIT = 5 * UNIT_RATE  # frames; no sound of speech is held longer, whatever is predicted
FIRST_WINDOW = 24  # units in the predictor's first window: mostly enough for speech to start
NEXT_WINDOWS = 4  # units in the windows after it: few, so that it need not wait for more where it starts with them
LARGEST_WINDOW = 256  # units
_START_UNITS = 30  # by then the 0.6 s that the vocoder looks ahead are known; most units last one or two frames


class ErrorDiffusion:
    """Round durations to whole frames; carry the rounding error.

    Most units last one or two frames. Rounded one by one, a run of units of 1.4 frames each would lose a third of its
    time. So the error is carried, and a duration is adjusted by one frame when it exceeds `tolerance`.

    Args:
        tolerance: frames, more than 0.5. Above half a frame, near-integer durations of regular sentences stay as they
            are; at 100 every duration is rounded by itself, as in published vocoders.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._residual = 0.0  # frames expected minus frames given

    def round(self, expected: FloatArray) -> IntArray:
        """Round the next expected durations: floats [U] in frames -> int64 [U], from 1 to LONGEST_UNIT."""
        bounded = np.clip(expected, 1, LONGEST_UNIT)
        durations: IntArray = np.round(bounded).astype(np.int64)
        for place, frames in enumerate(bounded.tolist()):
            residual = self._residual + frames - int(durations[place])
            if residual > self._tolerance:
                durations[place] += 1
            elif residual < -self._tolerance and durations[place] > 1:
                durations[place] -= 1
            self._residual += frames - int(durations[place])
        return durations


class GrowingDurations:
    """Durations of units of which more are to come.

    The predictor runs in windows that depend on nothing but a unit's place, each with `duration_context` units on both
    sides, so a sentence that grows gets the same numbers, to the last bit, as one that is there at once.

    Args:
        expect: units int64 [U] -> how long they are expected to last, floats [U] in frames.
    """

    def __init__(self, expect: Callable[[IntArray], FloatArray], config: VocoderConfig) -> None:
        self._expect, self._config = expect, config
        self._diffusion = ErrorDiffusion(config.duration_tolerance)
        self._known = 0  # units whose durations are final

    def extend(self, units: IntArray, *, complete: bool) -> IntArray:
        """units int64 [U], U > 0, without repeats: all that are known -> durations int64 that are final from now on.

        They go on where the last call ended, up to the end if the units are `complete`.

        Raises Im2SpError for units that cannot be spoken.
        """
        units = check_units(units, self._config.units)
        expected: list[FloatArray] = [np.zeros(0, np.float32), *self._final(units, complete=complete)]
        durations = self._diffusion.round(np.concatenate(expected))
        self._known += len(durations)
        return durations

    def _final(self, units: IntArray, *, complete: bool) -> Iterator[FloatArray]:
        context = self._config.duration_context
        for start, stop in _windows(self._known, len(units)):
            if not complete and stop + context > len(units):
                break
            left = max(0, start - context)
            yield self._expect(units[left : stop + context])[start - left :][: stop - start]


def _windows(first: int, count: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the predictor's windows from `first`, which one of them starts with, to `count` units.

    They are small where speech starts. Then each is half as long as all before it together: few where it is long.
    """
    while first < count:
        stop = first + _window(first)
        yield first, stop
        first = stop


def _window(first: int) -> int:
    """Units of the window that starts with unit `first`."""
    if first == 0:
        return FIRST_WINDOW
    return NEXT_WINDOWS if first < _START_UNITS else min(first // 2, LARGEST_WINDOW)
