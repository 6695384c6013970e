"""Vocoder: speech units in, durations and a waveform out, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from im2sp.arrays import UNIT_RATE, FloatArray, IntArray
from im2sp.bundle import VocoderConfig
from im2sp.errors import BundleError, Im2SpError
from im2sp.onnx import Graphs
from im2sp.speech.durations import ErrorDiffusion, StreamingDurations
from im2sp.speech.units import check_units, expand

LONGEST_SPEECH = 30 * 60 * UNIT_RATE  # frames in one request, half an hour
PIECE_FRAMES = 20 * UNIT_RATE  # a caption is one piece; longer speech takes no more memory than this much
FIRST_FRAMES = 3  # frames of the first chunk of a stream: the next is ready in a third of its 0.06 s on one core
MAX_CHUNK_FRAMES = 2 * UNIT_RATE  # of a stream


@dataclass(frozen=True, eq=False)
class Speech:
    """A stretch of speech."""

    waveform: FloatArray = field(repr=False)  # float32 [samples], 16 kHz, in [-1, 1]
    units: IntArray  # int64 [U]
    durations: IntArray  # int64 [U], frames of 20 ms


def join_speech(first: Speech, second: Speech) -> Speech:
    """Put one stretch of speech after another."""
    pairs = zip(astuple(first), astuple(second), strict=True)
    return Speech(*(np.concatenate(pair) for pair in pairs))


class Vocoder:
    """The graphs duration_predictor and vocoder of a bundle."""

    def __init__(self, graphs: Graphs, config: VocoderConfig) -> None:
        self._graphs = graphs
        self._config = config

    def speak(
        self, units: Sequence[int] | IntArray, durations: Sequence[int] | IntArray | None = None, rate: float = 1.0
    ) -> Speech:
        """Synthesize units int64 [U]; durations (int64 [U], frames) are predicted unless given, and divided by `rate`.

        Raises Im2SpError for units or durations that cannot be spoken.
        """
        unit_array = check_units(units, self._config.units)
        if durations is None:
            duration_array = self.durations(rate).extend(unit_array, complete=True)
        else:
            duration_array = np.asarray(durations, dtype=np.int64)
            if rate != 1:
                rounding = ErrorDiffusion(self._config.duration_tolerance, rate)
                duration_array = rounding.round(duration_array.astype(np.float32))
        check_length(duration_array)
        frames = expand(unit_array, duration_array)
        starts = range(0, len(frames), PIECE_FRAMES)
        pieces = [self.synthesize(frames, start, min(start + PIECE_FRAMES, len(frames))) for start in starts]
        return Speech(np.concatenate(pieces), unit_array, duration_array)

    def durations(self, rate: float = 1.0) -> StreamingDurations:
        """Predict durations of a growing sequence of units."""
        return StreamingDurations(self._expected_frames, self._config, rate)

    def synthesize(self, frames: IntArray, start: int, stop: int) -> FloatArray:
        """Synthesize frames[start:stop] of frames int64 [F] -> waveform float32 [(stop - start) * 320].

        `context_frames` frames on both sides are synthesized too and cut away. The vocoder looks no further, so a
        piece depends neither on where it is cut nor on frames beyond stop + context_frames.
        """
        context, hop = self._config.context_frames, self._config.hop
        first = max(0, start - context)
        graph, part = self._graphs.open("vocoder"), frames[first : stop + context]
        (waveform,) = graph.run(frames=part[None])
        if waveform.shape != (1, len(part) * hop) or not np.isfinite(waveform).all():
            raise BundleError(f"{graph.label} gave a waveform that its config.json rules out: export it again")
        clipped: FloatArray = np.clip(waveform[0, (start - first) * hop : (stop - first) * hop], -1, 1)
        return clipped

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


class StreamingVocoder:
    """Synthesizes a growing sequence of units. Its chunks, joined, equal `Vocoder.speak` of the whole to 1e-5.

    A duration is final when the predictor's context is known, a sample when the frames of the vocoder's context are.
    """

    def __init__(self, vocoder: Vocoder, rate: float = 1.0) -> None:
        self._vocoder = vocoder
        self._predictor = vocoder.durations(rate)
        self._units = np.zeros(0, dtype=np.int64)
        self._durations = np.zeros(0, dtype=np.int64)  # the final ones, of the first units
        self._frames = np.zeros(0, dtype=np.int64)  # these units, repeated by their durations
        self._chunks: list[FloatArray] = []  # synthesized waveforms
        self._spoken = 0  # frames of these chunks
        self._completed = 0  # units of these chunks
        self._is_complete = False

    def extend(self, units: IntArray) -> Iterator[Speech]:
        """Take all units known so far, int64 [U]; yield the chunks that can be synthesized now.

        A chunk has the units whose last sample is in it. At least one frame is left for `finish`. Raises Im2SpError
        for speech that is too long.
        """
        if len(units) > len(self._units):
            self._grow(units)
        reserve = max(1, self._vocoder.context_frames)
        while (stop := self._next_stop()) + reserve <= len(self._frames):
            yield self._synthesize(stop)

    def finish(self, units: IntArray) -> Iterator[Speech]:
        """Take all units, int64 [U], U >= 1; yield the remaining chunks, one or more."""
        self._is_complete = True
        self._grow(units)
        while self._spoken < len(self._frames):
            stop = self._next_stop()
            yield self._synthesize(stop if stop + FIRST_FRAMES <= len(self._frames) else len(self._frames))

    @property
    def is_finished(self) -> bool:
        """Whether the last chunk is out."""
        return self._is_complete and self._spoken == len(self._frames)

    @property
    def speech(self) -> Speech:
        """All chunks so far, joined."""
        spoken = slice(self._completed)
        return Speech(np.concatenate(self._chunks), self._units[spoken], self._durations[spoken])

    def _grow(self, units: IntArray) -> None:
        known = len(self._durations)
        fresh = self._predictor.extend(units, complete=self._is_complete)
        self._units = units
        if len(fresh) == 0:
            return
        self._durations = np.concatenate([self._durations, fresh])
        check_length(self._durations)
        self._frames = np.concatenate([self._frames, expand(units[known : known + len(fresh)], fresh)])

    def _next_stop(self) -> int:
        """Return the frame where the next chunk ends: three times as long as all before, which play meanwhile."""
        return self._spoken + min(max(FIRST_FRAMES, 3 * self._spoken), MAX_CHUNK_FRAMES)

    def _synthesize(self, stop: int) -> Speech:
        waveform = self._vocoder.synthesize(self._frames, self._spoken, stop)
        completed = int(np.searchsorted(np.cumsum(self._durations), stop, side="right"))
        part = slice(self._completed, completed)
        self._chunks.append(waveform)
        self._spoken, self._completed = stop, completed
        return Speech(waveform, self._units[part], self._durations[part])


def check_length(durations: IntArray) -> None:
    """Raise Im2SpError when durations, int64 [U] in frames of 20 ms, add up to more than LONGEST_SPEECH."""
    if durations.max(initial=0) > LONGEST_SPEECH or durations.sum() > LONGEST_SPEECH:
        minutes = LONGEST_SPEECH // (60 * UNIT_RATE)
        raise Im2SpError(f"these units would take more than {minutes} minutes to speak: give fewer at a time")
