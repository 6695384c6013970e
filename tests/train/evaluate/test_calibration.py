"""Calibration of a tiny bundle: what stands in its config is what was fitted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.train.evaluate import calibration
from im2sp.train.evaluate.calibration import SIGNALS, CalibrationOptions, SpokenPhrase, calibrate
from im2sp.train.evaluate.photo_sets import PhotoSet

Calibrated = tuple[Captioner, dict[str, Any], dict[str, PhotoSet]]


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """Two sets of ten pictures in colours of their own; every other caption is correct."""
    folder, random = tmp_path_factory.mktemp("calibrated"), np.random.default_rng(0)
    bundle = Path(shutil.copytree(tiny_bundle, folder / "bundle"))
    for number in range(20):
        pixels = random.integers(0, 256, 3) * random.uniform(0.3, 1, (60, 80, 1))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    photos = {path.name: path for path in sorted(folder.glob("*.png"))}
    captioner = Captioner(Bundle.load(bundle), threads=1)

    def words(tokens: np.ndarray) -> str:
        return " ".join(f"word{token}" for token in tokens.tolist())

    written = {}
    for name, path in photos.items():
        tokens = captioner.decode(captioner.encode(path)).tokens
        written[name] = [words(tokens) if int(name[:2]) % 2 else "a dog", "a cat"]
    names = list(photos)
    sets = {
        "references": PhotoSet({n: photos[n] for n in names[:10]}, {n: written[n] for n in names[:10]}),
        "things": PhotoSet({n: photos[n] for n in names[10:]}, {}, {n: written[n][:1] for n in names[10:]}),
    }
    phrases = {
        name: SpokenPhrase(name, [number, 3], [5, 6], name, 0.0) for number, name in enumerate(("abstain", "hedge"))
    }
    options = CalibrationOptions(components=3)
    report = calibrate(bundle, sets, list(photos.values()), words, phrases, None, options)
    return Captioner(Bundle.load(bundle), threads=1), report, sets


def test_report_has_every_set_and_search(calibrated: Calibrated) -> None:
    captioner, report, _ = calibrated
    parts = {f"{search}/{name}" for search in ("greedy", "beam") for name in ("references", "things", calibration.OOD)}
    assert set(report["figures"]) == {"all photos", *parts}
    assert report["figures"]["beam/out_of_distribution"]["correct"] == 0
    assert 0 < report["figures"]["all photos"]["correct"] < 1
    assert "confidence, all photos: area under ROC" in (captioner.bundle.folder / "README.md").read_text().replace(
        "_", " "
    )


def test_config_gives_the_fitted_confidence(calibrated: Calibrated) -> None:
    captioner, report, sets = calibrated
    config = captioner.bundle.config.confidence
    assert config is not None
    assert config.weights == report["weights"]
    assert tuple(config.weights) == SIGNALS
    assert len(config.photo_weights) == len(config.pca.components) == 3
    assert (config.abstain_units, config.hedge_units) == ([0, 3], [1, 3])
    assert (
        config.hedge_threshold == report["thresholds"]["hedge"] >= config.threshold == report["thresholds"]["abstain"]
    )
    answers = [captioner.caption(path) for path in sets["references"].photos.values()]
    for caption in answers:
        assert caption.confidence is not None
        plain = caption.confidence >= config.hedge_threshold
        assert (caption.hedged, caption.abstained) == (
            not plain and caption.confidence >= config.threshold,
            not plain and caption.confidence < config.threshold,
        )


@pytest.mark.parametrize("options", [{"precision": 1.0}, {"components": 0}, {"abstain_below": -0.1}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(Im2SpError, match="calibration"):
        CalibrationOptions(**options)
