"""Published ViT-VQGAN checkpoints, through the command, against the formulas; what is not one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.convert.vit_vqgan import convert_vit_vqgan, read_codebook
from im2sp.train.models.vit_vqgan import VitVqgan
from tests.train.convert.pickled_modules import write_pickled_module
from tests.train.convert.published_files import run_convert
from tests.train.models import published_vit_vqgan as published
from tests.train.models.published_vit_vqgan import CONFIG


def write_published(folder: Path, **changes: Tensor | None) -> tuple[Path, Path]:
    """tokenizer.ckpt, a pickled module of a lost class, and codebook.ckpt."""
    state = {name: tensor for name, tensor in (published.published_state() | changes).items() if tensor is not None}
    write_pickled_module(state, folder / "tokenizer.ckpt", ("en_pos_embedding",))
    torch.save(published.published_codebook(), folder / "codebook.ckpt")
    return folder / "tokenizer.ckpt", folder / "codebook.ckpt"


def test_the_command_makes_a_tokenizer_that_agrees_with_the_formulas(tmp_path: Path) -> None:
    tokenizer, codebook = write_published(tmp_path, **{"quantizer.counts": torch.zeros(3)})
    with pytest.raises(ModuleNotFoundError):
        torch.load(tokenizer, weights_only=False)
    result = run_convert("vit-vqgan", tokenizer, "--codebook", codebook, "-o", tmp_path / "out")
    assert "6 x 6 units of 50 a photo, 216 bits" in result.output
    model = VitVqgan.load(tmp_path / "out")
    assert model.config == CONFIG
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(7))
    expected = published.before_codes(published.published_state(), pixels.double().numpy())
    rows = published.published_codebook().double().numpy()
    with torch.inference_mode():
        assert np.abs(model.before_codes(pixels).numpy() - expected).max() < 1e-5
        np.testing.assert_array_equal(model.encode(pixels).numpy(), published.units(expected, rows))


def test_state_dicts_and_files_without_a_decoder_are_read(tmp_path: Path) -> None:
    state = published.published_state(published.WITHOUT_DECODER)
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "tokenizer.ckpt")
    torch.save({"weight": published.published_codebook()}, tmp_path / "codebook.ckpt")
    model = convert_vit_vqgan(tmp_path / "tokenizer.ckpt", tmp_path / "codebook.ckpt")
    assert model.config == published.WITHOUT_DECODER
    assert model.pre_quant.weight.dtype == torch.float32


def test_a_codebook_may_be_a_pickled_embedding(tmp_path: Path) -> None:
    embedding = nn.Embedding(9, 4)
    torch.save(embedding, tmp_path / "codebook.ckpt")
    assert torch.equal(read_codebook(tmp_path / "codebook.ckpt"), embedding.weight.data)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoder.to_patch_embedding.0.weight": None}, r"lacks a whole encoder\.to_patch_embedding"),
        ({"encoder.en_pos_embedding": torch.zeros(1, 35, 16)}, "35 positions"),
        ({"encoder.transformer.layers.0.0.fn.to_qkv.weight": torch.zeros(90, 16)}, "attention of width 30"),
        ({"encoder.transformer.layers.1.0.norm.bias": None}, r"lacks encoder\.transformer\.layers\.1\.0\.norm\.bias"),
        ({"encoder.transformer.layers.7.0.norm.bias": torch.zeros(16)}, "no row of at most 128 blocks"),
        ({"encoder.surprise.weight": torch.zeros(16)}, r"unknown 'encoder\.surprise\.weight'"),
        ({"pre_quant.weight": torch.zeros(9, 16)}, r"pre_quant\.weight of shape \[9, 16\]"),
        ({"pre_quant.bias": torch.full((8,), torch.nan)}, r"not numbers in pre_quant\.bias"),
        ({"post_quant.weight": None}, r"lacks post_quant\.weight"),
    ],
)
def test_tokenizers_that_do_not_fit_are_refused(changes: dict[str, Tensor | None], why: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=why):
        convert_vit_vqgan(*write_published(tmp_path, **changes))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.zeros(4), "no codebook"),
        (torch.zeros(4, 2, dtype=torch.int64), "no codebook"),
        ({"a": torch.ones(4, 2), "b": torch.ones(4, 2)}, "no codebook"),
        (torch.ones(65_537, 1), "no codebook"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "no directions"),
        (torch.tensor([[1.0, 0.0], [torch.inf, 0.0]]), "no directions"),
    ],
)
def test_files_that_are_no_codebook_are_refused(value: object, why: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "codebook.ckpt")
    with pytest.raises(CheckpointError, match=why):
        read_codebook(tmp_path / "codebook.ckpt")
