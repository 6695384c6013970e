"""Confidence: the arithmetic against a plain one, and what is said where a caption is doubtful."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from im2sp import Captioner, Im2SpError
from im2sp.confidence import PrincipalComponents, logistic, pool, share_in_words, signals
from im2sp.decoding.decoder import Prefix
from im2sp.decoding.options import DecodingResult
from im2sp.explain.attention import AttentionTimeline
from im2sp.speech.audio import HOP
from tests.tiny_bundle import WIDTH, hedging_confidence, tiny_confidence, write_tiny_bundle


@pytest.fixture(scope="module")
def captioner(calibrated_bundle: Path) -> Captioner:
    return Captioner.from_pretrained(calibrated_bundle, threads=1)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_the_probability_is_what_plain_arithmetic_gives(captioner: Captioner, photo: np.ndarray) -> None:
    prefix = captioner.encode(photo)
    translation = captioner.decode(prefix)
    assert [share_in_words(p) for p in (0.0, 0.716)] == [
        f"of captions like this, {n} of 100 were right" for n in (1, 72)
    ]
    assert [logistic(x) for x in (-1e12, 0, 1e12)] == pytest.approx([0, 0.5, 1])
    values = prefix.values[0, 0]  # [heads, image tokens, head_dim]
    pooled = np.array([values[head, :, place].mean() for head in range(2) for place in range(WIDTH // 2)])
    np.testing.assert_allclose(pool(prefix), pooled, rtol=1e-5)
    odds = 1.5 + 0.5 * translation.score - 0.25 * math.log(len(translation.tokens))
    assert translation.score == pytest.approx(translation.log_probabilities.mean())
    assert captioner.confidence(prefix, translation) == pytest.approx(1 / (1 + math.exp(-odds)), rel=1e-5)
    assert captioner.caption(photo).confidence == captioner.confidence(prefix, translation)


def test_all_weights_add_up(tmp_path: Path, captioner: Captioner, photo: np.ndarray) -> None:
    prefix = captioner.encode(photo)
    result = captioner.decode(prefix)
    weights: dict[str, Any] = {
        "weights": {"lowest": 0.5, "length": 2.0},
        "photo_weights": [0.3, -0.2],
        "photo_intercept": 0.1,
    }
    write_tiny_bundle(tmp_path, confidence=tiny_confidence(**weights))
    calibrated = Captioner.from_pretrained(tmp_path, threads=1)
    along = [(pool(prefix)[place] - 0.1) / deviation for place, deviation in ((2, 0.5), (5, 0.25))]
    np.testing.assert_allclose(
        PrincipalComponents(tiny_confidence().pca).coordinates(pool(prefix)[None])[0], np.clip(along, -5, 5), rtol=1e-5
    )
    odds = 1.5 + 0.5 * np.sort(result.log_probabilities)[:3].mean() + 2.0 * math.log(len(result.tokens))
    photo_odds = 0.1 + np.clip(along, -5, 5) @ [0.3, -0.2]
    assert calibrated.caption(photo).confidence == pytest.approx(logistic(odds) * logistic(photo_odds), rel=1e-5)


def test_signals_of_a_caption() -> None:
    result = DecodingResult(np.array([5, 6]), np.zeros((2, 9)), np.array([-1.0, -2.0, -3.0, -4.0]), -2.5, "eos")
    filled = np.zeros((1, 1, 2, 3, WIDTH // 2), np.float32)
    evidence = np.array([0, 0, 0, 0, 0, 0, -3, 2], np.float32)  # token 5 says nothing about an image
    for place, named in ((6, 1.0), (7, 0.0)):
        values = signals(Prefix(filled, filled, np.eye(8, dtype=np.float32)[place], evidence), result)
        assert values == {"score": -2.5, "lowest": -3.0, "length": math.log(2), "named": named, "evidence": -3.0}
    values = signals(Prefix(filled, filled), result)
    assert (values["named"], values["evidence"]) == (0, 0)


def test_the_captioner_abstains_below_the_threshold_only(captioner: Captioner, photo: np.ndarray) -> None:
    said = captioner.caption(photo)
    assert said.confidence is not None
    assert not said.abstained
    for least, abstained in ((said.confidence, False), (math.nextafter(said.confidence, 1), True), (1.0, True)):
        caption = captioner.caption(photo, replace(captioner.default_options, min_confidence=least))
        assert caption.abstained is abstained
        assert (caption.confidence, caption.score) == (said.confidence, said.score)
        assert caption.tokens.tolist() == said.tokens.tolist()
        assert (caption.units.tolist() == said.units.tolist()) is not abstained
    config = tiny_confidence()
    assert (caption.units.tolist(), caption.durations.tolist()) == (config.abstain_units, config.abstain_durations)
    assert len(caption.waveform) == sum(config.abstain_durations) * HOP
    np.testing.assert_array_equal(
        caption.waveform, captioner.speak(config.abstain_units, config.abstain_durations).waveform
    )


def test_a_stream_says_nothing_before_it_is_decided(captioner: Captioner, photo: np.ndarray) -> None:
    greedy = replace(captioner.default_options, beam=1)
    whole = captioner.caption(photo, greedy)
    assert whole.confidence is not None
    for least in (0.0, whole.confidence):
        chunks = list(captioner.stream(photo, replace(greedy, min_confidence=least)))
        last = chunks[-1].caption
        assert last is not None
        assert (last.confidence, last.abstained, last.units.tolist()) == (whole.confidence, False, whole.units.tolist())
        joined = np.concatenate([chunk.waveform for chunk in chunks])
        np.testing.assert_allclose(joined, whole.waveform, atol=1e-5)
    (only,) = captioner.stream(photo, replace(greedy, min_confidence=1))
    assert only.caption is not None
    assert only.caption.abstained
    assert only.caption.confidence == whole.confidence
    assert only.units.tolist() == tiny_confidence().abstain_units
    np.testing.assert_array_equal(only.waveform, only.caption.waveform)


def hedging(folder: Path, hedge: float, abstain: float) -> Captioner:
    write_tiny_bundle(folder, confidence=hedging_confidence(hedge, abstain))
    return Captioner.from_pretrained(folder, threads=1)


@pytest.mark.parametrize("beam", [1, 3])
def test_doubt_comes_first_by_default(tmp_path: Path, captioner: Captioner, photo: np.ndarray, beam: int) -> None:
    doubting, options = hedging(tmp_path, 1.0, 0.0), replace(captioner.default_options, beam=beam)
    plain, caption = captioner.caption(photo, options), doubting.caption(photo, options)
    assert (caption.hedged, caption.abstained, caption.hedge_units) == (True, False, 3)
    assert caption.units.tolist() == [7, 2, 7, *plain.units.tolist()]
    assert caption.durations.tolist() == [3, 8, 5, *plain.durations.tolist()]
    np.testing.assert_allclose(caption.waveform[16 * HOP :], plain.waveform, atol=1e-6)
    first, *rest = doubting.stream(photo, options)
    assert (first.units.tolist(), first.caption) == ([7, 2, 7], None)
    whole = rest[-1].caption
    assert whole is not None
    assert (whole.hedged, whole.units.tolist()) == (True, caption.units.tolist())
    np.testing.assert_allclose(np.concatenate([c.waveform for c in (first, *rest)]), caption.waveform, atol=1e-5)
    timeline = AttentionTimeline.of(caption, doubting)
    np.testing.assert_array_equal(timeline.boundaries, 16 + AttentionTimeline.of(plain, captioner).boundaries)
    assert timeline.edges[0] == 16
    always = replace(options, always_speak=True)
    assert doubting.caption(photo, always).units.tolist() == plain.units.tolist()
    assert next(doubting.stream(photo, always)).units.tolist() != [7, 2, 7]


def test_what_is_unlikely_is_not_told_by_default(tmp_path: Path, photo: np.ndarray) -> None:
    captioner = hedging(tmp_path, 1.0, 1.0)
    assert captioner.caption(photo).abstained
    (only,) = captioner.stream(photo)
    assert only.units.tolist() == tiny_confidence().abstain_units
    assert captioner.caption(photo, replace(captioner.default_options, min_confidence=0)).hedged


def test_a_bundle_that_is_not_calibrated(tiny_bundle: Path, photo: np.ndarray) -> None:
    captioner = Captioner.from_pretrained(tiny_bundle, threads=1)
    caption = captioner.caption(photo)
    assert (caption.confidence, caption.abstained) == (None, False)
    options = replace(captioner.default_options, min_confidence=0.1)
    for call in (captioner.caption, captioner.stream):
        with pytest.raises(Im2SpError, match="has no calibrated confidence"):
            call(photo, options)
    with pytest.raises(Im2SpError, match="always speaks"):
        replace(options, always_speak=True)
