"""The word recogniser, on the speech of the embedded bundle."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from im2sp.captioner import Captioner
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.speech.whisper import WordRecogniser

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
