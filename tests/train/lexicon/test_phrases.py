"""The hedge and the sentence of abstention, spoken by the default bundle and heard by Whisper tiny."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp import Captioner
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig
from im2sp.train.evaluate.recognisers import WhisperRecogniser
from im2sp.train.lexicon.lexicon import PronunciationLexicon
from im2sp.train.lexicon.phrases import ABSTAIN, HEDGE, speak_phrase

LEXICON = Path(__file__).parents[3] / "recipes" / "captioner" / "lexicon.parquet"


@pytest.mark.parametrize("lexicon", [None, LEXICON])
def test_phrases_are_understood(lexicon: Path | None) -> None:
    captioner, recogniser = Captioner.from_pretrained(threads=1), WhisperRecogniser("tiny")
    voice = PiperSynthesizer(SynthesisConfig())
    known = PronunciationLexicon.load(lexicon) if lexicon else None
    for texts, seconds in ((ABSTAIN[:1], 1.5), (HEDGE[:1], 0.6)):
        takes = [speak_phrase(texts, captioner, voice, recogniser, known) for _ in range(3)]  # the voice draws noise
        phrase = min(takes, key=lambda take: take.word_error_rate)
        assert (phrase.text, phrase.word_error_rate) == (texts[0], 0.0)
        assert sum(phrase.durations) / 50 == pytest.approx(seconds, abs=0.25)
        assert np.diff(phrase.units).all()
        assert len(phrase.units) == len(phrase.durations)
