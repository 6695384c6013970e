"""Answers: which type a client gets, and what is in it."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.captioner import SpeechCaption
from im2sp.server.responses import (
    JSON,
    WAV,
    Refusal,
    caption_answer,
    caption_headers,
    negotiate,
    pcm,
)
from im2sp.speech.audio import encode_wav


@pytest.mark.parametrize(
    ("accept", "offer"),
    [
        (None, WAV),
        ("AUDIO/WAV", WAV),
        ("audio/*", WAV),
        ("application/json", JSON),
        ("text/html, application/json;q=0.9, */*;q=0.1", JSON),
        ("audio/wav;q=0.5, application/json;q=0.6", JSON),
        ("*/*, audio/wav;q=0", JSON),
        ("application/json;q=x, audio/wav;q=0.1", WAV),
        ("application/json; charset=utf-8", JSON),
    ],
)
def test_the_client_chooses(accept: str | None, offer: str) -> None:
    assert negotiate(accept, (WAV, JSON)) == offer


@pytest.mark.parametrize("accept", ["text/html", "audio/wav;q=0", ";;;,,,"])
def test_nothing_that_it_accepts(accept: str) -> None:
    with pytest.raises(Refusal, match="audio/wav or application/json") as refusal:
        negotiate(accept, (WAV, JSON))
    assert refusal.value.status == 406


def test_probabilities_are_told_where_they_are_known() -> None:
    caption = spoken(-9.0)
    assert (caption_answer(caption).probability, caption_answer(caption).confidence) == (None, None)
    assert set(caption_headers(caption)) == {"Im2sp-Score"}
    caption = spoken(-9.0, 0.716)
    answer, headers = caption_answer(caption), caption_headers(caption)
    assert (answer.probability, answer.confidence) == (0.716, "of captions like this, 72 of 100 were right")
    assert (answer.hedged, answer.abstained) == (False, False)
    assert [headers[f"Im2sp-{name}"] for name in ("Probability", "Hedged", "Abstained")] == ["0.7160", "false", "false"]


def spoken(score: float, confidence: float | None = None) -> SpeechCaption:
    """A caption of one unit."""
    one = np.ones(1, dtype=np.int64)
    waveform, attention = np.zeros(320, dtype=np.float32), np.zeros((1, 9), dtype=np.float32)
    return SpeechCaption(waveform, 16_000, one, one, score, one, attention, 0.1, confidence)


def test_samples() -> None:
    waveform = np.array([0, 0.5, -1, 2], dtype=np.float32)
    little, big = pcm(waveform, big_endian=False), pcm(waveform, big_endian=True)
    assert np.frombuffer(little, "<i2").tolist() == np.frombuffer(big, ">i2").tolist() == [0, 16384, -32768, 32767]
    assert encode_wav(waveform).endswith(little)
