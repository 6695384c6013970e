"""A bundle and photos of which something is known in; the bundle's confidence, in its config, and a report out.

The confidence is a product (`im2sp.confidence`). One logistic regression tells right captions from wrong ones; it is
fitted to captions of several sets of photos by greedy and by beam search. Another one tells photos from pictures that
no caption fits. All figures are cross-validated over photos. Nothing is spoken: the words of a caption are read from
its tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import Bundle, ConfidenceConfig, PCAConfig, Signal
from im2sp.captioner import Captioner
from im2sp.confidence import PrincipalComponents, pool, signals
from im2sp.errors import Im2SpError
from im2sp.image.loading import ImageSource
from im2sp.train.evaluate.chair import ObjectLabels
from im2sp.train.evaluate.confidence_model import (
    Regression,
    Table,
    fit_cross_validated,
    fit_pca,
    rounded,
    threshold_for_precision,
)
from im2sp.train.evaluate.correctness import RULE, CorrectnessRule
from im2sp.train.evaluate.ood_pictures import ood_pictures
from im2sp.train.evaluate.photo_sets import PhotoSet
from im2sp.train.evaluate.reliability import Doubles, answers, measure
from im2sp.train.export import set_confidence

OOD = "out_of_distribution"  # name of the set of `ood_pictures`
SIGNALS: tuple[Signal, ...] = ("score", "lowest", "length", "named", "evidence")
BEAM = 3  # of the second search where the bundle's own is greedy
_STEP = 0.005  # of the precision
_OOD_WITHHELD = 0.98  # share of what is no photo
_DRAWN = 16  # pictures of each kind that no caption fits


@dataclass(frozen=True)
class CalibrationOptions:
    """How a bundle is calibrated."""

    precision: float = 0.8  # share of correct captions among those that are spoken without a hedge
    least_precision: float = 0.65  # how far it may fall for the sake of `plain`
    plain: float = 0.5  # share of captions that are spoken without a hedge
    abstain_below: float = 0.1  # confidence
    withheld: float = 0.05  # share of captions of photos that may be withheld beyond that, with what is no photo
    components: int = 64  # principal ones of training photos
    seed: int = 0  # of the folds

    def __post_init__(self) -> None:
        shares = (self.precision, self.least_precision, self.plain, self.abstain_below, self.withheld)
        if not all(0 <= share < 1 for share in shares) or self.components < 1:
            raise Im2SpError("calibration: give shares from 0 to below 1, and at least one component")


@dataclass(frozen=True)
class SpokenPhrase:
    """A phrase in units, and what a recogniser understands of it."""

    text: str
    units: list[int]  # repeats removed
    durations: list[int]  # frames of 20 ms
    heard: str
    word_error_rate: float  # per cent


@dataclass(frozen=True)
class _Picture:
    """What is known of a picture without a caption."""

    photo: str  # with the name of its set
    pooled: FloatArray  # float32 [width]


@dataclass(frozen=True)
class _Caption:
    """A caption by one of the searches."""

    search: str
    part: str  # name of the set
    picture: _Picture
    signals: dict[Signal, float]
    correct: bool


def calibrate(
    bundle_dir: Path,
    sets: Mapping[str, PhotoSet],
    train: Sequence[Path],
    words_of: Callable[[IntArray], str],
    phrases: Mapping[str, SpokenPhrase],
    labels: ObjectLabels | None,
    options: CalibrationOptions,
    threads: int = 1,
) -> dict[str, Any]:
    """Fit the confidence of a bundle and write it into its config, and its figures into its model card.

    Args:
        sets: photos that the model did not learn from, by the names of the sets.
        train: photos that it learned from, in random order, a few hundred.
        words_of: tokens of a caption, int64 [T] -> its text.
        phrases: "abstain" and "hedge".
        labels: true objects of the photos.

    Returns:
        The report: figures by search and set, thresholds, and what is in the config.

    Raises:
        Im2SpError: a photo cannot be read, all captions are correct, or none is.
    """
    captioner = Captioner(Bundle.load(bundle_dir), threads=threads)
    pca = fit_pca(np.array([pool(captioner.encode(photo)) for photo in train]), options.components)
    captions = list(_captions(captioner, sets, words_of, labels))
    table, pictures = _captions_table(captions), _pictures_table(captions, pca)
    right, right_tested = fit_cross_validated(table, options.seed)
    photo, photo_tested = fit_cross_validated(pictures, options.seed)
    of_picture = dict(zip(pictures.photos, photo_tested.tolist(), strict=True))
    tested = right_tested * np.array([of_picture[name] for name in table.photos])
    thresholds = _thresholds(tested, table, options)
    config = _config((right, photo), pca, thresholds, phrases)
    figures = _figures(captions, tested, thresholds)
    set_confidence(bundle_dir, config, _card_figures(figures))
    return {
        "rule": RULE,
        "options": asdict(options),
        "thresholds": thresholds,
        "weights": config.weights,
        "phrases": {name: asdict(phrase) for name, phrase in phrases.items()},
        "figures": figures,
    }


def _config(
    models: tuple[Regression, Regression],
    pca: PCAConfig,
    thresholds: Mapping[str, float],
    phrases: Mapping[str, SpokenPhrase],
) -> ConfidenceConfig:
    """What goes into the bundle. `models`: of right captions, and of what is a photo."""
    right, photo = models
    return ConfidenceConfig(
        intercept=rounded([right.intercept])[0],
        weights=dict(zip(SIGNALS, rounded(right.weights), strict=True)),
        photo_intercept=rounded([photo.intercept])[0],
        photo_weights=rounded(photo.weights),
        pca=pca,
        threshold=thresholds["abstain"],
        abstain_units=phrases["abstain"].units,
        abstain_durations=phrases["abstain"].durations,
        hedge_threshold=thresholds["hedge"],
        hedge_units=phrases["hedge"].units,
        hedge_durations=phrases["hedge"].durations,
    )


def _captions(
    captioner: Captioner,
    sets: Mapping[str, PhotoSet],
    words_of: Callable[[IntArray], str],
    labels: ObjectLabels | None,
) -> Iterator[_Caption]:
    """Caption all photos, and pictures that no caption fits, by both searches."""
    wide = max(captioner.default_options.beam, BEAM)
    searches = {name: replace(captioner.default_options, beam=beam) for name, beam in (("greedy", 1), ("beam", wide))}
    pictures: dict[str, Mapping[str, ImageSource]] = {name: data.photos for name, data in sets.items()}
    pictures |= {OOD: ood_pictures(_DRAWN)}
    for part, photos in pictures.items():
        rule = CorrectnessRule(sets[part].references, labels, sets[part].things) if part in sets else None
        for photo, image in photos.items():
            prefix = captioner.encode(image)
            results = {name: captioner.decode(prefix, decoding) for name, decoding in searches.items()}
            picture = _Picture(f"{part}/{photo}", pool(prefix))
            for name, result in results.items():
                correct = rule is not None and rule.is_correct(words_of(result.tokens), photo)
                yield _Caption(name, part, picture, signals(prefix, result), correct)


def _captions_table(captions: Sequence[_Caption]) -> Table:
    """Columns: SIGNALS.

    Captions of what is no photo have no weight. A small set counts more than its photos, but less than a large one.
    """
    rows = [[one.signals[signal] for signal in SIGNALS] for one in captions]
    sizes = Counter((one.search, one.part) for one in captions)
    weights = np.array([0.0 if one.part == OOD else sizes[one.search, one.part] ** -0.5 for one in captions])
    names = [one.picture.photo for one in captions]
    return Table(np.array(rows, float), np.array([one.correct for one in captions]), weights / weights.mean(), names)


def _pictures_table(captions: Sequence[_Caption], pca: PCAConfig) -> Table:
    """Columns: coordinates along the components. Photos together count as much as what is none."""
    pictures = list({one.picture.photo: one.picture for one in captions}.values())
    along = PrincipalComponents(pca).coordinates(np.array([picture.pooled for picture in pictures]))
    is_photo = np.array([not picture.photo.startswith(f"{OOD}/") for picture in pictures])
    weights = np.where(is_photo, 1 / is_photo.mean(), 1 / (1 - is_photo.mean())) / 2
    return Table(along, is_photo, weights, [picture.photo for picture in pictures])


def _thresholds(confidences: Doubles, table: Table, options: CalibrationOptions) -> dict[str, float]:
    """Choose the confidences below which a hedge is spoken, and below which nothing is told.

    The hedge is set by the precision, which falls until enough captions of photos have none. Sets count alike.
    """
    parts = [name.partition("/")[0] for name in table.photos]
    sizes = Counter(parts)
    ood = np.array([part == OOD for part in parts])
    weights = np.array([1 / sizes[part] for part in parts])[~ood]
    photos, correct = confidences[~ood], table.correct[~ood]
    hedge = 1.0
    for precision in np.arange(options.precision, options.least_precision - _STEP / 2, -_STEP).tolist():
        hedge = threshold_for_precision(photos, correct, weights, precision)
        if weights[photos >= hedge].sum() >= options.plain * weights.sum():
            break
    no_photo = min(float(np.quantile(confidences[ood], _OOD_WITHHELD)), float(np.quantile(photos, options.withheld)))
    return {"hedge": hedge, "abstain": rounded([min(max(options.abstain_below, no_photo), hedge)])[0]}


def _figures(
    captions: Sequence[_Caption], confidences: Doubles, thresholds: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Figures of cross-validated confidences: of each search and set, and of all photos together."""
    keys, correct = [f"{one.search}/{one.part}" for one in captions], np.array([one.correct for one in captions])
    parts = {key: np.array([key == other for other in keys]) for key in dict.fromkeys(keys)}
    parts["all photos"] = np.array([one.part != OOD for one in captions])
    return {
        part: measure(confidences[inside], correct[inside])
        | {"answers": answers(confidences[inside], correct[inside], thresholds)}
        for part, inside in parts.items()
    }


def _card_figures(figures: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Choose figures for the model card."""
    found: dict[str, str | int | float] = {}
    for part, values in figures.items():
        plain = values["answers"]["plain"]
        found[f"confidence, {part}: spoken without a hedge, %"] = round(100 * plain["share"], 1)
        if plain["correct"] is not None:
            found[f"confidence, {part}: of these correct, %"] = round(100 * plain["correct"], 1)
        if values["auc"] is not None:
            found[f"confidence, {part}: area under ROC"] = round(values["auc"], 3)
    return found
