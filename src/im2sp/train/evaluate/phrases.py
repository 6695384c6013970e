"""Fixed phrases of a bundle, such as "I cannot tell what this shows.": recordings in; units and durations out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.speech.durations import LONGEST_UNIT
from im2sp.speech.units import remove_repeats
from im2sp.train.evaluate.recogniser import Recogniser
from im2sp.train.evaluate.words import word_error_rate

ABSTAIN = ("I cannot tell what this shows.", "I can't tell what this shows.", "I am not sure what this shows.")
HEDGE = ("Perhaps", "Maybe")  # before a caption
MAX_SECONDS = 10  # of a phrase


@dataclass(frozen=True)
class Take:
    """A spoken phrase."""

    waveform: FloatArray  # float32 [samples], 16 kHz
    text: str | None = None  # None for a recording without its words


def best_take(captioner: Captioner, takes: Sequence[Take], recogniser: Recogniser) -> dict[str, Any]:
    """Choose the take that is understood best after the bundle's units and vocoder; the first of equal ones.

    Returns its `text`, `heard`, `word_error_rate`, `units` and `durations`. Raises Im2SpError for a take that is too
    long or a bundle without speech encoder.
    """
    tried: list[dict[str, Any]] = []
    for take in takes:
        if len(take.waveform) > MAX_SECONDS * SAMPLE_RATE:
            raise Im2SpError(f"a phrase lasts more than {MAX_SECONDS} s: give a shorter one")
        units, durations = remove_repeats(captioner.units(take.waveform))
        durations = np.minimum(durations, LONGEST_UNIT)
        heard = recogniser.transcribe(captioner.speak(units, durations).waveform)
        errors = word_error_rate([take.text], [heard]).rate if take.text else 0.0
        tried.append({"text": take.text, "heard": heard, "word_error_rate": errors})
        tried[-1] |= {"units": units.tolist(), "durations": durations.tolist()}
    return min(tried, key=lambda one: one["word_error_rate"])
