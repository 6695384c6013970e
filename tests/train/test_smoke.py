"""`im2sp train`: tiny recipes of every kind run from end to end, and what they make; what it lists and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from im2sp.bundle import Bundle, find_bundle
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.image.units import ImageUnits as UnitsOfPhoto
from im2sp.train.cli import train
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig
from im2sp.train.data.unit_words import WORD_VOCABULARY, WordVocabulary
from im2sp.train.lexicon.lexicon import LexiconSpeaker, PronunciationLexicon
from im2sp.train.models.image_units import ImageUnits
from im2sp.train.models.token_vit import StemFromUnits, TokenVit
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.recipes import captioner, read_recipe
from im2sp.train.recipes.captioner import CAPTIONER, REPORT, UNITS

VOICE = 'recipe = "voice"\ndata = "."\nruns = "runs"\n'


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all tiny runs."""
    folder = tmp_path_factory.mktemp("smoke")
    result = CliRunner().invoke(train, ["--smoke", "--runs", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def test_photos_become_a_tokenizer_and_a_token_vit(made: Path) -> None:
    runs = made / "image_tokenizer"
    tokenizer, token_vit = VitVqgan.load(runs / "image_tokenizer"), TokenVit.load(runs / "token_vit")
    stem = StemFromUnits(tokenizer.codebook.weight, tokenizer.config.grid, token_vit.config.crop)
    with torch.inference_mode():
        assert token_vit(stem(tokenizer(torch.rand(2, 3, 64, 64)))).shape == (2, 5, 32)


def test_a_lexicon_says_the_sentences_that_were_recorded(made: Path) -> None:
    lexicon = PronunciationLexicon.load(made / "lexicon" / "lexicon" / "lexicon.parquet")
    speaker = LexiconSpeaker(lexicon, PiperSynthesizer(SynthesisConfig()).phones)
    selected = read(made / "lexicon" / "sentences" / "selected.json")
    assert len(selected) == 3
    assert all(speaker.said(text) for text in selected)
    assert speaker.said("Zebras graze.") is None


def test_the_voice_learns_to_say_the_lexicon_and_hears_as_before(made: Path) -> None:
    voice, given = Bundle.load(made / "lexicon" / "voice" / "bundle"), Bundle.load(find_bundle("default"))
    changed = {name for name, checksum in voice.checksums.items() if checksum != given.checksums[name]}
    assert (
        {"vocoder.onnx", "duration_predictor.onnx"}
        <= changed
        <= {"vocoder.onnx", "duration_predictor.onnx", "config.json"}
    )
    assert len(Captioner(voice, threads=1).speak([5, 9, 5]).waveform)


def test_a_captioner_sees_units_and_describes_every_held_out_photo(made: Path) -> None:
    runs = made / "runs"
    quantiser, model = ImageUnits.load(runs / UNITS), UnitCaptioner.load(runs / CAPTIONER)
    assert torch.equal(model.tagger.image_units.codebooks, quantiser.codebooks)
    assert read(runs / UNITS / "report.json")["bits"] == quantiser.config.bits
    assert len(read(runs / REPORT / "plain.json")) == 3 + 2 + 1
    reports = read(runs / REPORT / "report.json")
    for report in reports.values():
        assert set(report) == {"flickr8k", "coco", "things"}
        assert report["coco"]["photos"] == 2
    assert set(reports) == {"teachers", "plain", "naming"}


def test_a_captioner_recipe_ends_in_a_bundle_that_speaks_words_of_its_lexicon(made: Path) -> None:
    runs = made / "runs"
    bundle = Bundle.load(runs / "bundle" / "bundle")
    units = bundle.config.image_units
    assert units
    assert units.photo_codebooks
    captioner = Captioner(bundle, threads=1)
    photo = next((made / "data" / "flickr8k").rglob("*.jpg"))
    tokens = captioner.tokenize(photo)
    assert tokens.shape == (units.units,)
    caption = captioner.caption(photo)
    assert np.array_equal(caption.units, captioner.caption(UnitsOfPhoto(tokens, captioner.image_tokenizer)).units)
    vocabulary = WordVocabulary.load(runs / WORD_VOCABULARY)
    assert 3 + len(vocabulary.words) == bundle.config.decoder.vocabulary_size
    said = vocabulary.decode(caption.tokens.tolist()).split()
    assert len(said) == len(caption.tokens)
    assert set(said) <= set(vocabulary.words)


def test_units_of_the_committed_captioner_have_1200_bits_at_most() -> None:
    recipe, _ = read_recipe(Path(__file__).parents[2] / "recipes" / "captioner" / "recipe.toml")
    assert isinstance(recipe, captioner.Recipe)
    assert recipe.image_units.bits <= 1200


def test_stages_are_listed(tmp_path: Path) -> None:
    (tmp_path / "voice.toml").write_text(VOICE)
    result = CliRunner().invoke(train, [str(tmp_path / "voice.toml"), "--runs", str(tmp_path), "--list"])
    assert [line.split()[:3] for line in result.output.splitlines()] == [
        ["recordings", "to", "do"], ["hubert", "to", "do"], ["quantize", "to", "do"], ["durations", "to", "do"],
        ["vocoder", "to", "do"],
    ]  # fmt: skip


def test_a_recipe_or_smoke() -> None:
    assert CliRunner().invoke(train, []).exit_code == 2
    assert CliRunner().invoke(train, ["recipe.toml", "--smoke"]).exit_code == 2
    result = CliRunner().invoke(train, ["none.toml"])
    assert isinstance(result.exception, Im2SpError)


def test_help_loads_no_torch() -> None:
    help_of_train = "from im2sp.train.cli import train; train(['--help'], standalone_mode=False)"
    code = f"import sys; {help_of_train}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
