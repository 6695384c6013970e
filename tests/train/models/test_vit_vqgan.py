"""ViT-VQGAN: published sizes, and sizes that cannot be built. convert/test_vit_vqgan.py has its arithmetic."""

from __future__ import annotations

import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = VitVqgan(VitVqganConfig()).state_dict()
    assert state["encoder.to_patch_embedding.0.weight"].shape == (512, 3, 8, 8)
    assert state["encoder.en_pos_embedding"].shape == (1, 1024, 512)
    assert state["encoder.transformer.layers.7.attn.qkv.weight"].shape == (1536, 512)
    assert state["encoder.transformer.layers.7.mlp.fc1.weight"].shape == (2048, 512)
    assert state["pre_quant.weight"].shape == (32, 512)
    assert state["decoder.to_pixel.1.weight"].shape == (512, 3, 8, 8)
    assert VitVqganConfig().bits == 13_312


@pytest.mark.parametrize("sizes", [{"image_size": 257}, {"width": 510}])
def test_sizes_that_cannot_be_built_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(Im2SpError, match="cannot be built"):
        VitVqgan(VitVqganConfig(**sizes))
