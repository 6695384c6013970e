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
from typing import BinaryIO, TypeVar

import msgspec
import numpy as np

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError

log = logging.getLogger(__name__)

_LOG_EVERY = 50  # clips
T = TypeVar("T")


@dataclass(frozen=True)
class RecogniserInfo:
    """All that decides what a recogniser writes; part of reports and of the cache's keys."""

    name: str  # "tiny", "base" or the name of the folder
    weights_sha256: str
    language: str  # "" for a recogniser of one language
    beam: int
    compute_type: str
    library: str  # name and version


@dataclass(frozen=True)
class Transcript:
    """A line of the cache."""

    id: str
    sha256: str  # of the samples
    recogniser: str  # hash of its RecogniserInfo
    text: str


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
        recogniser = hashlib.sha256(json.dumps(asdict(self.info), sort_keys=True).encode()).hexdigest()[:16]
        lines = (line for line in read_whole_lines(cache_path, Transcript) if line.recogniser == recogniser)
        known = {line.sha256: line.text for line in lines}
        waiting: deque[tuple[str, str]] = deque()  # id, hash
        running: dict[str, Future[str]] = {}
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        with cache_path.open("ab") as cache, ThreadPoolExecutor(self.parallel) as pool:

            def finish() -> tuple[str, str]:
                clip, digest = waiting.popleft()
                if digest in running:
                    known[digest] = running.pop(digest).result()
                    append_line(cache, Transcript(clip, digest, recogniser, known[digest]))
                    if len(known) % _LOG_EVERY == 0:
                        log.info("%s: %d clips", cache_path.name, len(known))
                return clip, known[digest]

            for clip, waveform in clips:
                digest = hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").tobytes()).hexdigest()
                if digest not in known and digest not in running:
                    running[digest] = pool.submit(self.transcribe, waveform)
                waiting.append((clip, digest))
                while len(running) > self.parallel:  # one clip more than threads, so that none of them idles
                    yield finish()
            while waiting:
                yield finish()


def append_line(file: BinaryIO, row: object) -> None:
    """Append a dataclass as a line of JSON, at once."""
    file.write(msgspec.json.encode(row) + b"\n")
    file.flush()


def read_whole_lines(path: Path, kind: type[T]) -> list[T]:
    """Read what `append_line` wrote, if there is anything; cut off a last line that is not whole.

    Raises Im2SpError for a line that is something else.
    """
    if not path.exists():
        return []
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        os.truncate(path, whole)
    try:
        return [msgspec.json.decode(line, type=kind) for line in raw[:whole].splitlines()]
    except msgspec.MsgspecError as error:
        raise Im2SpError(f"{path} holds a line that is no {kind.__name__}; delete the file and run again") from error
