"""ViT-VQGAN against its published formulas, computed a second time in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from tests.train.models import published_vit_vqgan as published
from tests.train.models.published_vit_vqgan import CONFIG


@pytest.fixture(scope="module")
def model() -> VitVqgan:
    model = VitVqgan(CONFIG).eval()
    model.load_state_dict(published.published_state() | {"codebook.weight": published.published_codebook()})
    return model


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, CONFIG.image_size, CONFIG.image_size, generator=torch.Generator().manual_seed(2))


def test_pictures_are_those_of_the_formulas(model: VitVqgan) -> None:
    units = torch.randint(CONFIG.codebook_size, (2, CONFIG.units), generator=torch.Generator().manual_seed(3))
    codebook = published.published_codebook().double().numpy()
    expected = published.decoded(published.published_state(), codebook, units.numpy())
    with torch.inference_mode():
        found = model.decode(units)
    assert np.abs(found.numpy() - expected).max() < 1e-5
    assert ((expected > 0) & (expected < 1)).mean() > 0
    assert found.min() >= 0
    assert found.max() <= 1


def test_names_and_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = VitVqgan(VitVqganConfig()).state_dict()
    small = VitVqgan(CONFIG).state_dict()
    assert set(small) == set(published.published_state()) | {"codebook.weight"}
    assert state["encoder.to_patch_embedding.0.weight"].shape == (512, 3, 8, 8)
    assert state["encoder.en_pos_embedding"].shape == (1, 1024, 512)
    assert state["encoder.transformer.layers.7.0.fn.to_qkv.weight"].shape == (1536, 512)
    assert state["encoder.transformer.layers.7.1.fn.net.0.weight"].shape == (2048, 512)
    assert state["pre_quant.weight"].shape == (32, 512)
    assert state["decoder.to_pixel.1.weight"].shape == (512, 3, 8, 8)
    assert VitVqganConfig().bits == 13_312


def test_without_a_decoder_nothing_can_be_decoded() -> None:
    model = VitVqgan(published.WITHOUT_DECODER)
    assert not [name for name in model.state_dict() if "decoder" in name or "post_quant" in name]
    with pytest.raises(Im2SpError, match="has no decoder"):
        model.decode(torch.zeros(1, CONFIG.units, dtype=torch.int64))


@pytest.mark.parametrize("change", [{"image_size": 25}, {"width": 18}])
def test_sizes_that_cannot_be_built_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(Im2SpError, match="cannot be built"):
        VitVqgan(replace(CONFIG, **change))
