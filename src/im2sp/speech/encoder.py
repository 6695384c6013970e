"""Speech encoder: a waveform in, speech units at 50 Hz out, through the graph speech_encoder of a bundle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import SpeechEncoderConfig
from im2sp.errors import AudioError, BundleError
from im2sp.onnx import Graph
from im2sp.speech.audio import HOP, mono_float32

FRAME = 400  # samples that one unit is computed from; the next one starts HOP samples later


class SpeechEncoder:
    """Encodes speech. Long recordings are encoded in pieces, so that memory does not grow with them."""

    def __init__(self, graph: Graph, config: SpeechEncoderConfig) -> None:
        self._graph = graph
        self._config = config

    def units(self, waveform: FloatArray) -> IntArray:
        """Encode a waveform float32 [samples], 16 kHz, in [-1, 1] -> units int64 [F], one for each 20 ms, repeats kept.

        Raises AudioError for anything that is not such a waveform or is shorter than 25 ms.
        """
        waveform = mono_float32(waveform)
        if len(waveform) < FRAME:
            raise AudioError(f"{len(waveform)} samples are too short for a unit: give at least {FRAME}")
        if not np.isfinite(waveform).all():
            raise AudioError("the waveform holds samples that are not numbers: record or read it again")
        return np.concatenate([self._run(piece) for piece in self._pieces(waveform)])

    def _pieces(self, waveform: FloatArray) -> Iterator[FloatArray]:
        """Cut pieces of at most `samples_limit` samples that overlap so that every frame is in exactly one."""
        frames = (self._config.samples_limit - FRAME) // HOP + 1
        for start in range(0, len(waveform) - FRAME + 1, frames * HOP):
            yield waveform[start : start + (frames - 1) * HOP + FRAME]

    def _run(self, piece: FloatArray) -> IntArray:
        (units,) = self._graph.run(waveform=piece[None])
        if units.size == 0 or units.min() < 0 or units.max() >= self._config.units:
            raise BundleError(f"{self._graph.label} gave units that config.json rules out: export it again")
        return np.asarray(units[0], dtype=np.int64)
