"""A bundle and photos with references in; the bundle's confidence and calibration.json out.

The confidence is a logistic regression over signals of a caption (`im2sp.confidence`), fitted to captions of several
sets of photos and of pictures that no caption fits, spoken with greedy and with beam search. Its figures are
cross-validated over photos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from im2sp.arrays import FloatArray
from im2sp.bundle import Bundle, ConfidenceConfig, PPCAConfig, Signal
from im2sp.captioner import Captioner
from im2sp.confidence import PPCADensity, pool
from im2sp.errors import Im2SpError
from im2sp.files import atomic_write
from im2sp.installing import require_extra
from im2sp.train.evaluate.chair import ObjectLabels
from im2sp.train.evaluate.correctness import RULE, CorrectnessRule
from im2sp.train.evaluate.evaluation import (
    EvaluationOptions,
    TranscribedCaption,
    decoding_of,
    describe_conditions,
    speak_and_transcribe,
    write_json,
)
from im2sp.train.evaluate.ood_pictures import ood_pictures
from im2sp.train.evaluate.photo_sets import PhotoSet
from im2sp.train.evaluate.phrases import Take, best_take
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.evaluate.reliability import Doubles, Flags, measure

Key = tuple[str, str]  # search, set of photos

REPORT = "calibration.json"
OOD = "out_of_distribution"  # name of the set of `ood_pictures`
SIGNALS: dict[Signal, Callable[[TranscribedCaption, float], float]] = {  # of a caption and an OOD score
    "score": lambda caption, ood_score: caption.score,
    "length": lambda caption, ood_score: math.log(caption.tokens),
    "ood_score": lambda caption, ood_score: ood_score,
}  # the columns of every table of signals here
BEAM = 3  # of the second search where the bundle's own is greedy
_INVERSE_RIDGE = 10.0  # of the regression: next to no regularisation
_FOLDS = 5  # of the cross-validation
_HELD_OUT = 4  # every fourth training photo sets the threshold of the density
_QUANTILE = 0.99  # of these are nearer than the threshold
_DIGITS = 5  # significant ones in the config


@dataclass(frozen=True)
class CalibrationOptions:
    """How a bundle is calibrated."""

    precision: float = 0.8  # share of correct captions among those that are spoken without a hedge
    abstain_below: float = 0.1  # confidence
    components: int = 16  # of the density of training photos
    seed: int = 0  # of the folds

    def __post_init__(self) -> None:
        if not (0 < self.precision < 1 and 0 <= self.abstain_below < 1 and self.components >= 1):
            raise Im2SpError("calibration: precision and abstain_below are shares, and there is at least one component")


@dataclass(frozen=True)
class Captioned:
    """Captions of one set of photos by one search, with what decides their confidence."""

    photos: list[str]
    signals: Doubles  # float64 [n, SIGNALS]
    correct: Flags  # bool [n]


def calibrate(
    bundle_dir: Path,
    sets: Mapping[str, PhotoSet],
    train: Sequence[Path],
    phrases: Mapping[str, Sequence[Take]],
    out: Path,
    evaluation: EvaluationOptions | None = None,
    options: CalibrationOptions | None = None,
    labels: ObjectLabels | None = None,
) -> tuple[ConfidenceConfig, dict[str, Any]]:
    """Fit the confidence of a bundle; write `out`/calibration.json. The bundle is not changed.

    Captions that `evaluate` spoke and transcribed into `out` are used again. Safe to stop and run again.

    Args:
        sets: photos with references that the model did not learn from, by the names of the sets.
        train: photos that it learned from, in random order, a few hundred.
        phrases: ways to speak "abstain" and, if there is one, "hedge"; the one that is understood best is taken.
        labels: true objects of the photos.

    Returns:
        The part of the bundle's config, and the report.

    Raises:
        Im2SpError: bundle, photos or recogniser are missing, the bundle has no speech encoder, or all captions are
            correct, or none is.
    """
    evaluation, options = evaluation or EvaluationOptions(), options or CalibrationOptions()
    captioner = Captioner(Bundle.load(bundle_dir), threads=evaluation.threads)
    recogniser = open_recogniser(evaluation.recogniser, threads=evaluation.threads)
    spoken = {name: best_take(captioner, takes, recogniser) for name, takes in phrases.items()}
    density = fit_density(
        _pooled(captioner, {str(path): path for path in train}, out / "train.npz"), options.components
    )
    captioned: dict[Key, Captioned] = {}
    for search, beam in (("greedy", 1), ("beam", max(captioner.default_options.beam, BEAM))):
        decoding = decoding_of(captioner, replace(evaluation, decoding=(*evaluation.decoding, ("beam", beam))))
        for name, data in sets.items():
            heard, _ = speak_and_transcribe(captioner, data.photos, out, recogniser, decoding)
            pooled = _pooled(captioner, {photo: data.photos[photo] for photo in heard}, out / f"{name}.npz")
            rule = CorrectnessRule(data.references, labels)
            correct = np.array([rule.is_correct(caption.text, photo) for photo, caption in heard.items()])
            captioned[search, name] = Captioned(list(heard), signal_table(heard.values(), pooled, density), correct)
        captioned[search, OOD] = _caption_ood_pictures(captioner, density, decoding)
    figures, thresholds, weights, intercept = _fit_and_test(captioned, options)
    config = _config(density, thresholds, weights, intercept, spoken)
    report = describe_conditions(captioner.bundle, recogniser, evaluation) | {
        "rule": RULE,
        "options": asdict(options),
        "sets": {name: len(data.photos) for name, data in sets.items()},
        "thresholds": thresholds,
        "figures": figures,
        "phrases": spoken,
        "confidence": msgspec.to_builtins(config),
    }
    write_json(out / REPORT, report)
    return config, report


def signal_table(captions: Iterable[TranscribedCaption], pooled: FloatArray, density: PPCAConfig) -> Doubles:
    """Compute the signals of captions of photos (pooled float32 [n, width]): float64 [n, SIGNALS]."""
    fitted = PPCADensity(density)
    rows = [
        [signal(caption, fitted.ood_score(photo)) for signal in SIGNALS.values()]
        for caption, photo in zip(captions, pooled, strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def fit_density(pooled: FloatArray, components: int) -> PPCAConfig:
    """Fit probabilistic PCA to pooled training photos float32 [n, width] (`im2sp.confidence.pool`), in random order.

    Raises Im2SpError for too few photos.
    """
    held_out, seen = pooled[::_HELD_OUT], np.delete(pooled, np.s_[::_HELD_OUT], axis=0).astype(np.float64)
    width = pooled.shape[1]
    components = min(components, len(seen) - 2, width - 1)
    if components < 1:
        raise Im2SpError(f"{len(pooled)} training photos are too few for a density: give more")
    mean = seen.mean(axis=0)
    _, singular, axes = np.linalg.svd(seen - mean, full_matrices=False)
    variances = singular**2 / (len(seen) - 1)
    noise = variances[components:].sum() / (width - components)
    least = 1e-6 * max(1e-6, float(variances[0]))  # equal photos must not make a deviation of 0
    density = PPCAConfig(
        mean=_rounded(mean),
        components=[_rounded(axis) for axis in axes[:components]],
        deviations=_rounded(np.sqrt(np.maximum(least, variances[:components]))),
        noise=_rounded([math.sqrt(max(least, float(noise)))])[0],
        ood_threshold=0.0,
    )
    threshold = float(np.quantile(PPCADensity(density).distances(held_out), _QUANTILE))
    return msgspec.structs.replace(density, ood_threshold=_rounded([threshold])[0])


def fit_regression(signals: Doubles, correct: Flags) -> tuple[dict[Signal, float], float]:
    """Fit weights and intercept of the logistic regression to float64 [n, SIGNALS] and bool [n].

    Raises Im2SpError unless some captions are correct and some are not.
    """
    with require_extra("train"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    if correct.all() or not correct.any():
        found = "all" if correct.all() else "none"
        raise Im2SpError(f"{found} of {len(correct)} captions are correct, so no confidence can be fitted: give others")
    scaler = StandardScaler().fit(signals)
    model = LogisticRegression(C=_INVERSE_RIDGE, max_iter=1_000).fit(scaler.transform(signals), correct)
    weights = model.coef_[0] / scaler.scale_
    intercept = model.intercept_[0] - float(weights @ scaler.mean_)
    return dict(zip(SIGNALS, _rounded(weights), strict=True)), _rounded([intercept])[0]


def probabilities(weights: Mapping[Signal, float], intercept: float, signals: Doubles) -> Doubles:
    """Compute confidences float64 [n] of float64 [n, SIGNALS], as `im2sp.confidence.logistic`."""
    log_odds = intercept + signals @ np.array([weights[name] for name in SIGNALS])
    confidences: Doubles = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
    return confidences


def threshold_for_precision(confidences: Doubles, correct: Flags, precision: float) -> float:
    """Find the lowest confidence from which on at least this share of captions is correct; 1 where there is none."""
    order = np.argsort(-confidences, kind="stable")
    shares = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= precision)
    return math.floor(float(confidences[order[enough[-1]]]) * 1_000) / 1_000 if len(enough) else 1.0


def answers(confidences: Doubles, correct: Flags, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Count the three answers: share of all captions, and the share of correct ones among them."""
    plain, silent = confidences >= thresholds["hedge"], confidences < thresholds["abstain"]
    found = {}
    for name, inside in (("plain", plain), ("hedged", ~plain & ~silent), ("abstained", silent & ~plain)):
        found[name] = {
            "share": float(inside.mean()),
            "correct": float(correct[inside].mean()) if inside.any() else None,
        }
    return found


