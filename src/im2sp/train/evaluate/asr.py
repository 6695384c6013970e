"""A speech recogniser that scores what was spoken: waveform float32 [samples], 16 kHz -> the words it heard."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError, require_extra
from im2sp.files import sha256_of
from im2sp.speech.audio import mono_float32
from im2sp.speech.whisper import WEIGHTS, find_weights, load_whisper
from im2sp.train.evaluate.words import WordErrorRate, normalise_words, word_error_rate

__all__ = ["Recogniser", "RecogniserInfo", "WordErrorRate", "normalise_words", "word_error_rate"]

log = logging.getLogger(__name__)

DEFAULT_BEAM = {"tiny": 1, "base": 5}
_LOG_EVERY = 50  # clips


@dataclass(frozen=True)
class RecogniserInfo:
    """All that decides what a recogniser hears; goes into reports and into the cache's keys."""

    name: str  # "tiny", "base" or the name of the folder
    weights_sha256: str
    language: str  # "" for a recogniser that knows only one
    beam: int
    compute_type: str
    library: str  # version of faster-whisper, or the name and version of another library


class SpeechRecogniser(ABC):
    """What turns waveforms into words, and remembers which it heard."""

    info: RecogniserInfo
    at_once: int = 1  # clips that `transcribe_all` hears side by side, each in a thread of its own

    @abstractmethod
    def transcribe(self, waveform: FloatArray) -> str:
        """Waveform float32 [samples], 16 kHz -> what was said ("" for no samples).

        Raises AudioError for anything but one channel of floating point samples.
        """

    def transcribe_all(self, items: Iterable[tuple[str, FloatArray]], cache_path: Path) -> dict[str, str]:
        """(clip id, waveform) -> {clip id: words}, in the order given. Safe to stop and run again.

        `cache_path`: JSON lines, one appended as soon as a clip is done. A clip counts as done when its samples and
        the recogniser are the same: who says a sentence twice is heard once. Raises AudioError for a bad waveform,
        Im2SpError for a bad cache.
        """
        known = _read_cache(cache_path)
        recogniser = hashlib.sha256(json.dumps(asdict(self.info), sort_keys=True).encode()).hexdigest()[:16]
        heard: dict[str, str] = {}
        waiting: deque[tuple[str, tuple[str, str]]] = deque()
        hearing: dict[tuple[str, str], Future[str]] = {}
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        with cache_path.open("a", encoding="utf-8") as cache, ThreadPoolExecutor(self.at_once) as pool:

            def settle() -> None:
                clip, key = waiting.popleft()
                if key in hearing:
                    known[key] = hearing.pop(key).result()
                    line = {"id": clip} | dict(zip(_CACHE_KEY, key, strict=True)) | {"text": known[key]}
                    cache.write(json.dumps(line) + "\n")
                    cache.flush()
                heard[clip] = known[key]
                if len(heard) % _LOG_EVERY == 0:
                    log.info("%s: %d clips heard", cache_path.name, len(heard))

            for clip, waveform in items:
                digest = hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").tobytes()).hexdigest()
                key = (digest, recogniser)
                if key not in known and key not in hearing:
                    hearing[key] = pool.submit(self.transcribe, waveform)
                waiting.append((clip, key))
                while len(hearing) > self.at_once:  # one waits, so that no thread does
                    settle()
            while waiting:
                settle()
        return heard


class Recogniser(SpeechRecogniser):
    """Whisper through faster-whisper on the CPU: no timestamps, temperature 0 only, each clip on its own.

    The same clip gives the same words on the same machine, whatever was heard before it.
    """

    def __init__(
        self,
        weights: str | Path = "base",
        *,
        language: str = "en",
        beam: int | None = None,
        threads: int = 1,
        compute_type: str = "int8",
    ) -> None:
        """`weights`: "tiny" (tiny.en) or "base" from installed packages (`im2sp[recipe]`), or a faster-whisper folder.

        `beam`: width of the search; 1 is greedy. By default 1 for tiny, 5 for all else.
        `threads`: `transcribe_all` hears so many clips at once, one thread each.
        `compute_type`: "int8" or "float32" (docs/results.md says what that changes).
        Raises Im2SpError when the weights or faster-whisper are missing.
        """
        folder = find_weights(weights)
        with require_extra("train"):
            import faster_whisper
        beam = beam or DEFAULT_BEAM.get(str(weights), 5)
        self.info = RecogniserInfo(
            name=str(weights) if str(weights) in DEFAULT_BEAM else folder.name,
            weights_sha256=sha256_of(folder / WEIGHTS),
            language=language,
            beam=beam,
            compute_type=compute_type,
            library=faster_whisper.__version__,
        )
        self.at_once = threads
        self._model = load_whisper(folder, 1, compute_type, "train", at_once=threads)

    def transcribe(self, waveform: FloatArray) -> str:
        """Waveform float32 [samples], 16 kHz -> what was said, as the recogniser writes it ("" for no samples).

        Raises AudioError for anything but one channel of floating point samples.
        """
        samples = mono_float32(waveform)
        if samples.size == 0:
            return ""
        segments, _ = self._model.transcribe(
            samples,
            language=self.info.language,
            beam_size=self.info.beam,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            # Whatever was heard counts: nothing is thrown away for seeming unlikely.
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        return " ".join(segment.text.strip() for segment in segments)


_CACHE_KEY = ("sha256", "recogniser")


def _read_cache(path: Path) -> dict[tuple[str, ...], str]:
    """{(sha256, recogniser): text}; a last line that a crash tore is cut off the file."""
    known: dict[tuple[str, ...], str] = {}
    if not path.exists():
        return known
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        os.truncate(path, whole)
    for number, line in enumerate(raw[:whole].splitlines(), start=1):
        try:
            entry = json.loads(line)
            known[tuple(str(entry[name]) for name in _CACHE_KEY)] = str(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise Im2SpError(f"{path}, line {number}: is not a transcript; delete the file and run again") from error
    return known
