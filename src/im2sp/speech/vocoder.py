"""Vocoder: speech units in, durations and a waveform out, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import VocoderConfig
from im2sp.errors import BundleError, Im2SpError
from im2sp.graphs import Graphs
from im2sp.speech.audio import UNIT_RATE
from im2sp.speech.units import check_units, expand, without_repeats

LONGEST_UNIT = 5 * UNIT_RATE  # frames; no sound of speech is held longer, whatever is predicted
LONGEST_SPEECH = 30 * 60 * UNIT_RATE  # frames in one request, half an hour
PIECE_FRAMES = 20 * UNIT_RATE  # a caption is one piece; longer speech never takes more memory than this much
FIRST_DURATIONS = 24  # units in the duration predictor's first window: mostly enough for speech to start
NEXT_DURATIONS = 4  # units in the windows after it: few, so that it need not wait for more where it starts with them
MOST_DURATIONS = 256  # units in its largest
_START_UNITS = 30  # by then the 0.6 s that the vocoder looks ahead are known; most units last one or two frames
STREAM_FRAMES = UNIT_RATE // 2  # half a second: small enough to start at once, large enough to outrun playback


@dataclass(frozen=True)
class Speech:
    """What was spoken."""

    waveform: FloatArray  # float32 [samples], 16 kHz, in [-1, 1]
    units: IntArray  # int64 [U], repeats removed unless durations were given
    durations: IntArray  # int64 [U], frames of 20 ms


class Vocoder:
    """Speaks units through the graphs duration_predictor and vocoder of a bundle."""

    def __init__(self, graphs: Graphs, config: VocoderConfig) -> None:
        self._graphs = graphs
        self._config = config

    def speak(self, units: Sequence[int] | IntArray, durations: Sequence[int] | IntArray | None = None) -> Speech:
        """units int64 [U] -> speech. Without `durations` (int64 [U], frames) repeats go and durations are predicted.

        Raises Im2SpError for units or durations that cannot be spoken.
        """
        unit_array, duration_array = self.plan(units, durations)
        pieces = list(self.synthesise(expand(unit_array, duration_array)))
        return Speech(np.concatenate(pieces), unit_array, duration_array)

    def stream(
        self,
        units: Sequence[int] | IntArray,
        durations: Sequence[int] | IntArray | None = None,
        chunk_frames: int = STREAM_FRAMES,
    ) -> Iterator[FloatArray]:
        """As `speak`, but in pieces of `chunk_frames` frames, each as soon as it is ready; joined they are the same."""
        return self.synthesise(expand(*self.plan(units, durations)), chunk_frames)

    def plan(
        self, units: Sequence[int] | IntArray, durations: Sequence[int] | IntArray | None = None
    ) -> tuple[IntArray, IntArray]:
        """What will be said and for how long: (units int64 [U], durations int64 [U] in frames of 20 ms)."""
        unit_array = check_units(units, self._config.units)
        if durations is None:
            unit_array = without_repeats(unit_array)
            duration_array = self.predict_durations(unit_array)
        else:
            duration_array = np.asarray(durations, dtype=np.int64)
        check_length(duration_array)
        return unit_array, duration_array

    def predict_durations(self, units: IntArray) -> IntArray:
        """units int64 [U], repeats removed -> durations int64 [U] in frames of 20 ms, from 1 to LONGEST_UNIT."""
        return self.final_durations(units, 0, complete=True)

    def final_durations(self, units: IntArray, first: int, *, complete: bool) -> IntArray:
        """Durations int64 [at most U - first] of units[first:] (int64 [U > 0], repeats removed), in frames of 20 ms.

        Unless `units` are `complete`, only those that no later unit can change; `first` is where an earlier call
        left off, or 0. The predictor runs in windows that depend on nothing but a unit's place, each with
        `duration_context` units on both sides, so a sentence that grows gets the same numbers, to the last bit, as
        one that is there at once. Where that context is not known, nothing is final before the units are complete.

        Raises Im2SpError for units that cannot be spoken.
        """
        units = check_units(units, self._config.units)
        context = self._config.duration_context
        if context is None:
            return self._run_predictor(units)[first:] if complete else np.zeros(0, dtype=np.int64)
        found = [np.zeros(0, dtype=np.int64)]
        for start, stop in _duration_windows(first, len(units)):
            if not complete and stop + context > len(units):
                break
            left = max(0, start - context)
            found.append(self._run_predictor(units[left : stop + context])[start - left :][: stop - start])
        return np.concatenate(found)

    def synthesise(self, frames: IntArray, chunk_frames: int = PIECE_FRAMES) -> Iterator[FloatArray]:
        """frames int64 [F] -> waveforms float32 [chunk_frames * 320] (the last may be shorter), joined the whole."""
        if chunk_frames < 1:
            raise Im2SpError(f"a piece of {chunk_frames} frames cannot be spoken: give at least 1")
        starts = range(0, len(frames), chunk_frames)
        return (self.synthesise_piece(frames, start, min(start + chunk_frames, len(frames))) for start in starts)

    def synthesise_piece(self, frames: IntArray, start: int, stop: int) -> FloatArray:
        """frames int64 [F] -> the waveform float32 [(stop - start) * 320] of frames[start:stop] among them.

        The piece is spoken with `context_frames` frames on both sides, which are cut away again: the vocoder does
        not look further, so pieces do not depend on where they are cut, nor on frames beyond stop + context_frames.
        """
        context, hop = self._config.context_frames, self._config.hop
        first = max(0, start - context)
        waveform = self._run(frames[first : stop + context])
        return waveform[(start - first) * hop : (stop - first) * hop]

    @property
    def context_frames(self) -> int:
        """Frames of 20 ms that a sample depends on, on each side of its own."""
        return self._config.context_frames

    def _run_predictor(self, units: IntArray) -> IntArray:
        graph = self._graphs.open("duration_predictor")
        (log_durations,) = graph.run(units=units[None])
        if log_durations.shape != (1, len(units)) or np.isnan(log_durations).any():
            raise BundleError(f"{graph.label} gave durations that are not one number for each unit: export it again")
        with np.errstate(over="ignore"):
            frames = np.round(np.exp(log_durations[0]) - 1)
        durations: IntArray = np.clip(frames, 1, LONGEST_UNIT).astype(np.int64)
        return durations

    def _run(self, frames: IntArray) -> FloatArray:
        graph = self._graphs.open("vocoder")
        (waveform,) = graph.run(frames=frames[None])
        if waveform.shape != (1, len(frames) * self._config.hop) or not np.isfinite(waveform).all():
            raise BundleError(f"{graph.label} gave a waveform that its config.json rules out: export it again")
        clipped: FloatArray = np.clip(waveform[0], -1, 1)
        return clipped


def check_length(durations: IntArray) -> None:
    """durations: int64 [U] in frames of 20 ms. Raises Im2SpError when they add up to more than LONGEST_SPEECH."""
    if durations.max(initial=0) > LONGEST_SPEECH or durations.sum() > LONGEST_SPEECH:
        minutes = LONGEST_SPEECH // (60 * UNIT_RATE)
        raise Im2SpError(f"these units would take more than {minutes} minutes to speak: give fewer at a time")


def _duration_windows(first: int, count: int) -> Iterator[tuple[int, int]]:
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
        return FIRST_DURATIONS
    return NEXT_DURATIONS if first < _START_UNITS else min(first // 2, MOST_DURATIONS)
