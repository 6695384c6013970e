"""The synthetic voice tells the phones that it says."""

from __future__ import annotations

import pytest

from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig, clean_text


@pytest.mark.parametrize("text", ["a dog runs.", "A girl, in red, jumps! Two men look on."])
def test_phones_are_known_without_speaking(text: str) -> None:
    voice = PiperSynthesizer(SynthesisConfig())
    spoken = voice.synthesize(text)
    assert voice.phones(text) == spoken.phones
    assert len(spoken.phone_samples) == len(spoken.phones)
    assert abs(int(spoken.phone_samples.sum()) - len(spoken.waveform)) < 100


@pytest.mark.parametrize(
    ("raw", "spoken"),
    [
        ('A dog " runs " , and it \'s fast .', "A dog runs, and it's fast."),
        ("Two men & a dog", "Two men and a dog."),
        ("Is it a bird ?", "Is it a bird?"),
        ("  A child .", "A child."),
    ],
)
def test_clean_text(raw: str, spoken: str) -> None:
    assert clean_text(raw) == spoken
