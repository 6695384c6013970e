"""Vocoder: speech units in, durations and a waveform out, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import VocoderConfig
from im2sp.errors import BundleError, Im2SpError
from im2sp.onnx import Graphs
from im2sp.speech.audio import UNIT_RATE
from im2sp.speech.durations import GrowingDurations
from im2sp.speech.units import check_units, expand, without_repeats

LONGEST_SPEECH = 30 * 60 * UNIT_RATE  # frames in one request, half an hour
PIECE_FRAMES = 20 * UNIT_RATE  # a caption is one piece; longer speech never takes more memory than this much
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
        return self.growing_durations().extend(units, complete=True)

    def growing_durations(self) -> GrowingDurations:
        """Durations of a sentence of which more is to come; the same as `predict_durations` gives of all of it."""
        return GrowingDurations(self._expected_frames, self._config)

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

    def _expected_frames(self, units: IntArray) -> FloatArray:
        graph = self._graphs.open("duration_predictor")
        (log_durations,) = graph.run(units=units[None])
        if log_durations.shape != (1, len(units)) or np.isnan(log_durations).any():
            raise BundleError(f"{graph.label} gave durations that are not one number for each unit: export it again")
        with np.errstate(over="ignore"):
            frames: FloatArray = np.exp(log_durations[0]) - 1
        return frames

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
