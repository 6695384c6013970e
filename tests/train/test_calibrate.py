"""The stage calibrate, over a tiny bundle, noisy photos and a tiny recogniser: a bundle that knows how sure it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from im2sp import Captioner
from im2sp.bundle import FORMAT_VERSION, Bundle, write_checksums, write_config
from im2sp.checksums import CHECKSUMS
from im2sp.errors import BundleError, Im2SpError
from im2sp.files import sha256_of
from im2sp.train.data import off_domain
from im2sp.train.evaluate.photo_sets import PhotoSet
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.evaluate.report import EvaluationOptions, fingerprint, speak_and_hear
from im2sp.train.export import set_quality
from im2sp.train.model_card import read_figures
from im2sp.train.recipe import Recipe
from im2sp.train.stages.calibrate import REPORT, CalibrationOptions, calibrate
from im2sp.train.stages.unsure_sentence import Take
from tests.tiny_bundle import tiny_config, write_tiny_bundle
from tests.train.evaluate.tiny_ctc import write_tiny_ctc

OPTIONS = CalibrationOptions(withheld=0.2, train_photos=8, directions=3)
SENTENCE = [Take((0.3 * np.random.default_rng(1).normal(size=16_000)).astype(np.float32).clip(-1, 1))]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sixteen pictures in colours of their own."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(16):
        pixels = random.integers(0, 256, 3) * random.uniform(0.3, 1, (60, 80, 1))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    return {path.stem: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> EvaluationOptions:
    ctc = write_tiny_ctc(tmp_path_factory.mktemp("ctc") / "ctc")
    return EvaluationOptions(clips=0, recogniser=str(ctc), command="test")


@pytest.fixture(scope="module")
def calibrated(
    photos: dict[str, Path], evaluation: EvaluationOptions, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, PhotoSet, dict[str, Any]]:
    """(bundle, output folder, photos, report). What was heard about every other photo is what people wrote."""
    folder = tmp_path_factory.mktemp("calibrated")
    bundle, out = write_tiny_bundle(folder / "bundle"), folder / "evaluation"
    loaded = Bundle.load(bundle)
    work = out / fingerprint(loaded, structs.asdict(loaded.config.decoding))
    heard, _, _ = speak_and_hear(bundle, photos, work, open_recogniser(evaluation.recogniser), evaluation)
    written = {image: [heard[image] if int(image) % 2 else "a dog"] for image in photos}
    data = PhotoSet(photos, written)
    report = calibrate(bundle, data, list(photos.values()), SENTENCE, out, evaluation, OPTIONS)
    return bundle, out, data, report


def test_the_bundle_knows_how_sure_it_is(
    calibrated: tuple[Path, Path, PhotoSet, dict[str, Any]], photos: dict[str, Path]
) -> None:
    bundle, out, _, report = calibrated
    captioner = Captioner.from_pretrained(bundle, threads=1)
    config = captioner.bundle.config
    assert config.confidence is not None
    assert config.format_version == FORMAT_VERSION
    assert "expected_calibration_error" in read_figures(bundle)
    assert report["bundle"]["sha256"] == sha256_of(bundle / CHECKSUMS)
    assert json.loads((out / REPORT).read_text()) == json.loads(json.dumps(report))

    captions = [captioner.caption(photo) for photo in photos.values()]
    share = np.mean([caption.confidence < config.confidence.threshold for caption in captions])
    assert share == report["withheld"]["photos"] <= OPTIONS.withheld
    sure = replace(captioner.default_options, min_confidence=1)
    unsure = captioner.caption(photos["00"], sure)
    assert unsure.abstained
    assert unsure.units.tolist() == report["unsure_sentence"]["units"]
    assert unsure.durations.sum() == len(captioner.units(SENTENCE[0].waveform))


def test_the_report_tells_what_was_measured(calibrated: tuple[Path, Path, PhotoSet, dict[str, Any]]) -> None:
    report = calibrated[3]
    assert 0.3 < report["right_by_that_rule"]["captions"] <= 0.7
    tested = report["tested"]
    assert tested["captions"] == sum(one["captions"] for one in tested["bins"]) == 16
    assert tested["risk_coverage"][-1] == (1.0, 1 - report["right_by_that_rule"]["captions"])
    assert sum(kind["pictures"] for kind in report["off_domain"].values()) == len(off_domain.TESTED) * off_domain.EACH
    assert set(report["weights"]) == {"score", "length", "ood_score"}
    assert report["unsure_sentence"]["tried"][0]["text"] is None


def test_a_second_run_measures_nothing_again_and_says_the_same(
    calibrated: tuple[Path, Path, PhotoSet, dict[str, Any]],
    evaluation: EvaluationOptions,
    tmp_path: Path,
) -> None:
    bundle, out, data, report = calibrated
    folder, copy = Path(shutil.copytree(bundle, tmp_path / "bundle")), Path(shutil.copytree(out, tmp_path / "out"))
    kept = {path: path.stat().st_mtime_ns for path in copy.rglob("*.npz")}
    again = calibrate(folder, data, list(data.photos.values()), SENTENCE, copy, evaluation, OPTIONS)
    assert len(kept) == 2
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.npz")} == kept
    assert (again["weights"], again["threshold"]) == (report["weights"], report["threshold"])
    assert again["bundle"] == report["bundle"]

    changed = set_quality(folder, {"CIDEr": 0.5})  # as an evaluation does afterwards
    assert changed.config.confidence is not None
    assert {"CIDEr", "expected_calibration_error"} <= set(read_figures(folder))
    before = Bundle.load(write_tiny_bundle(tmp_path / "plain"))
    assert fingerprint(changed, {}) == fingerprint(before, {})


def test_what_cannot_be_calibrated(
    calibrated: tuple[Path, Path, PhotoSet, dict[str, Any]], evaluation: EvaluationOptions, tmp_path: Path
) -> None:
    bundle, out, data, _ = calibrated
    train = list(data.photos.values())

    def sentence(folder: Path, data: PhotoSet, takes: list[Take]) -> str:
        before = sha256_of(folder / CHECKSUMS)
        with pytest.raises(Im2SpError) as caught:
            calibrate(folder, data, train, takes, out, evaluation, OPTIONS)
        assert sha256_of(folder / CHECKSUMS) == before  # nothing is half done
        return str(caught.value)

    wrong = PhotoSet(data.photos, {image: ["a dog"] for image in data.photos})
    assert "none of the" in sentence(bundle, wrong, SENTENCE)
    assert "more than 10 s" in sentence(bundle, data, [Take(np.zeros(200_000, dtype=np.float32))])
    assert "too short" in sentence(bundle, data, [Take(np.zeros(10, dtype=np.float32))])

    mute = write_tiny_bundle(tmp_path / "mute")
    (mute / "speech_encoder.onnx").unlink()
    write_config(mute, structs.replace(tiny_config(), speech_encoder=None))
    write_checksums(mute)
    with pytest.raises(BundleError, match="no speech encoder"):
        calibrate(mute, data, train, SENTENCE, tmp_path / "out", evaluation, OPTIONS)


@pytest.mark.parametrize("section", [{"withheld": 0.0}, {"directions": 0}, {"sentences": []}])
def test_a_recipe_that_cannot_be_followed(section: dict[str, Any]) -> None:
    recipe = Recipe(Path(), Path(), sections={"confidence": section})
    with pytest.raises(Im2SpError, match=r"\[confidence\]"):
        recipe.section("confidence", CalibrationOptions)


def test_imported_recordings_need_a_recording_of_the_sentence(tmp_path: Path) -> None:
    from im2sp.train import pipeline
    from im2sp.train.stages.import_speech import RECORD

    recipe = Recipe(tmp_path, tmp_path)
    recipe.speech.mkdir()
    (recipe.speech / RECORD).write_text("{}")
    with pytest.raises(Im2SpError, match="--recording"):
        pipeline.calibrate(recipe)
