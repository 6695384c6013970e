"""What a bundle says where it is not sure: a sentence in its voice, or several, in; the units of the best out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.speech.audio import SAMPLE_RATE, read_audio
from im2sp.speech.durations import LONGEST_UNIT
from im2sp.speech.units import remove_repeats
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.data.voice import PiperSpeaker, VoiceConfig
from im2sp.train.evaluate.asr import SpeechRecogniser
from im2sp.train.evaluate.words import word_error_rate

LONGEST_SENTENCE = 10  # seconds of "I am not sure what this shows"


@dataclass(frozen=True)
class Take:
    """One way to say that one is not sure."""

    waveform: FloatArray  # float32 [samples], 16 kHz
    text: str | None = None  # what was said; a recording need not tell


def spoken_takes(sentences: Iterable[str], voice: VoiceConfig) -> list[Take]:
    """Sentences in the recipe's voice. Raises Im2SpError when it is not installed."""
    speaker = PiperSpeaker(voice)
    return [Take(as_floats(speaker.speak(sentence)[0]), sentence) for sentence in sentences]


def recorded_take(recording: Path) -> list[Take]:
    """A recording. Raises AudioError when it cannot be read."""
    return [Take(read_audio(recording))]


def best_take(captioner: Captioner, takes: Sequence[Take], recogniser: SpeechRecogniser) -> dict[str, Any]:
    """The take that is understood best when it comes out of the vocoder; of equals, and without texts, the first."""
    tried: list[dict[str, Any]] = []
    for take in takes:
        units, durations = _as_units(captioner, take.waveform)
        heard = recogniser.transcribe(captioner.speak(units, durations).waveform)
        errors = word_error_rate([take.text], [heard]).rate if take.text else 0.0
        tried.append({"text": take.text, "heard": heard, "word_error_rate": errors})
        tried[-1] |= {"units": units.tolist(), "durations": durations.tolist()}
    return min(tried, key=lambda one: one["word_error_rate"]) | {
        "tried": [{name: one[name] for name in ("text", "heard", "word_error_rate")} for one in tried]
    }


def _as_units(captioner: Captioner, waveform: FloatArray) -> tuple[IntArray, IntArray]:
    if len(waveform) > LONGEST_SENTENCE * SAMPLE_RATE:
        raise Im2SpError(f"the sentence for what is not sure lasts more than {LONGEST_SENTENCE} s: give a shorter one")
    units, durations = remove_repeats(captioner.units(waveform))
    return units, np.minimum(durations, LONGEST_UNIT)
