"""Published ViT-VQGAN and SeiT checkpoints, through their commands, against transformers' ViT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.convert.vit_vqgan import convert_vit_vqgan, read_codebook
from im2sp.train.models.token_vit import TokenVit
from im2sp.train.models.vit_vqgan import VitVqgan
from tests.train.convert.published_files import run_convert
from tests.train.convert.published_image_models import TOKEN_VIT, VIT_VQGAN, token_vit, vit_vqgan


def as_module(state: dict[str, Tensor]) -> nn.Module:
    """A module with these parameters, but for the positions, which are a buffer."""
    root = nn.Module()
    for name, tensor in state.items():
        owner, *path = root, *name.split(".")
        for step in path[:-1]:
            if step not in owner._modules:
                owner.add_module(step, nn.Module())
            owner = owner._modules[step]
        if path[-1].endswith("embedding"):
            owner.register_buffer(path[-1], tensor)
        else:
            owner.register_parameter(path[-1], nn.Parameter(tensor))
    return root


def test_an_image_tokenizer_agrees_with_transformers(tmp_path: Path) -> None:
    """tokenizer.ckpt is a pickled module, with parts that served its training."""
    reference = vit_vqgan()
    torch.save(as_module(reference.published() | {"quantizer.counts": torch.zeros(3)}), tmp_path / "tokenizer.ckpt")
    torch.save(reference.codes, tmp_path / "codebook.ckpt")
    words = ["vit-vqgan", tmp_path / "tokenizer.ckpt", "--codebook", tmp_path / "codebook.ckpt"]
    assert "6 x 6 units of 50 a photo, 216 bits" in run_convert(*words, "-o", tmp_path / "out").output
    model = VitVqgan.load(tmp_path / "out")
    assert model.config == VIT_VQGAN
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        units = model(pixels)
        assert (model.before_codes(pixels) - reference.encode(pixels)).abs().max() < 1e-5
        assert torch.equal(units, reference.units(pixels))
        assert len(units.unique()) > 10
        pictures = reference.decode(units)
        assert pictures.std() > 0.1
        assert (model.decode(units) - pictures).abs().max() < 1e-5


def test_state_dicts_and_files_without_a_decoder_are_read(tmp_path: Path) -> None:
    encoder = ("encoder.", "pre_quant.")
    state = {name: tensor.half() for name, tensor in vit_vqgan().published().items() if name.startswith(encoder)}
    torch.save(state, tmp_path / "tokenizer.ckpt")
    torch.save({"weight": vit_vqgan().codes}, tmp_path / "codebook.ckpt")
    model = convert_vit_vqgan(tmp_path / "tokenizer.ckpt", tmp_path / "codebook.ckpt")
    assert model.config == replace(VIT_VQGAN, decoder_layers=0)
    assert model.pre_quant.weight.dtype == torch.float32


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


def test_a_token_vit_agrees_with_transformers(tmp_path: Path) -> None:
    torch.save({"model": token_vit().published(), "epoch": 3}, tmp_path / "seit.pth")
    result = run_convert("seit", tmp_path / "seit.pth", "-o", tmp_path / "out")
    assert "4 x 4 units become 5 image tokens of 128" in result.output
    model = TokenVit.load(tmp_path / "out")
    assert model.config == TOKEN_VIT
    vectors = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(8))
    expected = token_vit()(vectors)
    with torch.inference_mode():
        assert (model(vectors) - expected).abs().max() < 1e-5 * expected.abs().max()
