"""Entries that a recogniser misses are replaced, where another pronunciation is understood better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from im2sp.arrays import FloatArray
from im2sp.train.evaluate.recogniser import Recogniser, RecogniserInfo
from im2sp.train.lexicon.asr_feedback import AsrFeedbackConfig, Sentence, apply_asr_feedback
from im2sp.train.lexicon.lexicon import PronunciationLexicon, Units
from im2sp.train.lexicon.medoids import RecordedPronunciations, SpokenWord

CAT = ("a", "cat", "runs.")
SENTENCES = [Sentence(text, ("^", *text.split()[:2], "runs.", "$")) for text in ("a dog runs", "a cat runs")] * 4


class _Recogniser(Recogniser):
    """Knows words by their first unit; unit 7 sounds like another word than "cat"."""

    info = RecogniserInfo("stand-in", "", "", 1, "", "")

    def transcribe(self, waveform: FloatArray) -> str:
        words = {1: "a", 3: "dog", 6: "cat", 7: "cap", 8: "runs"}
        return " ".join(words[unit] for unit in waveform.astype(int) if unit in words)


class _Confused(_Recogniser):
    """After the other pronunciation of "cat" it misses "runs"."""

    def transcribe(self, waveform: FloatArray) -> str:
        transcript = super().transcribe(waveform)
        return transcript.replace("runs", "rung") if 6 in waveform.astype(int) else transcript


def _recorded(cats: dict[int, int]) -> RecordedPronunciations:
    """Recordings of "a dog runs", and of "a cat runs" with each first unit of "cat" so many times."""
    names = [("dog", 3)] * 4 + [("cat", unit) for unit, count in cats.items() for _ in range(count)]
    return RecordedPronunciations(
        [SpokenWord(*word) for word in (("^", (0,)), ("a", (1, 1)), (name, (unit,)), ("runs.", (8,)), ("$", (10,)))]
        for name, unit in names
    )


def _apply(
    folder: Path, cats: dict[int, int], sentences: list[Sentence], recogniser: Recogniser, limit: int = 100
) -> tuple[int, PronunciationLexicon]:
    recorded = _recorded(cats)
    lexicon = recorded.lexicon()
    config = AsrFeedbackConfig(sentences=limit)
    changed = apply_asr_feedback(
        lexicon, recorded, sentences, config, lambda units: np.asarray(units, np.float32), recogniser, folder / "asr"
    )
    return changed, lexicon


@pytest.mark.parametrize(
    ("cats", "recogniser", "limit", "changed", "units"),
    [
        ({7: 6, 6: 3}, _Recogniser(), 100, 1, (6,)),
        ({7: 6, 9: 3}, _Recogniser(), 100, 0, (7,)),  # nothing better was recorded
        ({7: 6, 6: 3}, _Confused(), 100, 0, (7,)),  # the other one spoils the next word
        ({7: 6, 6: 3}, _Recogniser(), 0, 0, (7,)),
    ],
)
def test_an_entry_gets_the_pronunciation_that_is_understood(
    tmp_path: Path, cats: dict[int, int], recogniser: Recogniser, limit: int, changed: int, units: Units
) -> None:
    count, lexicon = _apply(tmp_path, cats, SENTENCES, recogniser, limit)
    assert (count, lexicon.entries[CAT]) == (changed, units)
    assert lexicon.entries["a", "dog", "runs."] == (3,)


def test_what_is_said_often_is_transcribed_first(tmp_path: Path) -> None:
    dog, cat = SENTENCES[:2]
    assert _apply(tmp_path, {7: 6, 6: 3}, [dog, dog, cat], _Recogniser(), 1)[0] == 0
    assert _apply(tmp_path, {7: 6, 6: 3}, [dog, dog, replace(cat, count=9)], _Recogniser(), 1)[0] == 1
