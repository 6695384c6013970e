"""Stage `calibrate`: an evaluated bundle in; the same bundle with a confidence, and calibration.json, out."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from im2sp.arrays import FloatArray
from im2sp.bundle import Bundle, ConfidenceConfig, PPCAConfig, Signal
from im2sp.captioner import Captioner
from im2sp.checksums import CHECKSUMS
from im2sp.confidence import PPCADensity, Signals, pool
from im2sp.errors import Im2SpError
from im2sp.files import replace_whole, sha256_of
from im2sp.image.loading import ImageSource
from im2sp.train.data.off_domain import FITTED, TESTED, pictures
from im2sp.train.evaluate.asr import SpeechRecogniser
from im2sp.train.evaluate.calibration import (
    BINS,
    SIGNALS,
    Doubles,
    Flags,
    Judge,
    calibration_error,
    fit_density,
    fit_regression,
    halves,
    measure,
    probabilities,
    reliability,
    threshold_for,
)
from im2sp.train.evaluate.photo_sets import PhotoSet
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.evaluate.report import EvaluationOptions, chosen, fingerprint, speak_and_hear, versions
from im2sp.train.export import set_confidence
from im2sp.train.stages.unsure_sentence import Take, best_take

log = logging.getLogger(__name__)

REPORT = "calibration.json"
RULE = (
    "a caption is right when at least a third of what is heard, each word weighing log(photos / photos with it in "
    "their references), occurs in the references of its photo"
)
_LOG_EVERY = 50  # photos


@dataclass(frozen=True)
class CalibrationOptions:
    """How a bundle is calibrated."""

    sentences: tuple[str, ...] = (  # for what is not sure: the one that is understood best as units is taken
        "I am not sure what this shows.",
        "I am not sure what is in this picture.",
        "I cannot see what this picture shows.",
    )
    withheld: float = 0.03  # share of photos that the recommended threshold withholds
    train_photos: int = 800  # drawn by the seed, for the density
    directions: int = 16  # in which they differ
    seed: int = 0  # of halves, draws and off-domain pictures

    def __post_init__(self) -> None:
        sizes = (len(self.sentences), self.train_photos, self.directions)
        if not 0 < self.withheld < 1 or min(sizes) < 1:
            raise Im2SpError("[confidence]: withheld is a share between 0 and 1, and there is at least one of all else")


def calibrate(
    bundle_dir: Path,
    data: PhotoSet,
    train: list[Path],
    takes: Sequence[Take],
    out_dir: Path,
    evaluation: EvaluationOptions,
    options: CalibrationOptions | None = None,
) -> dict[str, Any]:
    """Fit the confidence of a bundle to photos and write it into the bundle.

    It is tested on photos that it was not fitted to: fitted to one half of them and tested on the other, and the
    other way round. What goes into the bundle is fitted to both. What `evaluate` spoke and heard under `out_dir` is
    used, or made. Signals are kept there, too. Safe to stop and run again.

    Args:
        data: photos with references.
        train: photos that the model was trained on.
        takes: ways to say "I am not sure what this shows" in the bundle's voice (`unsure_sentence`).

    Returns:
        The report, also in `out_dir`/calibration.json.

    Raises:
        Im2SpError: bundle, data or recogniser are missing, the bundle has no speech encoder, or no caption is right.
    """
    options = options or CalibrationOptions()
    evaluation = replace(evaluation, decoding=())  # the recommended one is what is calibrated
    bundle = Bundle.load(bundle_dir)
    captioner = Captioner(bundle, threads=evaluation.threads)
    work = out_dir / fingerprint(bundle, msgspec.structs.asdict(bundle.config.decoding))
    recogniser = open_recogniser(evaluation.recogniser, threads=evaluation.threads)
    unsure = best_take(captioner, takes, recogniser)
    photos = {image: data.photos[image] for image in chosen(data, evaluation)}
    heard, _, unspoken = speak_and_hear(bundle_dir, photos, work, recogniser, evaluation)
    if len(heard) < 4:
        raise Im2SpError(f"{len(heard)} photos could be spoken about, which is too few to calibrate a bundle")

    density, tables, signals = _all_signals(captioner, {i: photos[i] for i in heard}, train, work / "signals", options)
    judge = Judge({image: data.references[image] for image in photos})
    right = np.array([judge.is_right(text, image) for image, text in heard.items()])
    tested, shares = _cross_test(signals, right, options)
    config, sure = _confidence(density, signals, right, unsure, options)
    shares |= _withheld(sure, config.threshold)
    calibrated = set_confidence(bundle_dir, config, _quality(tested, shares))
    report = _conditions(calibrated, recogniser, evaluation, options) | {
        "rule": RULE,
        "right_by_that_rule": {
            "captions": float(right.mean()),
            "human_captions": judge.human_rate(data.references),
            "captions_of_other_photos": judge.chance_rate(heard, options.seed),
        },
        "unspoken": unspoken,
        "weights": config.weights,
        "intercept": config.intercept,
        "far": density.ood_threshold,
        "threshold": config.threshold,
        "bins": BINS,
        "tested": tested,
        "withheld": shares,
        "off_domain": _by_kind(tables["tested"], sure["tested"], config.threshold),
        "unsure_sentence": unsure,
    }
    with replace_whole(out_dir / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _conditions(
    calibrated: Bundle, recogniser: SpeechRecogniser, evaluation: EvaluationOptions, options: CalibrationOptions
) -> dict[str, Any]:
    """What the report tells of who was calibrated, and by what."""
    return {
        "bundle": {
            "name": calibrated.config.name,
            "version": calibrated.config.version,
            "sha256": sha256_of(calibrated.folder / CHECKSUMS),
        },
        "split": evaluation.split,
        "options": asdict(options),
        "recogniser": asdict(recogniser.info),
        "command": evaluation.command,
        "versions": versions(),
    }


def _all_signals(
    captioner: Captioner, photos: Mapping[str, Path], train: list[Path], kept: Path, options: CalibrationOptions
) -> tuple[PPCAConfig, dict[str, Table], dict[str, Doubles]]:
    """Density of the training photos, and tables and signals of the photos and of both sets of off-domain pictures."""
    drawn = random.Random(options.seed).sample(train, min(options.train_photos, len(train)))
    pooled = _pooled_photos(captioner, drawn, kept / f"train-{options.seed}-{len(drawn)}.npz")
    density = fit_density(pooled, options.directions)
    tables = {
        "dev": _of_photos(captioner, photos, kept / "photos.npz"),
        "fitted": _measured(captioner, pictures(FITTED, options.seed)),
        "tested": _measured(captioner, pictures(TESTED, options.seed)),
    }
    return density, tables, {name: _signals(table, PPCADensity(density)) for name, table in tables.items()}


def _fit(signals: Doubles, right: Flags, off_domain: Doubles) -> tuple[dict[Signal, float], float]:
    """Nothing that is said about an off-domain picture is right."""
    never = np.zeros(len(off_domain), dtype=np.bool_)
    return fit_regression(np.concatenate([signals, off_domain]), np.concatenate([right, never]))


def _cross_test(
    signals: Mapping[str, Doubles], right: Flags, options: CalibrationOptions
) -> tuple[dict[str, Any], dict[str, float]]:
    """Each half of the photos, by what was fitted to the other: (figures, shares that are withheld)."""
    confidences = np.zeros(len(right))
    withheld = np.zeros(len(right), dtype=np.bool_)
    off_domain, errors = [], []
    first, second = halves(right, options.seed)
    for fit, test in ((first, second), (second, first)):
        weights, intercept = _fit(signals["dev"][fit], right[fit], signals["fitted"])
        threshold = threshold_for(probabilities(weights, intercept, signals["dev"][fit]), options.withheld)
        confidences[test] = probabilities(weights, intercept, signals["dev"][test])
        withheld[test] = confidences[test] < threshold
        off_domain.append(float((probabilities(weights, intercept, signals["tested"]) < threshold).mean()))
        errors.append(calibration_error(reliability(confidences[test], right[test])))
    figures = measure(confidences, right, options.seed) | {"expected_calibration_error_of_each_half": errors}
    return figures, {
        "photos_of_the_other_half": float(withheld.mean()),
        "off_domain_by_each_half": float(np.mean(off_domain)),
    }


def _confidence(
    density: PPCAConfig,
    signals: Mapping[str, Doubles],
    right: Flags,
    unsure: Mapping[str, Any],
    options: CalibrationOptions,
) -> tuple[ConfidenceConfig, dict[str, Doubles]]:
    """Fitted to all photos: what goes into the bundle, and how sure it is of the pictures of each table."""
    weights, intercept = _fit(signals["dev"], right, signals["fitted"])
    sure = {name: probabilities(weights, intercept, values) for name, values in signals.items()}
    config = ConfidenceConfig(
        intercept=intercept,
        weights=weights,
        density=density,
        threshold=threshold_for(sure["dev"], options.withheld),
        abstain_units=unsure["units"],
        abstain_durations=unsure["durations"],
    )
    return config, sure


def _withheld(sure: Mapping[str, Doubles], threshold: float) -> dict[str, float]:
    """Shares of all photos and of both sets of off-domain pictures that the bundle is too unsure of."""
    tables = {"photos": "dev", "off_domain": "tested", "off_domain_fitted_to": "fitted"}
    return {share: float((sure[name] < threshold).mean()) for share, name in tables.items()}


def _quality(tested: Mapping[str, Any], shares: Mapping[str, float]) -> dict[str, str | int | float]:
    """The figures that go into the bundle."""
    return {
        "expected_calibration_error": round(tested["expected_calibration_error"], 3),
        "withheld_photos_at_threshold_percent": round(100 * shares["photos_of_the_other_half"], 1),
        "withheld_off_domain_at_threshold_percent": round(100 * shares["off_domain"], 1),
    }


Table = dict[str, np.ndarray]  # names, score, length and pooled, a row for each picture


def _measured(captioner: Captioner, named: Iterable[tuple[str, ImageSource]]) -> Table:
    names, found = [], []
    for name, image in named:
        prefix = captioner.encode(image)
        found.append(Signals.of(prefix, captioner.decode(prefix)))
        names.append(name)
        if len(found) % _LOG_EVERY == 0:
            log.info("signals of %d pictures", len(found))
    rows = [asdict(one) for one in found]
    return {"names": np.array(names)} | {key: np.array([row[key] for row in rows]) for key in rows[0]}


def _of_photos(captioner: Captioner, photos: Mapping[str, Path], kept: Path) -> Table:
    table = _kept(kept, lambda: _measured(captioner, photos.items()))
    if table["names"].tolist() != list(photos):  # of another choice of photos
        kept.unlink()
        table = _kept(kept, lambda: _measured(captioner, photos.items()))
    return table


def _pooled_photos(captioner: Captioner, photos: list[Path], kept: Path) -> FloatArray:
    def measured() -> Table:
        return {"pooled": np.array([pool(captioner.encode(photo)) for photo in photos])}

    pooled: FloatArray = _kept(kept, measured)["pooled"]
    return pooled


def _kept(path: Path, make: Callable[[], Table]) -> Table:
    if not path.is_file():
        table = make()
        with replace_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **table)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _signals(table: Table, density: PPCADensity) -> Doubles:
    """float64 [n, SIGNALS]."""
    rows = zip(table["score"], table["length"], table["pooled"], strict=True)
    values = (Signals(float(score), float(length), pooled).values(density) for score, length, pooled in rows)
    return np.array([[row[name] for name in SIGNALS] for row in values])


def _by_kind(table: Table, confidences: Doubles, threshold: float) -> dict[str, dict[str, float]]:
    kinds = np.array([name.rpartition("-")[0] for name in table["names"].tolist()])
    found = {}
    for kind in dict.fromkeys(kinds.tolist()):
        inside: Flags = kinds == kind
        found[kind] = {
            "pictures": int(inside.sum()),
            "withheld": int((confidences[inside] < threshold).sum()),
            "mean_confidence": float(confidences[inside].mean()),
        }
    return found
