"""A published Im2Sp of image units against transformers with its image encoder replaced, and against the formulas."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GitConfig, GitForCausalLM
from typer.testing import CliRunner

from im2sp.lab.cli import app
from im2sp.lab.convert.im2sp import convert_im2sp, convert_im2sp_units, published_rows
from im2sp.lab.convert.streams import CheckpointError
from im2sp.lab.models.token_vit import StemFromUnits, TokenVit
from im2sp.lab.models.translator import ImagePrefix, Translator
from im2sp.lab.models.vit_vqgan import VitVqgan
from tests.lab.convert.test_checkpoints import Attack
from tests.lab.models import published_token_vit, published_vit_vqgan

UNITS = 200
TOKEN_VIT = published_token_vit.CONFIG  # 4 x 4 units, of the 6 x 6 that the tokenizer gives


class ReplacedEncoder(nn.Module):
    """What stands at `git.image_encoder` of the reference code: its vision model is the token ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model = TokenVit(TOKEN_VIT)
        self.vision_model.load_state_dict(published_token_vit.published_state())

    def forward(self, vectors: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.vision_model(vectors))


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    torch.manual_seed(1)
    vision = {"hidden_size": TOKEN_VIT.width, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = GitConfig(
        vision_config=vision | {"image_size": 32, "patch_size": 16},
        vocab_size=UNITS + 3,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )
    git = GitForCausalLM(settings).eval()
    with torch.no_grad():
        for name, parameter in git.named_parameters():
            if "orm" not in name:
                parameter.normal_(std=0.4)
    git.git.image_encoder = ReplacedEncoder()
    git.output.weight = git.git.embeddings.word_embeddings.weight
    return git.eval()


def write_checkpoint(git: GitForCausalLM, folder: Path, **changes: Tensor | None) -> dict[str, Path]:
    """The training framework's file with the tokenizer in it, the codebook beside it, and the config of the GIT."""
    state = {f"model.{name}": tensor for name, tensor in git.state_dict().items()}
    state |= {f"tokenizer.{name}": tensor for name, tensor in published_vit_vqgan.published_state().items()}
    state = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
    torch.save({"epoch": 3, "state_dict": state}, folder / "last.ckpt")
    torch.save(published_vit_vqgan.published_codebook(), folder / "codebook.ckpt")
    git.config.save_pretrained(folder)
    return {
        "checkpoint": folder / "last.ckpt", "config": folder / "config.json", "codebook": folder / "codebook.ckpt"
    }  # fmt: skip


def test_logits_are_those_of_transformers_from_pixels_on(git: GitForCausalLM, tmp_path: Path) -> None:
    files = write_checkpoint(git, tmp_path)
    arguments = ["convert", "im2sp-units", str(files["checkpoint"]), "--config", str(files["config"])]
    arguments += ["--codebook", str(files["codebook"]), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "5 image tokens, with an image tokenizer" in result.output
    tokenizer = VitVqgan.load(tmp_path / "out" / "tokenizer")
    token_vit = TokenVit.load(tmp_path / "out" / "token_vit")
    translator = Translator.load(tmp_path / "out" / "translator")
    assert translator.config.image_width == 128

    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(7))
    before = published_vit_vqgan.before_codes(published_vit_vqgan.published_state(), pixels.double().numpy())
    codebook = published_vit_vqgan.published_codebook().double().numpy()
    units = published_vit_vqgan.units(before, codebook)
    vectors = codebook[units].reshape(2, 6, 6, 8)[:, 1:5, 1:5].transpose(0, 3, 1, 2)
    tokens = torch.randint(3, UNITS + 3, (2, 9), generator=torch.Generator().manual_seed(8))
    rows = torch.tensor(published_rows(UNITS))
    stem = StemFromUnits(tokenizer.codebook.weight, tokenizer.config.grid, token_vit.config.crop)
    with torch.inference_mode():
        found_units = tokenizer(pixels)
        np.testing.assert_array_equal(found_units.numpy(), units)
        backbone = nn.Sequential(stem, token_vit)
        found = translator(backbone(found_units), tokens, torch.arange(2))
        expected = git(input_ids=rows[tokens], pixel_values=torch.from_numpy(vectors).float()).logits[:, 5:]
        keys, _ = ImagePrefix(backbone, translator)(found_units)
    assert (found - expected[..., rows]).abs().max() < 5e-5
    assert expected.std() > 0.5
    assert keys.shape == (2, 2, 4, 5, 6)


def test_the_tokenizer_and_the_last_norm_may_be_missing(git: GitForCausalLM, tmp_path: Path) -> None:
    norm = "model.git.image_encoder.vision_model.norm"
    files = write_checkpoint(git, tmp_path, **{f"{norm}.weight": None, f"{norm}.bias": None})
    model = convert_im2sp_units(files["checkpoint"], files["config"])
    assert model.tokenizer is None
    vectors = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        assert torch.equal(model.token_vit(vectors), git.git.image_encoder(vectors).last_hidden_state)
    model.save(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["token_vit", "translator"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model.git.image_encoder.vision_model.cls_token": None}, "lacks cls_token"),
        ({"model.git.visual_projection.visual_projection.0.weight": torch.zeros(24, 64)}, r"of shape \[24, 64\]"),
        ({"model.git.image_encoder.vision_model.embeddings.class_embedding": torch.zeros(4)}, "unknown 'embeddings"),
        ({"model.extra": torch.zeros(4)}, r"unknown '\.?extra'"),
        ({"tokenizer.pre_quant.bias": None}, r"lacks pre_quant\.bias"),
        ({"model.output.bias": None}, r"lacks output\.bias"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(
    git: GitForCausalLM, changes: dict[str, Tensor | None], why: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=why):
        convert_im2sp_units(**write_checkpoint(git, tmp_path, **changes))


def test_parts_that_do_not_belong_together_are_refused(git: GitForCausalLM, tmp_path: Path) -> None:
    files = write_checkpoint(git, tmp_path)
    content: dict[str, Any] = torch.load(files["checkpoint"], weights_only=True)
    small = replace(published_vit_vqgan.CONFIG, image_size=12)
    state = {name: value for name, value in content["state_dict"].items() if not name.startswith("tokenizer.")}
    tokenizer = published_vit_vqgan.published_state(small)
    torch.save({"state_dict": state | {f"tokenizer.{k}": v for k, v in tokenizer.items()}}, files["checkpoint"])
    with pytest.raises(CheckpointError, match="3 x 3 units of 8 numbers and a token ViT of 4 x 4"):
        convert_im2sp_units(**files)
    torch.save({"state_dict": state}, files["checkpoint"])
    with pytest.raises(CheckpointError, match="has no image tokenizer"):
        convert_im2sp_units(**files)


def test_the_two_kinds_of_im2sp_are_told_apart(git: GitForCausalLM, tmp_path: Path) -> None:
    files = write_checkpoint(git, tmp_path)
    with pytest.raises(CheckpointError, match="use `im2sp-lab convert im2sp-units`"):
        convert_im2sp(files["checkpoint"], files["config"])
    content: dict[str, Any] = torch.load(files["checkpoint"], weights_only=True)
    state = {name: value for name, value in content["state_dict"].items() if ".blocks." not in name}
    torch.save({"state_dict": state}, files["checkpoint"])
    with pytest.raises(CheckpointError, match="has no token ViT"):
        convert_im2sp_units(**files)


def test_attacks_are_refused(git: GitForCausalLM, tmp_path: Path) -> None:
    files = write_checkpoint(git, tmp_path)
    canary = tmp_path / "canary"
    torch.save({"state_dict": {}, "hyper_parameters": Attack(os.system, f"touch {canary}")}, files["checkpoint"])
    with pytest.raises(CheckpointError, match="which no checkpoint needs"):
        convert_im2sp_units(**files)
    assert not canary.exists()
