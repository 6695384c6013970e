"""Published ViT-VQGAN checkpoints, through the command, against transformers; what is not one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.convert.vit_vqgan import convert_vit_vqgan, read_codebook
from im2sp.train.models.vit_vqgan import VitVqgan
from tests.train.convert.pickled_modules import write_pickled_module
from tests.train.convert.published_files import run_convert
from tests.train.convert.published_image_models import (
    VIT_VQGAN,
    before_codes,
    codebook_rows,
    decoded,
    nearest,
    vit_vqgan_state,
)


def write_published(folder: Path, **changes: Tensor | None) -> tuple[Path, Path]:
    """tokenizer.ckpt, a pickled module of a lost class, and codebook.ckpt."""
    state = {name: tensor for name, tensor in (vit_vqgan_state() | changes).items() if tensor is not None}
    write_pickled_module(state, folder / "tokenizer.ckpt", ("en_pos_embedding",))
    torch.save(codebook_rows(), folder / "codebook.ckpt")
    return folder / "tokenizer.ckpt", folder / "codebook.ckpt"


def test_the_command_makes_a_tokenizer_that_agrees_with_transformers(tmp_path: Path) -> None:
    tokenizer, codebook = write_published(tmp_path, **{"quantizer.counts": torch.zeros(3)})
    with pytest.raises(ModuleNotFoundError):
        torch.load(tokenizer, weights_only=False)
    result = run_convert("vit-vqgan", tokenizer, "--codebook", codebook, "-o", tmp_path / "out")
    assert "6 x 6 units of 50 a photo, 216 bits" in result.output
    model = VitVqgan.load(tmp_path / "out")
    assert model.config == VIT_VQGAN
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(7))
    expected = before_codes(pixels)
    with torch.inference_mode():
        units = model(pixels)
        assert (model.before_codes(pixels) - expected).abs().max() < 1e-5
        np.testing.assert_array_equal(units.numpy(), nearest(expected))
        assert len(units.unique()) > 10
        pictures = decoded(units)
        assert pictures.std() > 0.1
        assert (model.decode(units) - pictures).abs().max() < 1e-5


def test_state_dicts_and_files_without_a_decoder_are_read(tmp_path: Path) -> None:
    config, encoder = replace(VIT_VQGAN, decoder_layers=0), ("encoder.", "pre_quant.")
    state = {name: tensor.half() for name, tensor in vit_vqgan_state().items() if name.startswith(encoder)}
    torch.save(state, tmp_path / "tokenizer.ckpt")
    torch.save({"weight": codebook_rows()}, tmp_path / "codebook.ckpt")
    model = convert_vit_vqgan(tmp_path / "tokenizer.ckpt", tmp_path / "codebook.ckpt")
    assert model.config == config
    assert model.pre_quant.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoder.to_patch_embedding.0.weight": None}, r"lacks a whole encoder\.to_patch_embedding"),
        ({"encoder.en_pos_embedding": torch.zeros(1, 35, 128)}, "35 positions"),
        ({"encoder.transformer.layers.1.0.norm.bias": None}, r"lacks encoder\.transformer\.layers\.1\.norm1\.bias"),
        ({"encoder.transformer.layers.7.0.norm.bias": torch.zeros(128)}, "no row of at most 128 blocks"),
        ({"encoder.surprise.weight": torch.zeros(16)}, r"unknown 'encoder\.surprise\.weight'"),
        ({"pre_quant.weight": torch.zeros(9, 128)}, r"pre_quant\.weight of shape \[9, 128\]"),
        ({"pre_quant.bias": torch.full((8,), torch.nan)}, r"not numbers in pre_quant\.bias"),
    ],
)
def test_tokenizers_that_do_not_fit_are_refused(changes: dict[str, Tensor | None], why: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=why):
        convert_vit_vqgan(*write_published(tmp_path, **changes))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.zeros(4, 2, dtype=torch.int64), "no codes of a codebook"),
        ({"a": torch.ones(4, 2), "b": torch.ones(4, 2)}, "no codes of a codebook"),
        (torch.ones(65_537, 1), "no 2 to 65536 codes"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "that are directions"),
        (torch.tensor([[1.0, 0.0], [torch.inf, 0.0]]), "that are not numbers"),
    ],
)
def test_files_that_are_no_codebook_are_refused(value: object, why: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "codebook.ckpt")
    with pytest.raises(CheckpointError, match=why):
        read_codebook(tmp_path / "codebook.ckpt")
