"""Words are recorded in sentences and by themselves, and cut out."""

from __future__ import annotations

from im2sp.bundle import Bundle, find_bundle
from im2sp.captioner import Captioner
from im2sp.train.data.synthesis import SynthesisConfig
from im2sp.train.lexicon.clear_speech import ClearSpeech


def test_ways_to_say_a_word() -> None:
    clear = ClearSpeech(SynthesisConfig(), Captioner(Bundle.load(find_bundle("default")), threads=1).units)
    alone = clear.ways("parked", ["a dog runs"])
    ways = clear.ways("parked", ["a car parked on a road"])
    assert len(set(ways)) == len(ways) > len(alone) >= 2
    assert all(3 <= len(way) <= 60 for way in ways)
