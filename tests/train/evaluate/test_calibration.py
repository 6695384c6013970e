"""Calibration: what counts as right, the regression, and the figures, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from im2sp.confidence import PPCADensity, logistic
from im2sp.errors import Im2SpError
from im2sp.train.evaluate.calibration import (
    SIGNALS,
    Judge,
    calibration_error,
    error_by_chance,
    fit_density,
    fit_regression,
    halves,
    measure,
    probabilities,
    reliability,
    risk_coverage,
    threshold_for,
)

REFERENCES = {
    "one": ["A dog runs.", "The brown dog"],
    "two": ["a cat", "a cat sleeps"],
    "three": ["A man runs"],
    "four": ["a red car"],
}


def test_words_weigh_by_how_rare_they_are() -> None:
    judge = Judge(REFERENCES)
    rare, common = math.log(4), math.log(4 / 2)  # "dog" is written about one photo of four, "runs" about two
    assert judge.share("A dog runs.", "one") == 1  # "a" is written about all: it weighs nothing
    assert judge.share("a cat runs, runs", "one") == pytest.approx(common / (common + rare))
    assert judge.share("a dog blargs", "one") == pytest.approx(rare / (rare + rare))  # what nobody wrote weighs most
    assert judge.share("", "one") == judge.share("a", "one") == 0
    assert judge.is_right("a cat runs", "one")  # exactly a third
    assert not judge.is_right("a cat runs far", "one")


def test_what_people_and_chance_would_get() -> None:
    judge = Judge(REFERENCES)
    assert judge.human_rate(REFERENCES) == 1  # one: "dog" outweighs "runs"; two: "cat" is all it says
    heard = {image: texts[0] for image, texts in REFERENCES.items()}
    assert judge.chance_rate(heard, 0) == judge.chance_rate(heard, 0) <= 1


def test_the_regression_finds_the_odds_that_made_the_labels() -> None:
    random = np.random.default_rng(0)
    signals = random.normal(size=(20_000, len(SIGNALS))) * [0.2, 0.5, 1.0] + [-1.3, 3.0, 0.5]
    wanted = np.array([4.0, -1.0, -0.5])
    right = random.random(20_000) < 1 / (1 + np.exp(-(signals @ wanted + 8.0)))
    weights, intercept = fit_regression(signals, right)
    np.testing.assert_allclose([weights[name] for name in SIGNALS], wanted, rtol=0.15)
    sure = probabilities(weights, intercept, signals[:5])
    for row, probability in zip(signals, sure, strict=False):
        values = dict(zip(SIGNALS, row.tolist(), strict=True))
        assert logistic(weights, intercept, values) == pytest.approx(float(probability))
    assert calibration_error(reliability(probabilities(weights, intercept, signals), right)) < 0.02


@pytest.mark.parametrize("right", [True, False])
def test_nothing_to_tell_apart(right: bool) -> None:
    with pytest.raises(Im2SpError, match=f"^{'all' if right else 'none'} of the 3 captions"):
        fit_regression(np.zeros((3, len(SIGNALS))), np.full(3, right))


def test_halves_are_alike() -> None:
    right = np.arange(100) < 30
    first, second = halves(right, 1)
    assert sorted([*first, *second]) == list(range(100))
    assert right[first].sum() == right[second].sum() == 15
    assert halves(right, 1)[0].tolist() == first.tolist() != halves(right, 2)[0].tolist()


def test_perfect_confidences_show_an_error_by_chance() -> None:
    few, many = np.full(50, 0.5), np.full(5_000, 0.5)
    assert error_by_chance(few, 0) == pytest.approx(0.8 * 0.5 / 50**0.5, rel=0.2)  # mean deviation of a share
    assert error_by_chance(many, 0) < 0.01
    assert error_by_chance(np.array([0.0, 1.0]), 0) == 0


def test_bins_and_error() -> None:
    confidences = np.array([0.0, 0.05, 0.55, 0.55, 1.0])
    right = np.array([False, True, True, True, True])
    bins = reliability(confidences, right)
    assert [(one.low, one.high, one.captions, one.right) for one in bins] == [
        (0.0, 0.1, 2, 0.5),
        (0.5, 0.6, 2, 1.0),
        (0.9, 1.0, 1, 1.0),
    ]
    assert calibration_error(bins) == pytest.approx((2 * (0.5 - 0.025) + 2 * 0.45 + 0) / 5)


def test_risk_and_coverage() -> None:
    points = risk_coverage(np.array([0.9, 0.1, 0.8, 0.4]), np.array([True, False, True, False]))
    assert points == [(0.25, 0.0), (0.5, 0.0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]
    assert len(risk_coverage(np.linspace(0, 1, 1_000), np.ones(1_000, dtype=bool))) == 50


def test_a_threshold_withholds_no_more_than_it_may() -> None:
    confidences = np.random.default_rng(0).random(500)
    threshold = threshold_for(confidences, 0.03)
    assert 0.02 < (confidences < threshold).mean() <= 0.03
    assert threshold_for(np.full(10, 0.4567), 0.03) == 0.456


def test_figures_of_captions_that_are_all_right() -> None:
    figures = measure(np.array([0.5, 0.7]), np.array([True, True]))
    assert figures["area_under_roc"] is None
    assert figures["brier_score"] == pytest.approx((0.25 + 0.09) / 2)


def test_density_of_training_photos() -> None:
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(24, 24)))[0]
    deviations = np.array([5.0, 3.0, *[0.1] * 22])
    photos = ((random.normal(size=(600, 24)) * deviations) @ axes + 2).astype(np.float32)
    config = fit_density(photos, 2)
    np.testing.assert_allclose(config.deviations, [5, 3], rtol=0.15)
    assert config.noise == pytest.approx(0.1, rel=0.1)
    distances = PPCADensity(config).distances(photos)
    assert abs(distances.mean()) < 0.15
    assert (distances > config.ood_threshold).mean() < 0.03
    assert (
        PPCADensity(config).distances(photos + np.float32(1) * axes[10].astype(np.float32)) > config.ood_threshold
    ).mean() > 0.9
    with pytest.raises(Im2SpError, match="2 training photos"):
        fit_density(photos[:2], 2)


def test_photos_that_are_all_alike_are_familiar() -> None:
    config = fit_density(np.ones((8, 16), dtype=np.float32), 4)
    assert PPCADensity(config).distances(np.ones((1, 16), dtype=np.float32))[0] <= config.ood_threshold
