"""A speech recogniser with a cache of transcripts: waveforms float32 [samples], 16 kHz, in; what was heard out."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError

log = logging.getLogger(__name__)

_KEY = ("sha256", "recogniser")  # of a transcript: hash of the samples, hash of the recogniser
_LOG_EVERY = 50  # clips


@dataclass(frozen=True)
class RecogniserInfo:
    """All that decides what a recogniser writes; part of reports and of the cache's keys."""

    name: str  # "tiny", "base" or the name of the folder
    weights_sha256: str
    language: str  # "" for a recogniser of one language
    beam: int
    compute_type: str
    library: str  # name and version


class Recogniser(ABC):
    """Transcribe clips, each on its own."""

    info: RecogniserInfo
    parallel: int = 1  # clips that are transcribed at a time, each in a thread of its own

    @abstractmethod
    def transcribe(self, waveform: FloatArray) -> str:
        """Transcribe a waveform float32 [samples], 16 kHz; "" for no samples.

        Raises AudioError for anything but one channel of floating point samples.
        """

    def transcribe_all(self, clips: Iterable[tuple[str, FloatArray]], cache_path: Path) -> dict[str, str]:
        """Transcribe clips (id, waveform) into {id: text}; see `iterate`."""
        return dict(self.iterate(clips, cache_path))

    def iterate(self, clips: Iterable[tuple[str, FloatArray]], cache_path: Path) -> Iterator[tuple[str, str]]:
        """Transcribe clips (id, waveform) one by one into (id, text), in their order.

        `cache_path`: JSON lines, one appended after each clip. Equal samples are transcribed once, also in later runs
        with the same recogniser. Raises AudioError for a bad waveform, Im2SpError for a bad cache.
        """
        known = _read_cache(cache_path)
        recogniser = hashlib.sha256(json.dumps(asdict(self.info), sort_keys=True).encode()).hexdigest()[:16]
        waiting: deque[tuple[str, tuple[str, str]]] = deque()
        running: dict[tuple[str, str], Future[str]] = {}
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        with cache_path.open("a", encoding="utf-8") as cache, ThreadPoolExecutor(self.parallel) as pool:

            def finish() -> tuple[str, str]:
                clip, key = waiting.popleft()
                if key in running:
                    known[key] = running.pop(key).result()
                    line = {"id": clip} | dict(zip(_KEY, key, strict=True)) | {"text": known[key]}
                    cache.write(json.dumps(line) + "\n")
                    cache.flush()
                    if len(known) % _LOG_EVERY == 0:
                        log.info("%s: %d clips", cache_path.name, len(known))
                return clip, known[key]

            for clip, waveform in clips:
                digest = hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").tobytes()).hexdigest()
                key = (digest, recogniser)
                if key not in known and key not in running:
                    running[key] = pool.submit(self.transcribe, waveform)
                waiting.append((clip, key))
                while len(running) > self.parallel:  # one clip more than threads, so that none of them idles
                    yield finish()
            while waiting:
                yield finish()


def _read_cache(path: Path) -> dict[tuple[str, ...], str]:
    """Read {(sha256, recogniser): text}; cut off a last line that is not whole."""
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
            known[tuple(str(entry[name]) for name in _KEY)] = str(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise Im2SpError(f"{path}, line {number}: is not a transcript; delete the file and run again") from error
    return known
