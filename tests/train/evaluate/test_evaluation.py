"""The whole evaluation of a tiny bundle, through the command line and a recogniser of random weights."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from PIL import Image

from im2sp.arrays import FloatArray
from im2sp.bundle import Bundle, write_checksums, write_config
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.files import sha256_of
from im2sp.train.data.speech_shards import SpokenCaption, write_shard
from im2sp.train.data.unit_words import WORD_VOCABULARY, WordVocabulary
from im2sp.train.evaluate import caption_metrics, recognisers
from im2sp.train.evaluate.commands import evaluate
from im2sp.train.evaluate.evaluation import speak_and_transcribe
from im2sp.train.evaluate.recogniser import Recogniser, RecogniserInfo
from im2sp.train.evaluate.resynthesis import read_recordings, resynthesis_errors
from tests.tiny_bundle import tiny_config
from tests.train.evaluate.tiny_ctc import write_tiny_ctc


@pytest.fixture(scope="module", autouse=True)
def _without_meteor() -> Iterator[None]:
    """METEOR takes most of the time, and test_caption_metrics.py has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_metrics, "_meteor", lambda gts, res: 0.0)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """captions.json of three photos, one of which is broken, the photos, their objects and a spoken caption."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(random.integers(256, size=(60, 80, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")
    (folder / "three.jpg").write_bytes(b"not a photo")
    names = ("one.jpg", "three.jpg", "two.jpg")
    (folder / "captions.json").write_text(json.dumps({name: ["a dog runs", "the dog"] for name in names}))
    (folder / "objects.json").write_text(json.dumps({name: ["dog"] for name in names}))
    (folder / "object_synonyms.txt").write_text("dog, puppy\n")
    samples = random.integers(-9_000, 9_000, 8_000, dtype=np.int16)
    clip = SpokenCaption("one_0", "one", "dev", "someone", "a dog runs", samples)
    write_shard(folder / "dev-0000.parquet", [clip])
    return folder


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_ctc(tmp_path_factory.mktemp("recogniser") / "ctc")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a captioner recipe, whose every token says "dog"."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "vocabulary").mkdir()
    spoken = tiny_config().vocabulary
    WordVocabulary(["dog"] * len(spoken.subwords), [], spoken).save(folder / WORD_VOCABULARY)
    return folder


@pytest.fixture(scope="module")
def arguments(tiny_bundle: Path, data: Path, ctc: Path, runs: Path) -> list[str]:
    given = [str(tiny_bundle), str(data / "captions.json"), "--objects", str(data), "--speech", str(data)]
    return [*given, "--recogniser", str(ctc), "--beam", "2", "--runs", str(runs)]


@pytest.fixture(scope="module")
def evaluated(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """(output folder, report, what was printed)."""
    out = tmp_path_factory.mktemp("evaluated")
    result = CliRunner().invoke(evaluate, [*arguments, "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    return out, json.loads((out / "report.json").read_text()), result.output


def test_strict_scores_spellings_as_they_are_and_pads_short_clips(
    tiny_bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []

    def transcribe(self: Recogniser, waveform: FloatArray) -> str:
        lengths.append(len(waveform))
        return "A TEE SHIRT"

    monkeypatch.setattr("im2sp.train.evaluate.recognisers.WhisperRecogniser.transcribe", transcribe)
    monkeypatch.setattr("im2sp.train.evaluate.evaluation.SAMPLE_RATE", 10**6)  # so that every clip is short
    (tmp_path / "captions.json").write_text(json.dumps({"one.jpg": ["a t-shirt."]}))
    scores = []
    for strict in ([], ["--strict"]):
        words = [str(tiny_bundle), str(tmp_path / "captions.json"), "--photos", str(data), "-o", str(tmp_path / "out")]
        assert CliRunner().invoke(evaluate, [*words, *strict], catch_exceptions=False).exit_code == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["recogniser"]["name"] == "base"  # the paper's is not on this machine
        scores.append(report["captions"]["bleu1"])
    assert scores[0] == pytest.approx(100)
    assert scores[1] < 50
    assert lengths[0] < lengths[1] == 10**6


def test_strict_listens_with_the_papers_recogniser_where_it_is(
    tiny_bundle: Path, data: Path, ctc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognisers, "_cached", lambda name: ctc)
    words = [str(tiny_bundle), str(data / "captions.json"), "--strict", "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(evaluate, words, catch_exceptions=False).exit_code == 0
    heard = json.loads((tmp_path / "out" / "report.json").read_text())["recogniser"]
    assert (heard["name"], heard["library"].split()[0]) == (recognisers.PAPER, "transformers")
    missing = CliRunner().invoke(evaluate, [*words, "--photos", str(tmp_path)]).exception
    assert re.search(r"none of the 3 photos is there, such as .*one\.jpg: give", str(missing))


def test_report_tells_what_was_measured_and_how(evaluated: tuple[Path, dict[str, Any], str], tiny_bundle: Path) -> None:
    _, report, printed = evaluated
    assert report["bundle"] == {"name": "tiny", "version": "0.0.1", "sha256": sha256_of(tiny_bundle / "SHA256SUMS")}
    assert (report["decoding"]["beam"], report["seed"], report["recogniser"]["name"]) == (2, 0, "ctc")
    captions = report["captions"]
    assert captions["photos"] == 3
    assert captions["empty"] >= 1  # the broken photo counts
    (unspoken,) = report["unspoken"]
    assert "three.jpg" in unspoken
    assert report["objects"]["captions"] == 3
    assert report["correct"]["captions"] == 0
    words = report["words_of_tokens"]
    assert words["objects"]["hit"] == pytest.approx(200 / 3)  # "dog" of all but the broken photo
    assert words["misheard"]["rate"] >= 100  # a recogniser of random weights hears no dog
    rates = report["word_error_rates"]
    assert {name: rate["sentences"] for name, rate in rates.items()} == {
        "original": 1,
        "true_durations": 1,
        "predicted_durations": 1,
    }
    for words in ("tiny 0.0.1", "3 photos", "CIDEr", "CHAIR-i", "predicted_durations", "1 photos without speech"):
        assert words in printed


def test_a_second_run_speaks_and_transcribes_nothing_again(
    evaluated: tuple[Path, dict[str, Any], str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, report, _ = evaluated

    def fail(*_: object) -> str:
        raise AssertionError("transcribed again")

    monkeypatch.setattr("im2sp.train.evaluate.recognisers.CtcRecogniser.transcribe", fail)
    (captions,) = out.glob("*/captions.jsonl")
    kept = captions.read_bytes()
    captions.write_bytes(kept[:-5])  # as when a run was stopped within a line
    result = CliRunner().invoke(evaluate, [*arguments, "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads((out / "report.json").read_text()) | {"command": ""} == report | {"command": ""}
    assert captions.read_bytes() == kept
    captions.write_text("{}\n")
    with pytest.raises(Im2SpError, match="a line that is no TranscribedCaption"):
        CliRunner().invoke(evaluate, [*arguments, "-o", str(out)], catch_exceptions=False)


class Listener(Recogniser):
    """Keeps the clips it is given."""

    info = RecogniserInfo("listener", "", "", 1, "", "")

    def __init__(self) -> None:
        self.heard: list[FloatArray] = []

    def transcribe(self, waveform: FloatArray) -> str:
        self.heard.append(waveform)
        return "a cat"


def test_captions_are_those_of_the_runtime_and_survive_a_new_calibration(
    tiny_bundle: Path, calibrated_bundle: Path, data: Path, tmp_path: Path
) -> None:
    photos = {"one.jpg": data / "one.jpg"}
    listener, captioner = Listener(), Captioner(Bundle.load(tiny_bundle), threads=1)
    found, problems = speak_and_transcribe(captioner, photos, tmp_path, listener, captioner.default_options)
    caption = captioner.caption(data / "one.jpg")
    np.testing.assert_allclose(listener.heard[0], caption.waveform, atol=1e-6)
    assert (found["one.jpg"].text, found["one.jpg"].tokens, problems) == ("a cat", caption.tokens.tolist(), [])
    calibrated = Captioner(Bundle.load(calibrated_bundle), threads=1)
    speak_and_transcribe(calibrated, photos, tmp_path, listener, captioner.default_options)
    assert len(listener.heard) == 1


def test_recordings_need_text_and_a_speech_encoder(tiny_bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="no recordings with text of the split train"):
        read_recordings(data, "train", 5)
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "speech_encoder.onnx").unlink()
    write_config(bundle, replace(tiny_config(), speech_encoder=None))
    write_checksums(bundle)
    captioner = Captioner(Bundle.load(bundle), threads=1)
    with pytest.raises(Im2SpError, match="has no speech encoder: evaluate it without recordings"):
        resynthesis_errors(captioner, read_recordings(data, None, 5), Listener(), tmp_path / "cache")
