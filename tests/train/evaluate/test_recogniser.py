"""Transcripts: kept in a cache, in order, from several threads."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError
from im2sp.train.evaluate.recogniser import Recogniser, RecogniserInfo


class Counter(Recogniser):
    """Writes the number of samples, two clips at a time; with a barrier, only both together."""

    info = RecogniserInfo("counter", "", "", 1, "", "")
    parallel = 2

    def __init__(self, barrier: threading.Barrier | None = None) -> None:
        self.barrier = barrier
        self.heard: list[int] = []

    def transcribe(self, waveform: FloatArray) -> str:
        if self.barrier:
            self.barrier.wait()
        self.heard.append(len(waveform))
        return f"{len(waveform)} samples"


def test_equal_samples_are_transcribed_once_and_a_torn_line_again(tmp_path: Path) -> None:
    recogniser, cache = Counter(), tmp_path / "new" / "transcripts.jsonl"
    clips = [("a", np.zeros(3, np.float32)), ("b", np.ones(4, np.float32))]
    wanted = {"a": "3 samples", "b": "4 samples"}
    for _ in range(2):
        assert recogniser.transcribe_all(clips, cache) == wanted
    assert sorted(recogniser.heard) == [3, 4]
    cache.write_bytes(cache.read_bytes()[:-5])
    assert recogniser.transcribe_all(clips, cache) == wanted
    recogniser.transcribe_all([("a", np.ones(3, np.float32)), ("c", np.zeros(3, np.float32))], cache)
    assert sorted(recogniser.heard) == [3, 3, 4, 4]  # only the ones under the name "a" are new
    assert len(cache.read_text().splitlines()) == 3


def test_clips_are_transcribed_in_parallel_and_kept_in_order(tmp_path: Path) -> None:
    recogniser, cache = Counter(threading.Barrier(2, timeout=20)), tmp_path / "transcripts.jsonl"
    clips = [(f"clip {k}", np.zeros(n, np.float32)) for k, n in enumerate((1, 2, 1, 3, 2, 4))]
    found = recogniser.transcribe_all(clips, cache)
    assert list(found.items()) == [(clip, f"{len(waveform)} samples") for clip, waveform in clips]
    assert sorted(recogniser.heard) == [1, 2, 3, 4]
    assert [json.loads(line)["text"][0] for line in cache.read_text().splitlines()] == list("1234")


def test_a_file_that_is_no_cache_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cache.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(Im2SpError, match="a line that is no Transcript"):
        Counter().transcribe_all([], tmp_path / "cache.jsonl")
