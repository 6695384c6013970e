"""ViT-VQGAN against its published formulas, computed a second time in numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig, sine_cosine_positions
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


def test_units_and_features_are_those_of_the_formulas(model: VitVqgan, pixels: torch.Tensor) -> None:
    expected = published.before_codes(published.published_state(), pixels.double().numpy())
    codebook = published.published_codebook().double().numpy()
    with torch.inference_mode():
        found, units = model.before_codes(pixels), model.encode(pixels)
        assert torch.equal(model(pixels), units)
        vectors = model.vectors(units)
    assert np.abs(found.numpy() - expected).max() < 1e-5
    np.testing.assert_array_equal(units.numpy(), published.units(expected, codebook))
    assert units.shape == (3, CONFIG.units)
    assert units.dtype == torch.int64
    assert len(np.unique(units.numpy())) > 10
    np.testing.assert_array_equal(vectors.numpy(), codebook.astype(np.float32)[units.numpy()])


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


def test_positions_are_those_of_the_formula() -> None:
    expected = published.sine_cosine(24, 5)
    assert np.abs(sine_cosine_positions(24, 5)[0].numpy() - expected).max() < 1e-6


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


def test_saved_models_come_back(model: VitVqgan, pixels: torch.Tensor, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = VitVqgan.load(tmp_path)
    assert loaded.config == CONFIG
    with torch.inference_mode():
        assert torch.equal(loaded.encode(pixels), model.encode(pixels))


def test_without_a_decoder_nothing_can_be_decoded() -> None:
    model = VitVqgan(published.WITHOUT_DECODER)
    assert not [name for name in model.state_dict() if "decoder" in name or "post_quant" in name]
    with pytest.raises(Im2SpError, match="has no decoder"):
        model.decode(torch.zeros(1, CONFIG.units, dtype=torch.int64))


@pytest.mark.parametrize("change", [{"image_size": 25}, {"width": 18}])
def test_sizes_that_cannot_be_built_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(Im2SpError, match="cannot be built"):
        VitVqgan(replace(CONFIG, **change))
