"""The stages `image-tokenizer` and `token-vit`: which photos are looked at, and the smoke recipe by the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from im2sp.errors import Im2SpError
from im2sp.image.loading import load_image
from im2sp.train.cli import app
from im2sp.train.data.flickr8k import PHOTO_FOLDER, read_split
from im2sp.train.data.tiny_flickr8k import write_tiny_flickr8k
from im2sp.train.models.token_vit import StemFromUnits, TokenVit
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.stages.image_tokenizer import TokenizerPhotos, photos_to_learn_from
from im2sp.train.training.photo_crops import unit_pixels

RECIPE = Path(__file__).parents[3] / "recipes/flickr8k/recipe.toml"


def test_held_out_photos_are_never_looked_at(tmp_path: Path) -> None:
    data, more = tmp_path / "data", tmp_path / "more"
    write_tiny_flickr8k(data)
    shutil.copytree(data / PHOTO_FOLDER, more / "copy")  # train and dev photos once more
    for name in ("other", "tested"):
        shutil.copy(next((data / PHOTO_FOLDER).iterdir()), more / f"{name}.jpg")
    (data / "Flickr_8k.testImages.txt").write_text("tested.jpg\n")
    found = photos_to_learn_from(data, TokenizerPhotos(folders=(str(more),)))
    assert sorted(path.stem for path in found) == sorted([*read_split(data, "train"), "other"])
    assert not {path.stem for path in found} & {*read_split(data, "dev"), "tested"}


def test_folders_without_photos_are_said(tmp_path: Path) -> None:
    write_tiny_flickr8k(tmp_path)
    with pytest.raises(Im2SpError, match="is no folder of photos"):
        photos_to_learn_from(tmp_path, TokenizerPhotos(folders=(str(tmp_path / "nothing"),)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Im2SpError, match="empty"):
        photos_to_learn_from(tmp_path, TokenizerPhotos(folders=(str(tmp_path / "empty"),)))


def test_the_smoke_recipe_makes_a_tokenizer_and_a_report(tmp_path: Path) -> None:
    arguments = ["image-tokenizer", "--smoke", "--recipe", str(RECIPE)]
    arguments += ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    out = tmp_path / "runs" / "image_tokenizer"
    report = json.loads((out / "report.json").read_text())
    assert report["photos"] == 4
    assert report["bits"] == 16 * 5
    assert 0 < report["codes_used"] <= 1 <= report["perplexity"] <= 32
    assert 0 < report["psnr"] < 60
    model = VitVqgan.load(out)
    pixels = unit_pixels(load_image(tmp_path / "data" / PHOTO_FOLDER / "red_circle.jpg"), 64)[None]
    with torch.inference_mode():
        units = model.encode(pixels)
        assert model.decode(units).shape == pixels.shape
    assert units.shape == (1, 16)

    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert CliRunner().invoke(app, arguments).exit_code == 0  # everything is there: nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == written


def test_a_token_vit_needs_a_tokenizer_then_learns_from_its_units(tmp_path: Path) -> None:
    places = ["--smoke", "--recipe", str(RECIPE), "--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    early = CliRunner().invoke(app, ["token-vit", *places])
    assert isinstance(early.exception, Im2SpError)
    assert str(early.exception).endswith("run the stage `image-tokenizer` first")
    for stage in ("encode", "pretrain", "tune", "image-tokenizer", "token-vit"):
        assert CliRunner().invoke(app, [stage, *places], catch_exceptions=False).exit_code == 0
    out = tmp_path / "runs" / "token_vit"
    assert np.load(next(out.glob("units-*-flip.npy"))).shape == (12, 16)
    model, tokenizer = TokenVit.load(out), VitVqgan.load(tmp_path / "runs" / "image_tokenizer")
    stem = StemFromUnits(tokenizer.codebook.weight, tokenizer.config.grid, model.config.crop)
    with torch.inference_mode():
        assert model(stem(torch.zeros(1, 16, dtype=torch.int64))).shape == (1, 5, 32)
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 6
    assert 0 < last["held_out"] < 10
