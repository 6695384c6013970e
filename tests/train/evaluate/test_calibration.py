"""Calibration: the fits against known answers, and the whole of it over a tiny bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from im2sp.bundle import Bundle, ConfidenceConfig
from im2sp.captioner import Captioner
from im2sp.confidence import PPCADensity, logistic
from im2sp.errors import Im2SpError
from im2sp.schema import parse
from im2sp.train.evaluate.calibration import (
    SIGNALS,
    CalibrationOptions,
    answers,
    calibrate,
    fit_density,
    fit_regression,
    probabilities,
    threshold_for_precision,
)
from im2sp.train.evaluate.evaluation import EvaluationOptions, decoding_of, speak_and_transcribe
from im2sp.train.evaluate.photo_sets import PhotoSet
from im2sp.train.evaluate.phrases import Take, best_take
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.evaluate.reliability import calibration_error, reliability_bins
from tests.train.evaluate.tiny_ctc import write_tiny_ctc

Calibrated = tuple[ConfidenceConfig, dict[str, Any], Path]
NOISE = (0.3 * np.random.default_rng(1).normal(size=16_000)).astype(np.float32).clip(-1, 1)


def test_regression_finds_the_odds_that_made_the_labels() -> None:
    random = np.random.default_rng(0)
    signals = random.normal(size=(20_000, len(SIGNALS))) * [0.2, 0.5, 1.0] + [-1.3, 3.0, 0.5]
    wanted = np.array([4.0, -1.0, -0.5])
    correct = random.random(20_000) < 1 / (1 + np.exp(-(signals @ wanted + 8.0)))
    weights, intercept = fit_regression(signals, correct)
    np.testing.assert_allclose([weights[name] for name in SIGNALS], wanted, rtol=0.15)
    confidences = probabilities(weights, intercept, signals)
    values = dict(zip(SIGNALS, signals[0].tolist(), strict=True))
    assert logistic(weights, intercept, values) == pytest.approx(float(confidences[0]))
    assert calibration_error(reliability_bins(confidences, correct)) < 0.02
    with pytest.raises(Im2SpError, match="all of 3 captions"):
        fit_regression(np.zeros((3, len(SIGNALS))), np.full(3, True))


def test_density_knows_the_training_photos() -> None:
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(24, 24)))[0]
    photos = ((random.normal(size=(600, 24)) * np.array([5.0, 3.0, *[0.1] * 22])) @ axes + 2).astype(np.float32)
    density = fit_density(photos, 2)
    np.testing.assert_allclose(density.deviations, [5, 3], rtol=0.15)
    distances = PPCADensity(density).distances(photos)
    assert abs(distances.mean()) < 0.15
    assert (distances > density.ood_threshold).mean() < 0.03
    assert (PPCADensity(density).distances(photos + axes[10].astype(np.float32)) > density.ood_threshold).mean() > 0.9
    alike = fit_density(np.ones((8, 16), dtype=np.float32), 4)
    assert PPCADensity(alike).distances(np.ones((1, 16), dtype=np.float32))[0] <= alike.ood_threshold
    with pytest.raises(Im2SpError, match="2 training photos"):
        fit_density(photos[:2], 2)


def test_thresholds_and_answers() -> None:
    confidences = np.array([0.95, 0.9, 0.8, 0.5, 0.05])
    correct = np.array([True, False, True, True, False])
    assert threshold_for_precision(confidences, correct, 0.7) == 0.5
    assert threshold_for_precision(confidences, correct, 0.9) == 0.95
    assert threshold_for_precision(confidences, ~correct, 0.9) == 1.0
    found = answers(confidences, correct, {"hedge": 0.8, "abstain": 0.1})
    assert found["plain"] == {"share": 0.6, "correct": pytest.approx(2 / 3)}
    assert found["hedged"] == {"share": 0.2, "correct": 1.0}
    assert found["abstained"] == {"share": 0.2, "correct": 0.0}


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """Two sets of eight pictures in colours of their own; every other caption is correct."""
    folder = tmp_path_factory.mktemp("calibrated")
    random, out = np.random.default_rng(0), folder / "out"
    for number in range(16):
        pixels = random.integers(0, 256, 3) * random.uniform(0.3, 1, (60, 80, 1))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    photos = {path.name: path for path in sorted(folder.glob("*.png"))}
    evaluation = EvaluationOptions(recogniser=str(write_tiny_ctc(folder / "ctc")), command="test")
    captioner = Captioner(Bundle.load(tiny_bundle), threads=1)
    heard, _ = speak_and_transcribe(
        captioner, photos, out, open_recogniser(evaluation.recogniser), decoding_of(captioner, evaluation)
    )
    written = {name: [heard[name].text if int(name[:2]) % 2 else "a dog"] for name in photos}
    names = list(photos)
    sets = {
        part: PhotoSet({name: photos[name] for name in part_names}, {name: written[name] for name in part_names})
        for part, part_names in (("first", names[:8]), ("second", names[8:]))
    }
    phrases = {"abstain": [Take(NOISE)], "hedge": [Take(NOISE[:6_000])]}
    options = CalibrationOptions(components=3)
    before = {path: path.read_bytes() for path in tiny_bundle.iterdir()}
    config, report = calibrate(tiny_bundle, sets, list(photos.values()), phrases, out, evaluation, options)
    assert {path: path.read_bytes() for path in tiny_bundle.iterdir()} == before
    again, _ = calibrate(tiny_bundle, sets, list(photos.values()), phrases, out, evaluation, options)
    assert again == config
    return config, report, out


def test_report_has_every_set_and_search(calibrated: Calibrated) -> None:
    config, report, out = calibrated
    assert json.loads((out / "calibration.json").read_text())["thresholds"] == report["thresholds"]
    sets = ("first", "second", "out_of_distribution")
    assert set(report["figures"]) == {"all", *(f"{search}/{name}" for search in ("greedy", "beam") for name in sets)}
    assert report["figures"]["beam/first"]["correct"] == 0.5
    assert report["figures"]["beam/out_of_distribution"]["correct"] == 0
    assert set(config.weights) == set(SIGNALS)
    assert report["phrases"]["abstain"]["text"] is None
    assert config.abstain_units == report["phrases"]["abstain"]["units"]
    assert config.hedge_units == report["phrases"]["hedge"]["units"]
    assert (
        config.hedge_threshold == report["thresholds"]["hedge"] >= config.threshold == report["thresholds"]["abstain"]
    )
    assert parse(json.dumps(report["confidence"]).encode(), ConfidenceConfig) == config


def test_phrases_that_cannot_be_spoken(tiny_bundle: Path, tmp_path: Path) -> None:
    captioner = Captioner(Bundle.load(tiny_bundle), threads=1)
    recogniser = open_recogniser(str(write_tiny_ctc(tmp_path / "ctc")))
    with pytest.raises(Im2SpError, match="more than 10 s"):
        best_take(captioner, [Take(np.zeros(200_000, dtype=np.float32))], recogniser)
    best = best_take(captioner, [Take(NOISE, "what nobody hears"), Take(NOISE)], recogniser)
    assert best["text"] is None  # whose errors are not known
    assert len(best["units"]) == len(best["durations"])


@pytest.mark.parametrize("options", [{"precision": 1.0}, {"components": 0}, {"abstain_below": -0.1}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(Im2SpError, match="calibration"):
        CalibrationOptions(**options)
