"""The recipe's voice tells what it says."""

from __future__ import annotations

import pytest

from im2sp.train.data.voice import PiperSpeaker, VoiceConfig


@pytest.mark.parametrize("text", ["a dog runs.", "A girl, in red, jumps! Two men look on."])
def test_phones_are_told_without_speaking(text: str) -> None:
    voice = PiperSpeaker(VoiceConfig(noise_w_scale=0.0))
    wave, phones, samples = voice.speak(text)
    assert voice.phones(text) == phones
    assert len(samples) == len(phones)
    assert abs(int(samples.sum()) - len(wave)) < 100