def _config(
    density: PPCAConfig,
    thresholds: Mapping[str, float],
    weights: dict[Signal, float],
    intercept: float,
    phrases: Mapping[str, Mapping[str, Any]],
) -> ConfidenceConfig:
    hedge: dict[str, Any] = {}
    if "hedge" in phrases:
        hedge = {"hedge_threshold": thresholds["hedge"]}
        hedge |= {f"hedge_{name}": phrases["hedge"][name] for name in ("units", "durations")}
    return ConfidenceConfig(
        intercept=intercept,
        weights=weights,
        density=density,
        threshold=thresholds["abstain"],
        abstain_units=phrases["abstain"]["units"],
        abstain_durations=phrases["abstain"]["durations"],
        **hedge,
    )


def _fit_and_test(
    captioned: Mapping[Key, Captioned], options: CalibrationOptions
) -> tuple[dict[str, Any], dict[str, float], dict[Signal, float], float]:
    """Fit to all captions: (cross-validated figures by search and set, thresholds, weights, intercept)."""
    signals = np.concatenate([one.signals for one in captioned.values()])
    correct = np.concatenate([one.correct for one in captioned.values()])
    keys = [key for key, one in captioned.items() for _ in one.photos]
    photos = [f"{key[1]}/{photo}" for key, one in captioned.items() for photo in one.photos]
    weights, intercept = fit_regression(signals, correct)
    tested = _cross_validated(signals, correct, photos, options.seed)
    thresholds = {
        "hedge": max(options.abstain_below, threshold_for_precision(tested, correct, options.precision)),
        "abstain": options.abstain_below,
    }
    figures = {"all": measure(tested, correct, options.seed) | {"answers": answers(tested, correct, thresholds)}}
    for search, name in captioned:
        inside = np.array([key == (search, name) for key in keys])
        figures[f"{search}/{name}"] = measure(tested[inside], correct[inside], options.seed) | {
            "answers": answers(tested[inside], correct[inside], thresholds)
        }
    return figures, thresholds, weights, intercept


