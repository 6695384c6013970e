"""Streaming: units that become known bit by bit in, chunks of speech out, each as soon as nothing can change it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.speech.audio import UNIT_RATE
from im2sp.speech.units import expand
from im2sp.speech.vocoder import Speech, Vocoder, check_length

if TYPE_CHECKING:
    from im2sp.captioner import SpeechCaption

FIRST_FRAMES = 3  # speech starts with a chunk of 0.06 s: the next is ready in a third of that on one core
MOST_FRAMES = 2 * UNIT_RATE  # the largest chunk


@dataclass(frozen=True)
class SpeechChunk:
    """A stretch of speech that follows the one before it without a gap."""

    waveform: FloatArray  # float32 [samples], 16 kHz, in [-1, 1]
    units: IntArray  # int64 [U], U >= 0: those whose last sample is in this chunk
    durations: IntArray  # int64 [U], frames of 20 ms
    caption: SpeechCaption | None = None  # all of it, with the last chunk only


class GrowingSpeech:
    """Speaks units of which more are to come. Its chunks, joined, equal the whole to 1e-5.

    The units of a sentence stay as they are when it grows. The duration of one is final when the predictor's
    look-ahead is known, a sample is when the frames of the vocoder's look-ahead are.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        self._vocoder = vocoder
        self._growing = vocoder.growing_durations()
        self._units = np.zeros(0, dtype=np.int64)
        self._durations = np.zeros(0, dtype=np.int64)  # of the first units, as far as they are final
        self._frames = np.zeros(0, dtype=np.int64)  # these units, repeated by their durations
        self._pieces: list[FloatArray] = []  # what has been spoken
        self._spoken = 0  # frames of it
        self._completed = 0  # units of it
        self._is_finished = False

    def extend(self, units: IntArray) -> Iterator[SpeechChunk]:
        """units int64 [U]: all that are known so far, repeats removed -> the chunks that can be spoken now.

        At least one frame stays behind for `finish`. Raises Im2SpError for speech that is too long.
        """
        if len(units) > len(self._units):
            self._grow(units)
        reserve = max(1, self._vocoder.context_frames)
        while (stop := self._next_stop()) + reserve <= len(self._frames):
            yield self._speak(stop)

    def finish(self, units: IntArray) -> Iterator[SpeechChunk]:
        """units int64 [U], U >= 1: all that there are -> the chunks that are left, one or more."""
        self._is_finished = True
        self._grow(units)
        while self._spoken < len(self._frames):
            stop = self._next_stop()
            yield self._speak(stop if stop + FIRST_FRAMES <= len(self._frames) else len(self._frames))

    @property
    def is_spoken(self) -> bool:
        """Whether the last chunk is out."""
        return self._is_finished and self._spoken == len(self._frames)

    @property
    def speech(self) -> Speech:
        """What has been spoken: all of it after the last chunk."""
        spoken = slice(self._completed)
        return Speech(np.concatenate(self._pieces), self._units[spoken], self._durations[spoken])

    def _grow(self, units: IntArray) -> None:
        known = len(self._durations)
        fresh = self._growing.extend(units, complete=self._is_finished)
        self._units = units
        if len(fresh) == 0:
            return
        self._durations = np.concatenate([self._durations, fresh])
        check_length(self._durations)
        self._frames = np.concatenate([self._frames, expand(units[known : known + len(fresh)], fresh)])

    def _next_stop(self) -> int:
        """The frame before which the next chunk ends: three times as long as all before, which play meanwhile."""
        return self._spoken + min(max(FIRST_FRAMES, 3 * self._spoken), MOST_FRAMES)

    def _speak(self, stop: int) -> SpeechChunk:
        waveform = self._vocoder.synthesise_piece(self._frames, self._spoken, stop)
        completed = int(np.searchsorted(np.cumsum(self._durations), stop, side="right"))
        part = slice(self._completed, completed)
        self._pieces.append(waveform)
        self._spoken, self._completed = stop, completed
        return SpeechChunk(waveform, self._units[part], self._durations[part])
