"""Entries that a recogniser misses are replaced, where another pronunciation is understood better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.arrays import FloatArray
from im2sp.train.evaluate.recogniser import Recogniser, RecogniserInfo
from im2sp.train.lexicon.asr_feedback import AsrFeedbackConfig, Sentence, apply_asr_feedback
from im2sp.train.lexicon.lexicon import Context, Units
from im2sp.train.lexicon.medoids import RecordedPronunciations, SpokenWord

CAT = ("a", "cat", "runs.")
TEXTS = {"a dog runs": 4, "a cat runs": 4}


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
    folder: Path, cats: dict[int, int], texts: dict[str, int], recogniser: Recogniser, limit: int = 100
) -> tuple[int, dict[Context, Units]]:
    """Texts and how often each is said -> entries that changed, all entries."""
    recorded = _recorded(cats)
    lexicon = recorded.lexicon()
    sentences = []
    for text, count in texts.items():
        contexts = lexicon.lookup(("^", *text.split()[:2], "runs.", "$"))
        assert contexts
        sentences.append(Sentence(text, tuple(contexts), (1, 2, 3), count))
    changed = apply_asr_feedback(
        lexicon.entries,
        recorded.alternatives,
        sentences,
        AsrFeedbackConfig(sentences=limit),
        lambda units: np.asarray(units, np.float32),
        recogniser,
        folder / "asr",
    )
    return changed, lexicon.entries


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
    count, entries = _apply(tmp_path, cats, TEXTS, recogniser, limit)
    assert (count, entries[CAT]) == (changed, units)
    assert entries["a", "dog", "runs."] == (3,)


def test_what_is_said_often_is_transcribed_first(tmp_path: Path) -> None:
    cats = {7: 6, 6: 3}
    assert _apply(tmp_path, cats, {"a dog runs": 2, "a cat runs": 1}, _Recogniser(), 1)[0] == 0
    assert _apply(tmp_path, cats, {"a dog runs": 2, "a cat runs": 9}, _Recogniser(), 1)[0] == 1
