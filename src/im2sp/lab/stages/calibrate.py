"""Stage `calibrate`: an evaluated bundle in; the same bundle with a confidence, and calibration.json, out."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import Bundle, ConfidenceConfig
from im2sp.captioner import Captioner
from im2sp.checksums import CHECKSUMS
from im2sp.confidence import Familiar, Signals, pool
from im2sp.errors import Im2SpError
from im2sp.files import replace_whole, sha256_of
from im2sp.images.loading import ImageSource
from im2sp.lab.data.off_domain import FITTED, TESTED, pictures
from im2sp.lab.data.speech_shards import as_floats
from im2sp.lab.data.voice import PiperSpeaker, VoiceConfig
from im2sp.lab.evaluation.asr import SpeechRecogniser
from im2sp.lab.evaluation.calibration import (
    BINS,
    SIGNALS,
    Doubles,
    Flags,
    Judge,
    fit_familiar,
    fit_regression,
    measure,
    probabilities,
    threshold_for,
)
from im2sp.lab.evaluation.photo_sets import PhotoSet
from im2sp.lab.evaluation.recognisers import open_recogniser
from im2sp.lab.evaluation.report import EvaluationOptions, chosen, fingerprint, speak_and_hear, versions
from im2sp.lab.stages.export import set_confidence
from im2sp.speech.audio import SAMPLE_RATE, read_audio
from im2sp.speech.units import remove_repeats
from im2sp.speech.vocoder import LONGEST_UNIT

log = logging.getLogger(__name__)

REPORT = "calibration.json"
LONGEST_SENTENCE = 10  # seconds of "I am not sure what this shows"
RULE = (
    "a caption is right when at least a third of what is heard, each word weighing log(photos / photos with it in "
    "their references), occurs in the references of its photo"
)
_LOG_EVERY = 50  # photos


@dataclass(frozen=True)
class CalibrationOptions:
    """How a bundle is calibrated."""

    sentence: str = "I am not sure what this shows."  # spoken by the recipe's voice where there is no recording
    withheld: float = 0.03  # share of photos that the recommended threshold withholds
    train_photos: int = 800  # drawn by the seed: what is familiar
    directions: int = 16  # in which they differ
    seed: int = 0  # of halves, draws and off-domain pictures

    def __post_init__(self) -> None:
        if not 0 < self.withheld < 1 or self.train_photos < 1 or self.directions < 1:
            raise Im2SpError(
                "[confidence]: withheld is a share between 0 and 1, train_photos and directions count from 1"
            )


def calibrate(
    bundle_dir: Path,
    data: PhotoSet,
    train: list[Path],
    sentence: FloatArray,
    out_dir: Path,
    evaluation: EvaluationOptions,
    options: CalibrationOptions | None = None,
) -> dict[str, Any]:
    """Fit the confidence of a bundle to half of the photos, test it on the others; write it into the bundle.

    What `evaluate` spoke and heard under `out_dir` is used, or made. Signals are kept there, too. Safe to stop and
    run again.

    Args:
        data: photos with references.
        train: photos that the model was trained on.
        sentence: float32 [samples], 16 kHz: "I am not sure what this shows", in the bundle's voice (`unsure_speech`).

    Returns:
        The report, also in `out_dir`/calibration.json.

    Raises:
        Im2SpError: bundle, data or recogniser are missing, the bundle has no speech encoder, or no caption is right.
    """
    options = options or CalibrationOptions()
    bundle = Bundle.load(bundle_dir)
    captioner = Captioner(bundle, threads=evaluation.threads)
    units, durations = _as_units(captioner, sentence)
    work = out_dir / fingerprint(bundle, bundle.config.decoding.model_dump())
    recogniser = open_recogniser(evaluation.recogniser, threads=evaluation.threads)
    photos = {image: data.photos[image] for image in chosen(data, evaluation)}
    heard, _, unspoken = speak_and_hear(bundle_dir, photos, work, recogniser, evaluation)
    if len(heard) < 4:
        raise Im2SpError(f"{len(heard)} photos could be spoken about, which is too few to calibrate a bundle")

    drawn = random.Random(options.seed).sample(train, min(options.train_photos, len(train)))
    pooled = _pooled_photos(captioner, drawn, work / "signals" / f"train-{options.seed}-{len(drawn)}.npz")
    familiar = fit_familiar(pooled, options.directions)
    tables = {
        "dev": _of_photos(captioner, {image: photos[image] for image in heard}, work / "signals" / "photos.npz"),
        "fitted": _measured(captioner, pictures(FITTED, options.seed)),
        "tested": _measured(captioner, pictures(TESTED, options.seed)),
    }
    signals = {name: _signals(table, Familiar(familiar)) for name, table in tables.items()}

    judge = Judge({image: data.references[image] for image in photos})
    right = np.array([judge.is_right(text, image) for image, text in heard.items()])
    halves = np.random.default_rng(options.seed).permutation(len(right))
    fit, test = halves[: len(halves) // 2], halves[len(halves) // 2 :]
    never = np.zeros(len(signals["fitted"]), dtype=np.bool_)
    weights, intercept = fit_regression(
        np.concatenate([signals["dev"][fit], signals["fitted"]]), np.concatenate([right[fit], never])
    )
    sure = {name: probabilities(weights, intercept, values) for name, values in signals.items()}
    threshold = threshold_for(sure["dev"][fit], options.withheld)
    config = ConfidenceConfig(
        intercept=intercept,
        weights=weights,
        familiar=familiar,
        threshold=threshold,
        unsure_units=units.tolist(),
        unsure_durations=durations.tolist(),
    )
    tested = measure(sure["dev"][test], right[test])
    shares = {
        "photos": float((sure["dev"] < threshold).mean()),
        "photos_fitted_to": float((sure["dev"][fit] < threshold).mean()),
        "photos_tested_on": float((sure["dev"][test] < threshold).mean()),
        "off_domain": float((sure["tested"] < threshold).mean()),
        "off_domain_fitted_to": float((sure["fitted"] < threshold).mean()),
    }
    quality: dict[str, str | int | float] = {
        "expected_calibration_error": round(tested["expected_calibration_error"], 3),
        "withheld_photos_at_threshold_percent": round(100 * shares["photos_tested_on"], 1),
        "withheld_off_domain_at_threshold_percent": round(100 * shares["off_domain"], 1),
    }
    calibrated = set_confidence(bundle_dir, config, quality)
    report = {
        "bundle": {
            "name": calibrated.config.name,
            "version": calibrated.config.version,
            "sha256": sha256_of(bundle_dir / CHECKSUMS),
        },
        "split": evaluation.split,
        "options": asdict(options),
        "recogniser": asdict(recogniser.info),
        "command": evaluation.command,
        "versions": versions(),
        "rule": RULE,
        "right_by_that_rule": {
            "captions": float(right.mean()),
            "human_captions": judge.human_rate(data.references),
            "captions_of_other_photos": judge.chance_rate(heard, options.seed),
        },
        "unspoken": unspoken,
        "weights": weights,
        "intercept": intercept,
        "far": familiar.far,
        "threshold": threshold,
        "bins": BINS,
        "fitted": measure(sure["dev"][fit], right[fit]),
        "tested": tested,
        "withheld": shares,
        "off_domain": _by_kind(tables["tested"], sure["tested"], threshold),
        "unsure_sentence": _said(bundle_dir, recogniser),
    }
    with replace_whole(out_dir / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def unsure_speech(sentence: str, voice: VoiceConfig, recording: Path | None) -> FloatArray:
    """What is said where a caption is withheld: float32 [samples], 16 kHz, from a recording or by the recipe's voice.

    Raises Im2SpError: the recording cannot be read, or the voice is not installed.
    """
    if recording is not None:
        return read_audio(recording)
    return as_floats(PiperSpeaker(voice).speak(sentence)[0])


def _as_units(captioner: Captioner, waveform: FloatArray) -> tuple[IntArray, IntArray]:
    if len(waveform) > LONGEST_SENTENCE * SAMPLE_RATE:
        raise Im2SpError(f"the sentence for what is not sure lasts more than {LONGEST_SENTENCE} s: give a shorter one")
    units, durations = remove_repeats(captioner.units(waveform))
    if not len(units):
        raise Im2SpError("the sentence for what is not sure has no sound: give a recording of at least a second")
    return units, np.minimum(durations, LONGEST_UNIT)


Table = dict[str, np.ndarray]  # names, score, length, gaze and pooled, a row for each picture


def _measured(captioner: Captioner, named: Iterable[tuple[str, ImageSource]]) -> Table:
    names, found = [], []
    for name, image in named:
        prefix = captioner.encode(image)
        found.append(Signals.of(prefix, captioner.translate(prefix)))
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


def _signals(table: Table, familiar: Familiar) -> Doubles:
    """float64 [n, SIGNALS]."""
    rows = zip(table["score"], table["length"], table["gaze"], table["pooled"], strict=True)
    values = (Signals(float(s), float(n), float(g), pooled).values(familiar) for s, n, g, pooled in rows)
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


def _said(bundle_dir: Path, recogniser: SpeechRecogniser) -> dict[str, Any]:
    """The sentence for what is not sure, as the calibrated bundle says it, and what is heard of it."""
    captioner = Captioner.from_pretrained(bundle_dir, threads=1)
    config = captioner.bundle.config.confidence
    assert config is not None
    waveform = captioner.speak(config.unsure_units, config.unsure_durations).waveform
    return {"seconds": len(waveform) / SAMPLE_RATE, "heard": recogniser.transcribe(waveform)}
