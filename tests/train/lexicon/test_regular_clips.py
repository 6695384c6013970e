"""Recordings are said again in the units of the lexicon, in their own time."""

from __future__ import annotations

import random

import numpy as np
import pytest

from im2sp.train.lexicon.lexicon import PronunciationLexicon
from im2sp.train.lexicon.recordings import Recording
from im2sp.train.lexicon.regular_clips import RegularSpeaker, align_units, unit_distances
from im2sp.train.models.unit_vocoder import UnitVocoder, VocoderConfig

APART = np.abs(np.subtract.outer(np.arange(20.0), np.arange(20.0)))  # distances of units that lie on a line


@pytest.mark.parametrize(
    ("recorded", "said", "aligned"),
    [
        ([1, 1, 5, 5, 9], [1, 5, 9], [1, 1, 5, 5, 9]),
        ([1, 1, 5, 5, 9], [2, 6, 9], [2, 2, 6, 6, 9]),
        ([1, 1, 9, 9], [1, 4, 9], [1, 1, 9, 9]),  # no frame is near 4
        ([1, 9], [1, 2, 3, 4, 5, 9], [1, 4]),  # more units than two frames reach
    ],
)
def test_frames_get_the_units_that_sound_alike(recorded: list[int], said: list[int], aligned: list[int]) -> None:
    assert align_units(np.array(recorded), np.array(said), APART).tolist() == aligned


def test_words_are_said_by_the_lexicon_now_and_then_in_another_way() -> None:
    lexicon = PronunciationLexicon({(None, "k", None): (2, 2), ("~a", "k", None): (3,), (None, "a", None): (7,)})
    recording = Recording("", ["k", " ", "a"], np.full(3, 640), np.array([2, 2, 2, 8, 8, 8], np.uint16), np.zeros(1920))
    speaker = RegularSpeaker(lexicon, APART, random.Random(0))
    ways = {tuple(units.tolist()) for _ in range(40) if (units := speaker.units(recording)) is not None}
    assert ways == {(2, 2, 2, 7, 7, 7), (3, 3, 3, 7, 7, 7)}
    assert speaker.units(Recording("", ["x"], np.ones(1), recording.units, recording.waveform)) is None


def test_units_are_as_far_apart_as_their_sounds() -> None:
    distances = unit_distances(UnitVocoder(VocoderConfig(units=5, width=16, feed_forward=16)))
    assert distances.shape == (5, 5)
    np.testing.assert_allclose(distances, distances.T, atol=1e-5)
    assert distances.mean() == pytest.approx(1)
    assert np.diagonal(distances).max() < 0.01
