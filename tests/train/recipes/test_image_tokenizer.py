"""The recipe of an image tokenizer: a tiny run from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.models.token_vit import StemFromUnits, TokenVit
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.recipes.image_tokenizer import STAGES, smoke, tokenizer_photos
from im2sp.train.stages import run_stages


def test_photos_become_a_tokenizer_and_a_token_vit(tmp_path: Path) -> None:
    recipe = smoke(tmp_path)
    run_stages(recipe, STAGES)
    tokenizer, token_vit = (VitVqgan.load(recipe.runs / "image_tokenizer"), TokenVit.load(recipe.runs / "token_vit"))
    stem = StemFromUnits(tokenizer.codebook.weight, tokenizer.config.grid, token_vit.config.crop)
    with torch.inference_mode():
        assert token_vit(stem(tokenizer.encode(torch.rand(2, 3, 64, 64)))).shape == (2, 5, 32)
    report = json.loads((recipe.runs / "image_tokenizer" / "report.json").read_text())
    assert set(report) == {"photos", "bits", "psnr", "codes_used", "perplexity"}
    assert (report["photos"], report["bits"]) == (6, 16 * 5)


def test_held_out_photos_never_train(tmp_path: Path) -> None:
    recipe = replace(smoke(tmp_path), folders=("photos",))
    assert [path.stem for path in tokenizer_photos(recipe)] == list("012345")
    with pytest.raises(Im2SpError, match="holds no photos"):
        tokenizer_photos(replace(recipe, folders=("none",)))
