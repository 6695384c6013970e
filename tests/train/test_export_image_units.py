"""A bundle of torch modules and the voice of another bundle: the same units, prefix, pictures and sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.image.units import ImageUnits
from im2sp.train import onnx_export
from im2sp.train.export import VOICE_GRAPHS, BundleOptions, BundleParts, ImageModules, export_bundle
from im2sp.train.models.git import GitDecoder, GitDecoderConfig, ImagePrefix
from im2sp.train.models.saving import Exported
from tests.tiny_bundle import GRID, IMAGE_TOKENS, PATCH, tiny_config, tiny_image_units

SIZE, LEVELS, WIDTH = 10, 2, 6
CROP = 2  # cells a side that the decoder sees of the grid


class Quantiser(nn.Module):
    """pixels -> features of patches -> the nearest row of a codebook, and again for what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.codebooks = nn.Parameter(torch.randn(LEVELS, SIZE, WIDTH) / 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] -> units int64 [B, cells * LEVELS]."""
        rest = self.patches(pixels).flatten(2).transpose(1, 2)
        units = []
        for codebook in self.codebooks:
            distances = (rest[:, :, None] - codebook).square().sum(-1)
            units.append(distances.argmin(-1))
            rest = rest - codebook[units[-1]]
        return torch.stack(units, -1).flatten(1)

    def vectors(self, units: Tensor) -> Tensor:
        """units [B, cells * LEVELS] -> [B, cells, WIDTH]."""
        levels = units.unflatten(1, (-1, LEVELS))
        return torch.stack([self.codebooks[level][levels[..., level]] for level in range(LEVELS)]).sum(0)


class Cropped(nn.Module):
    """units -> features of the upper left cells."""

    def __init__(self, quantiser: Quantiser) -> None:
        super().__init__()
        self.quantiser = quantiser

    def forward(self, units: Tensor) -> Tensor:
        grid = self.quantiser.vectors(units).unflatten(1, (GRID, GRID))
        return grid[:, :CROP, :CROP].flatten(1, 2)


class Painter(nn.Module):
    """units -> a picture."""

    def __init__(self, quantiser: Quantiser) -> None:
        super().__init__()
        self.quantiser = quantiser
        self.to_pixels = nn.Linear(WIDTH, 3 * PATCH * PATCH)

    def forward(self, units: Tensor) -> Tensor:
        patches = self.to_pixels(self.quantiser.vectors(units)).sigmoid()
        cells = patches.reshape(-1, GRID, GRID, 3, PATCH, PATCH)
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, GRID * PATCH, GRID * PATCH)


def _bonus(features: Tensor) -> Tensor:
    return features[:, 0, :1] * torch.arange(tiny_config().decoder.vocabulary_size)


def _evidence(features: Tensor) -> Tensor:
    return -1 - _bonus(features)


@pytest.mark.parametrize(("reconstructs", "large_graph"), [(True, onnx_export.LARGE_GRAPH), (False, 0)])
def test_a_bundle_of_modules(
    tiny_bundle: Path, tmp_path: Path, reconstructs: bool, large_graph: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "LARGE_GRAPH", large_graph)
    torch.manual_seed(0)
    quantiser = Quantiser().eval()
    painter = Painter(quantiser).eval()
    translator = GitDecoder(
        GitDecoderConfig(
            vocabulary_size=tiny_config().decoder.vocabulary_size, image_width=WIDTH, width=16, layers=2, heads=2
        )
    ).eval()
    modules = ImageModules(
        image=replace(tiny_config().image, image_tokens=CROP * CROP, grid=(CROP, CROP)),
        units=replace(tiny_image_units(), codes=LEVELS, codebook_size=SIZE, crop=(CROP, CROP)),
        tokenizer=quantiser,
        backbone=Cropped(quantiser).eval(),
        decoder=painter if reconstructs else None,
        token_bonus=Exported(quantiser, _bonus) if reconstructs else None,
        token_evidence=Exported(quantiser, _evidence) if reconstructs else None,
    )
    voice = Bundle.load(tiny_bundle)
    parts = BundleParts(modules, translator, voice.config.vocabulary, voice)
    options = BundleOptions(name="mine", limitations=("It sees colours only.",), precision="fp32", max_tokens=20)
    folder = tmp_path / "bundle"
    export_bundle(parts, options, {"data": "my photos", "photos": 12}, folder)
    for name in VOICE_GRAPHS:
        assert (folder / f"{name}.onnx").read_bytes() == (tiny_bundle / f"{name}.onnx").read_bytes()
    assert (folder / "image_tokenizer.onnx.data").exists() is (large_graph == 0)
    card = (folder / "README.md").read_text()
    assert "| data | my photos |" in card
    assert "- It sees colours only." in card
    assert "Not stated by its recipe." in card
    assert "Flickr8k" not in card

    captioner = Captioner.from_pretrained(folder, threads=1)
    assert captioner.image_tokenizer.reconstructs is reconstructs
    photos = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    pixels = np.stack([captioner.image_encoder.pixels(photo) for photo in photos])
    with torch.inference_mode():
        expected = quantiser(torch.from_numpy(pixels))
        keys, _, *by_token = ImagePrefix(modules.backbone, translator, list(modules.by_token.values()))(expected)
        pictures = painter(expected)
    for index, photo in enumerate(photos):
        units = ImageUnits(captioner.tokenize(photo), captioner.image_tokenizer)
        assert units.units.shape == (IMAGE_TOKENS * LEVELS,)
        assert units.units.tolist() == expected[index].tolist()
        np.testing.assert_allclose(captioner.encode(units).keys[:, 0], keys[:, index], atol=1e-5)
        np.testing.assert_array_equal(captioner.caption(units).waveform, captioner.caption(photo).waveform)
        if reconstructs:
            wanted = pictures[index].permute(1, 2, 0).numpy() * 255
            assert np.abs(captioner.reconstruct(units) - wanted).max() <= 0.51
    prefixes = captioner.image_encoder.encode_pixels(pixels)
    assert len(prefixes) == len(photos)
    if reconstructs:
        for name, wanted in zip(("token_bonus", "token_evidence"), by_token, strict=True):
            found = np.stack([getattr(prefix, name) for prefix in prefixes])
            np.testing.assert_allclose(found, wanted, atol=1e-5)
