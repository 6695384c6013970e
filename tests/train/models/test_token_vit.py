"""Token ViT: published sizes and what it takes of a photo. convert/test_seit.py has its arithmetic."""

from __future__ import annotations

import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.image_encoders import unit_image_config
from im2sp.train.models.token_vit import StemFromUnits, TokenVit, TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqganConfig


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = TokenVit(TokenVitConfig()).state_dict()
    assert len(state) == 4 + 12 * 12
    assert state["patch_embed.proj.weight"].shape == (768, 32, 4, 4)
    assert state["pos_embed"].shape == (1, 197, 768)
    assert state["blocks.11.attn.qkv.weight"].shape == (2304, 768)
    config = unit_image_config(VitVqganConfig(), TokenVitConfig())
    assert (config.height, config.width, config.mean, config.std) == (256, 256, (0, 0, 0), (1, 1, 1))
    assert (config.image_tokens, config.grid) == (14 * 14 + 1, (14, 14))


def test_units_become_the_vectors_of_the_middle() -> None:
    codebook = torch.arange(36.0)[:, None] * torch.tensor([1.0, -1.0])
    found = StemFromUnits(codebook, grid=6, crop=4)(torch.stack([torch.arange(36), torch.arange(36).flip(0)]))
    assert found.shape == (2, 2, 4, 4)
    assert found[0, 0].tolist() == [[row * 6 + column for column in range(1, 5)] for row in range(1, 5)]
    assert torch.equal(found[1, 1], -found[0, 0].flip(0, 1))
    with pytest.raises(Im2SpError, match="crop less"):
        StemFromUnits(codebook, grid=6, crop=8)
