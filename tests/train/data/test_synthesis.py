"""The synthetic voice tells the phones that it says."""

from __future__ import annotations

import pytest

from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig


@pytest.mark.parametrize("text", ["a dog runs.", "A girl, in red, jumps! Two men look on."])
def test_phones_are_known_without_speaking(text: str) -> None:
    voice = PiperSynthesizer(SynthesisConfig())
    spoken = voice.synthesize(text)
    assert voice.phones(text) == spoken.phones
    assert len(spoken.phone_samples) == len(spoken.phones)
    assert abs(int(spoken.phone_samples.sum()) - len(spoken.waveform)) < 100
