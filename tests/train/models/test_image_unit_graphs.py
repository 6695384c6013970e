"""ViT-VQGAN and token ViT as graphs, in batches of another size than they were traced with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from im2sp.train.models.git import GitDecoder, GitDecoderConfig, ImagePrefix
from im2sp.train.models.token_vit import StemFromUnits, TokenVit
from im2sp.train.models.vit_vqgan import PixelsFromUnits, VitVqgan
from im2sp.train.onnx_export import export_graph
from tests.train.models import published_token_vit, published_vit_vqgan
from tests.train.models.published_vit_vqgan import CONFIG


def run_graph(module: nn.Module, example: Tensor, given: Tensor, outputs: dict[str, int], path: Path) -> list[Tensor]:
    """What onnxruntime makes of `given`; `outputs` names them, with the axis of the batch."""
    dynamic = {"given": {0: "batch"}} | {name: {axis: "batch"} for name, axis in outputs.items()}
    export_graph(module, [example], (["given"], list(outputs)), dynamic, path, "fp32")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {"given": given.numpy()})]


def test_the_whole_path_from_pixels_on(tmp_path: Path) -> None:
    tokenizer = VitVqgan(CONFIG).eval()
    tokenizer.load_state_dict(published_vit_vqgan.published_state() | {
        "codebook.weight": published_vit_vqgan.published_codebook()
    })  # fmt: skip
    pixels = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    (units,) = run_graph(tokenizer, pixels[:1], pixels, {"units": 0}, tmp_path / "tokenizer.onnx")
    with torch.inference_mode():
        np.testing.assert_array_equal(units.numpy(), tokenizer.encode(pixels).numpy())
        expected = tokenizer.decode(units)
    (pictures,) = run_graph(PixelsFromUnits(tokenizer), units[:1], units, {"pixels": 0}, tmp_path / "decoder.onnx")
    assert (pictures - expected).abs().max() < 1e-5

    token_vit = TokenVit(published_token_vit.CONFIG).eval()
    token_vit.load_state_dict(published_token_vit.published_state())
    sizes = GitDecoderConfig(vocabulary_size=9, image_width=128, width=16, layers=2, heads=2, feed_forward=16)
    stem = StemFromUnits(tokenizer.codebook.weight, CONFIG.grid, token_vit.config.crop)
    prefix = ImagePrefix(nn.Sequential(stem, token_vit), GitDecoder(sizes).eval())
    axes = {"keys": 1, "values": 1}
    found = run_graph(prefix, units[:1], units, axes, tmp_path / "prefix.onnx")
    with torch.inference_mode():
        for tensor, other in zip(found, prefix(units), strict=True):
            assert tensor.shape == (2, 5, 2, 5, 8)
            assert (tensor - other).abs().max() < 1e-4
