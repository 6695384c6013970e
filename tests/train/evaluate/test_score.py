"""A bundle scored on Karpathy's test split by a CTC recogniser, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner
from im2sp.decoding.search import DecodingOptions
from im2sp.errors import Im2SpError
from im2sp.train.cli import app
from im2sp.train.data.corpora.layouts import open_corpus
from im2sp.train.evaluate.asr import RecogniserInfo, SpeechRecogniser
from im2sp.train.evaluate.photo_sets import corpus_photos
from im2sp.train.evaluate.report import EvaluationOptions, chosen, speak_and_hear
from tests.train.data.tiny_corpora import coco_name, write_karpathy_coco
from tests.train.evaluate.tiny_ctc import write_tiny_ctc


@pytest.fixture
def karpathy(tmp_path: Path) -> Path:
    """Three test photos, one of which is not there, and one of another split."""
    photos = tmp_path / "coco" / "val2014"
    photos.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in (42, 73, 99):
        pixels = random.integers(256, size=(60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / coco_name(number))
    path = tmp_path / "dataset_coco.json"
    write_karpathy_coco(path, {42: "test", 73: "test", 80: "test", 99: "val"})
    return path


def test_every_photo_of_the_split_counts(karpathy: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    ears = write_tiny_ctc(tmp_path / "ears")
    out = tmp_path / "out"
    arguments = ["score", str(tiny_bundle), str(karpathy), "--layout", "karpathy", "--recogniser", str(ears)]
    result = CliRunner().invoke(app, [*arguments, "--photos", str(tmp_path / "coco"), "-o", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    captions = report["captions"]
    assert (report["split"], report["recogniser"]["name"]) == ("test", "ears")
    assert (captions["photos"], captions["spoken"], len(captions["unspoken"])) == (3, 2, 1)
    assert coco_name(80) in captions["unspoken"][0]
    assert captions["spice"] is None
    assert "SPICE needs stanford-corenlp-3.6.0.jar" in result.output


class Listener(SpeechRecogniser):
    """Keeps what it is given."""

    info = RecogniserInfo("listener", "", "", 1, "", "")

    def __init__(self) -> None:
        self.heard: list[FloatArray] = []

    def transcribe(self, waveform: FloatArray) -> str:
        self.heard.append(waveform)
        return "A CAT"


def test_a_sentence_that_is_cut_at_the_limit_is_heard_to_its_last_unit(tiny_bundle: Path, tmp_path: Path) -> None:
    """The reference drops the last unit where no end was said, whatever it is."""
    photo, listener = tmp_path / "photo.png", Listener()
    Image.fromarray(np.random.default_rng(1).integers(256, size=(60, 80, 3), dtype=np.uint8)).save(photo)
    cut = {"beam": 1, "min_tokens": 7, "max_tokens": 7, "max_repeats": 2**31}
    options = EvaluationOptions(decoding=tuple(cut.items()))
    heard, wavs, problems = speak_and_hear(tiny_bundle, {"1": photo}, tmp_path, listener, options)
    captioner = Captioner.from_pretrained(tiny_bundle, threads=1)
    found = captioner.decode(captioner.encode(photo), DecodingOptions(**cut))
    assert (len(found.tokens), found.ending) == (7, "length")
    units = captioner.vocabulary.decode(found.tokens)
    assert len(units) >= 7
    assert (heard, list(wavs), problems) == ({"1": "A CAT"}, ["1"], [])
    np.testing.assert_allclose(listener.heard[0], captioner.speak(units).waveform, atol=2 / 32_768)


def test_all_5000_photos_of_karpathys_test_are_there(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    write_karpathy_coco(path, {number: ("test", "val")[number // 5000] for number in range(5_100)})
    found = corpus_photos(open_corpus("karpathy", path, lambda problem: None, tmp_path), "test")
    assert list(found.photos) == [str(number) for number in range(5000)]
    assert sum(map(len, found.references.values())) == 10_000
    assert set(chosen(found, EvaluationOptions(split="test"))) == set(found.photos)


def test_references_are_those_of_the_split(karpathy: Path, tmp_path: Path) -> None:
    corpus = open_corpus("karpathy", karpathy, lambda problem: None, tmp_path / "coco")
    found = corpus_photos(corpus, "dev")
    assert found.references == {"99": ["A cat sits 0.", "A cat sits 1."]}
    assert found.photos == {"99": tmp_path / "coco" / "val2014" / coco_name(99)}
    with pytest.raises(Im2SpError, match="no captions with text in the split train"):
        corpus_photos(corpus, "train")
