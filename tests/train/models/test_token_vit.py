"""Token ViT against its published formulas, computed a second time in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.image_encoders import unit_image_config
from im2sp.train.models.token_vit import StemFromUnits, TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqganConfig
from tests.train.models import published_token_vit as published
from tests.train.models.published_token_vit import CONFIG


@pytest.fixture(scope="module")
def model() -> TokenVit:
    model = TokenVit(CONFIG).eval()
    model.load_state_dict(published.encoder_state())
    return model


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(5))


def test_features_are_those_of_the_formulas_without_the_last_norm(model: TokenVit, vectors: torch.Tensor) -> None:
    expected = published.features(published.published_state(), vectors.double().numpy())
    with torch.inference_mode():
        found = model(vectors)
    assert found.shape == (3, 5, 128)
    assert np.abs(found.numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_names_and_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = TokenVit(TokenVitConfig()).state_dict()
    assert set(TokenVit(CONFIG).state_dict()) == set(published.encoder_state())
    assert len(state) == 4 + 12 * 12
    assert state["patch_embed.proj.weight"].shape == (768, 32, 4, 4)
    assert state["pos_embed"].shape == (1, 197, 768)
    assert state["blocks.11.attn.qkv.weight"].shape == (2304, 768)
    assert state["blocks.11.mlp.fc1.weight"].shape == (3072, 768)


def test_published_pictures_are_256_pixels_wide_and_their_tokens_197() -> None:
    config = unit_image_config(VitVqganConfig(), TokenVitConfig())
    assert (config.height, config.width) == (256, 256)
    assert (config.mean, config.std) == ((0, 0, 0), (1, 1, 1))
    assert (config.image_tokens, config.grid) == (14 * 14 + 1, (14, 14))


def test_units_become_the_vectors_of_the_middle() -> None:
    codebook = torch.arange(36.0)[:, None] * torch.tensor([1.0, -1.0])
    stem = StemFromUnits(codebook, grid=6, crop=4)
    found = stem(torch.stack([torch.arange(36), torch.arange(36).flip(0)]))
    assert found.shape == (2, 2, 4, 4)
    assert found[0, 0].tolist() == [[row * 6 + column for column in range(1, 5)] for row in range(1, 5)]
    assert torch.equal(found[1, 1], -found[0, 0].flip(0, 1))
    with pytest.raises(Im2SpError, match="crop less"):
        StemFromUnits(codebook, grid=6, crop=8)


def test_saved_models_come_back(model: TokenVit, vectors: torch.Tensor, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = TokenVit.load(tmp_path)
    assert loaded.config == CONFIG
    with torch.inference_mode():
        assert torch.equal(loaded(vectors), model(vectors))