def _cross_validated(signals: Doubles, correct: Flags, photos: Sequence[str], seed: int) -> Doubles:
    """Confidences of captions, by regressions that were fitted to captions of other photos."""
    from sklearn.model_selection import StratifiedGroupKFold

    found = np.zeros(len(correct))
    folds = min(_FOLDS, len(set(photos)), int(correct.sum()), int((~correct).sum()))
    if folds < 2:
        raise Im2SpError("one correct or one wrong caption is too few to calibrate a bundle: give more photos")
    for fit, test in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(signals, correct, photos):
        found[test] = probabilities(*fit_regression(signals[fit], correct[fit]), signals[test])
    return found


def _caption_ood_pictures(captioner: Captioner, density: PPCAConfig, decoding: Any) -> Captioned:
    pictures, captions, pooled = ood_pictures(), [], []
    for name, picture in pictures.items():
        prefix = captioner.encode(picture)
        result = captioner.decode(prefix, decoding)
        captions.append(TranscribedCaption(name, "", result.score, len(result.tokens), 0.0, None))
        pooled.append(pool(prefix))
    wrong = np.zeros(len(pictures), dtype=np.bool_)
    return Captioned(list(pictures), signal_table(captions, np.array(pooled), density), wrong)


def _pooled(captioner: Captioner, photos: Mapping[str, Path], cache: Path) -> npt.NDArray[np.float32]:
    """Pool the image prefixes of photos: float32 [n, width]; kept in `cache` for the same photos and bundle."""
    graph = "image_tokenizer.onnx" if captioner.bundle.config.image_units else "image_encoder.onnx"
    key = np.array([captioner.bundle.checksums[graph], *photos])
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as file:
            if np.array_equal(file["key"], key):
                return np.asarray(file["pooled"])
    pooled = np.array([pool(captioner.encode(path)) for path in photos.values()], dtype=np.float32)
    with atomic_write(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, key=key, pooled=pooled)
    return pooled


def _rounded(values: Iterable[float] | Doubles) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
