"""The whole evaluation, over a tiny bundle and a Flickr8k folder of three photos."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace as with_options
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from im2sp.arrays import FloatArray
from im2sp.bundle import write_checksums, write_config
from im2sp.errors import Im2SpError
from im2sp.files import sha256_of
from im2sp.train.data.speech_shards import SpokenCaption, write_shard
from im2sp.train.evaluate.asr import Recogniser
from im2sp.train.evaluate.photo_sets import flickr8k_photos
from im2sp.train.evaluate.report import (
    CAPTIONS,
    REPORT,
    TABLE_HEADER,
    EvaluationOptions,
    evaluate,
    speak_and_hear,
    table_row,
)
from tests.tiny_bundle import tiny_config
from tests.train.evaluate.conftest import SENTENCE

PHOTOS = ("one", "three", "two")
OPTIONS = EvaluationOptions(clips=1, recogniser="tiny", command="test")


@pytest.fixture(scope="module")
def flickr8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three dev photos with two captions each; one of the photos is broken."""
    root = tmp_path_factory.mktemp("flickr8k")
    (root / "Flicker8k_Dataset").mkdir()
    random = np.random.default_rng(0)
    for name in PHOTOS:
        pixels = random.integers(256, size=(60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "Flicker8k_Dataset" / f"{name}.jpg")
    (root / "Flicker8k_Dataset" / "three.jpg").write_bytes(b"not a photo")
    (root / "Flickr_8k.devImages.txt").write_text("".join(f"{name}.jpg\n" for name in PHOTOS))
    lines = [f"{name}.jpg#{k}\ta dog runs over number {k} .\n" for name in PHOTOS for k in range(2)]
    (root / "Flickr8k.token.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory, spoken: FloatArray) -> Path:
    """One recording of the dev split."""
    folder = tmp_path_factory.mktemp("speech")
    samples = (spoken * 32_767).astype(np.int16)
    clip = SpokenCaption("one_0", "one", "dev", "joe", SENTENCE, samples, [], np.zeros(0, np.int32))
    write_shard(folder / "dev-0000.parquet", [clip])
    return folder


@pytest.fixture(scope="module")
def report(
    tiny_bundle: Path, flickr8k: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """The report of the tiny bundle, and its folder."""
    out = tmp_path_factory.mktemp("report")
    return evaluate(tiny_bundle, flickr8k, speech, out, OPTIONS), out


def test_report_says_what_was_measured_and_how(report: tuple[dict[str, Any], Path], tiny_bundle: Path) -> None:
    measured, out = report
    assert json.loads((out / REPORT).read_text()) == measured
    assert measured["bundle"] == {"name": "tiny", "version": "0.0.1", "sha256": sha256_of(tiny_bundle / "SHA256SUMS")}
    assert (measured["split"], measured["seed"], measured["command"]) == ("dev", 0, "test")
    assert measured["recogniser"]["name"] == "tiny"
    assert measured["decoding"]["beam"] == 3
    assert measured["versions"]["onnxruntime"]


def test_a_photo_that_cannot_be_spoken_counts_and_is_named(report: tuple[dict[str, Any], Path]) -> None:
    captions = report[0]["captions"]
    assert (captions["photos"], captions["spoken"]) == (3, 2)
    assert captions["empty"] >= 1
    assert len(captions["unspoken"]) == 1
    assert "three.jpg" in captions["unspoken"][0]
    assert captions["mean_seconds"] > 0


def test_word_error_rates_of_all_three_ways_to_speak(report: tuple[dict[str, Any], Path]) -> None:
    rates = report[0]["word_error_rates"]
    assert rates["original"]["errors"] <= 1
    assert {name: rate["sentences"] for name, rate in rates.items()} == {
        "original": 1,
        "true_durations": 1,
        "predicted_durations": 1,
    }


def test_running_again_hears_and_says_nothing_new(
    report: tuple[dict[str, Any], Path],
    tiny_bundle: Path,
    flickr8k: Path,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured, out = report

    def fail(*_: object) -> str:
        raise AssertionError("heard again")

    monkeypatch.setattr(Recogniser, "transcribe", fail)
    wavs = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    assert evaluate(tiny_bundle, flickr8k, speech, out, OPTIONS) == measured
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} == wavs
    assert len(wavs) == 2
    measured_bundle = tmp_path / "bundle"  # the same model with its numbers written into it
    shutil.copytree(tiny_bundle, measured_bundle)
    write_config(measured_bundle, replace(tiny_config(), training={"photos": 1}))
    write_checksums(measured_bundle)
    again = evaluate(measured_bundle, flickr8k, speech, out, OPTIONS)
    assert again["captions"] == measured["captions"]
    assert again["bundle"]["sha256"] == sha256_of(measured_bundle / "SHA256SUMS") != measured["bundle"]["sha256"]


def test_what_was_heard_is_kept_and_may_be_shared(
    report: tuple[dict[str, Any], Path], tiny_bundle: Path, flickr8k: Path, tmp_path: Path
) -> None:
    _, out = report
    (kept,) = out.glob(f"*/{CAPTIONS}")
    assert sorted(json.loads(kept.read_text())) == sorted(PHOTOS)
    photos, shared = flickr8k_photos(flickr8k, "dev").photos, tmp_path / "heard.jsonl"
    options = with_options(OPTIONS, heard=shared)
    speak_and_hear(tiny_bundle, photos, tmp_path / "work", Recogniser("tiny"), options)
    assert len(shared.read_text().splitlines()) == 2
    assert not list(tmp_path.rglob("captions.heard.jsonl"))


def test_row_fits_the_table(report: tuple[dict[str, Any], Path]) -> None:
    row = table_row(report[0])
    assert {line.count("|") for line in (*TABLE_HEADER.splitlines(), row)} == {16}
    assert row.startswith("| tiny 0.0.1 (`")
    without = {name: value for name, value in report[0].items() if name != "word_error_rates"}
    assert table_row(without).endswith("| not measured | not measured | not measured |")


def test_no_recordings_is_an_error(tiny_bundle: Path, flickr8k: Path, tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="holds no recordings of the split dev"):
        evaluate(tiny_bundle, flickr8k, tmp_path, tmp_path / "out", OPTIONS)


def test_clips_need_a_speech_encoder(tiny_bundle: Path, flickr8k: Path, speech: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "speech_encoder.onnx").unlink()
    write_config(bundle, replace(tiny_config(), speech_encoder=None))
    write_checksums(bundle)
    with pytest.raises(Im2SpError, match="has no speech encoder: evaluate it with clips = 0"):
        evaluate(bundle, flickr8k, speech, tmp_path / "out", OPTIONS)
