"""Entries that a recogniser misses are replaced, where another pronunciation is understood better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.arrays import FloatArray
from im2sp.train.evaluate.recogniser import Recogniser, RecogniserInfo
from im2sp.train.lexicon.asr_feedback import AsrFeedbackConfig, Sentence, apply_asr_feedback
from im2sp.train.lexicon.lexicon import Units

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


class _Lucky(_Recogniser):
    """Understands the other pronunciation of "cat" where the cat runs, and nowhere else."""

    def transcribe(self, waveform: FloatArray) -> str:
        units = waveform.astype(int)
        names = {6: "cat", 7: "cap"} if 8 in units else {6: "cap", 7: "cat"}
        return " ".join(({1: "a", 3: "dog", 8: "runs", 5: "sits"} | names)[unit] for unit in units)


def _apply(
    folder: Path, cats: tuple[int, ...], texts: dict[str, int], recogniser: Recogniser, limit: int = 100
) -> tuple[int, dict[str, Units]]:
    """First units of the ways to say "cat", texts and how often each is said -> entries that changed, all entries."""
    said: dict[str, Units] = {"a": (1, 1), "dog": (3,), "cat": cats[:1], "runs": (8,), "sits": (5,)}
    changed = apply_asr_feedback(
        said,
        lambda entry, count: [(unit,) for unit in cats[1 : count + 1]] if entry == "cat" else [],
        [Sentence(text, tuple(text.split()), (0, 1, 2), count) for text, count in texts.items()],
        AsrFeedbackConfig(sentences=limit),
        lambda units: np.asarray(units, np.float32),
        recogniser,
        folder / "asr",
    )
    return changed, said


@pytest.mark.parametrize(
    ("cats", "recogniser", "limit", "changed", "units"),
    [
        ((7, 6), _Recogniser(), 100, 1, (6,)),
        ((7, 9), _Recogniser(), 100, 0, (7,)),  # no other way is better
        ((7, 6), _Confused(), 100, 0, (7,)),  # the other one spoils the next word
        ((7, 6), _Recogniser(), 0, 0, (7,)),
    ],
)
def test_an_entry_gets_the_pronunciation_that_is_understood(
    tmp_path: Path, cats: tuple[int, ...], recogniser: Recogniser, limit: int, changed: int, units: Units
) -> None:
    count, entries = _apply(tmp_path, cats, TEXTS, recogniser, limit)
    assert (count, entries["cat"]) == (changed, units)
    assert entries["dog"] == (3,)


def test_what_is_said_often_is_transcribed_first(tmp_path: Path) -> None:
    cats = (7, 6)
    assert _apply(tmp_path, cats, {"a dog runs": 2, "a cat runs": 1}, _Recogniser(), 1)[0] == 0
    assert _apply(tmp_path, cats, {"a dog runs": 2, "a cat runs": 9}, _Recogniser(), 1)[0] == 1


def test_a_change_that_does_not_help_in_other_sentences_is_taken_back(tmp_path: Path) -> None:
    texts = {"a cat runs": 9, "a cat sits": 1}
    assert _apply(tmp_path / "one", (7, 6), texts, _Lucky(), 1)[0] == 0
    assert _apply(tmp_path / "two", (7, 6), {"a cat runs": 9}, _Lucky(), 1)[0] == 1


def test_only_the_most_used_entries_are_tried(tmp_path: Path) -> None:
    said: dict[str, Units] = {"a": (1, 1), "dog": (7,), "cat": (7,), "runs": (8,)}
    apply_asr_feedback(
        said,
        lambda entry, _: {"dog": [(3,)], "cat": [(6,)]}.get(entry, []),
        [Sentence(f"a {name} runs", ("a", name, "runs"), (0, 1, 2), count) for name, count in (("dog", 1), ("cat", 5))],
        AsrFeedbackConfig(sentences=9, entries=3),
        lambda units: np.asarray(units, np.float32),
        _Recogniser(),
        tmp_path / "asr",
    )
    assert (said["dog"], said["cat"]) == ((7,), (6,))
