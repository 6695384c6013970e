"""A token ViT and a translator that learn together, from image units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn

from im2sp.image.unit_table import write_unit_table
from im2sp.train.data.token_augmentation import TokenAugmentation
from im2sp.train.data.unit_features import StoredUnits, unit_table_file
from im2sp.train.models.git import GitDecoder, GitDecoderConfig, ImagePrefix
from im2sp.train.models.semantic_units import SemanticUnits, SemanticUnitsConfig
from im2sp.train.models.token_vit import StemFromUnits, TokenVit, TokenVitConfig
from im2sp.train.training.token_translator import TOKEN_VIT, SemanticTranslator, TokenTranslator
from im2sp.train.training.translator import TranslatorTraining, train_translator
from tests.tiny_bundle import tiny_image_units

GRID, CROP, CODES = 6, 4, 12
CODEBOOK = torch.randn(CODES, 4, generator=torch.Generator().manual_seed(0))
SIZES = GitDecoderConfig(20, image_width=16, width=16, layers=1, heads=2, feed_forward=16, dropout=0, image_dropout=0)
TOKENIZER = replace(tiny_image_units(), grid=(GRID, GRID), codes=1, codebook_size=CODES)


def made() -> TokenTranslator:
    torch.manual_seed(0)
    token_vit = TokenVit(TokenVitConfig(code_width=4, crop=CROP, width=16, layers=1, heads=2, feed_forward=16))
    return TokenTranslator(SIZES, token_vit, CODEBOOK, GRID, TokenAugmentation(neighbours=2))


def keys(model: nn.Module, units: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.prefix(units)[0][0]


def test_its_parts_are_saved_as_those_of_a_bundle(tmp_path: Path) -> None:
    model, units = made().eval(), torch.randint(CODES, (2, GRID * GRID))
    model.save(tmp_path)
    seeing = nn.Sequential(StemFromUnits(CODEBOOK, GRID, CROP), TokenVit.load(tmp_path / TOKEN_VIT))
    with torch.inference_mode():
        found, _ = ImagePrefix(seeing, GitDecoder.load(tmp_path))(units)
    assert torch.equal(found[0], keys(model, units))


def assert_augmented_as_torch_is_seeded(model: nn.Module, units: torch.Tensor) -> None:
    """In training, and not in evaluation."""
    model.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(keys(model, units))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], keys(model.eval(), units))


def test_units_are_augmented_in_training_as_torch_is_seeded() -> None:
    assert_augmented_as_torch_is_seeded(made(), torch.randint(CODES, (2, GRID * GRID)))


@pytest.fixture
def stored(tmp_path: Path) -> StoredUnits:
    random = np.random.default_rng(0)
    rows = [(image_id, random.integers(CODES, size=GRID * GRID)) for image_id in "abcdef"]
    write_unit_table(unit_table_file(tmp_path / "units", "whole"), TOKENIZER, rows)
    return StoredUnits([tmp_path / "units"], ("whole",), TOKENIZER, "x")


def test_both_learn_from_stored_units(stored: StoredUnits, tmp_path: Path) -> None:
    sentences = {image: [[1, 3 + row, 4 + row, 2]] for row, image in enumerate("abcdef")}
    options = TranslatorTraining(steps=3, photos=3, warm_up=1, report_every=3)
    model = made()
    before = {name: value.clone() for name, value in model.named_parameters()}
    train_translator(model, stored, sentences, sentences, options, tmp_path / "out")
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {"token_vit.patch_embed.proj.weight", "token_vit.pos_embed", "image_projection.weight"} <= moved
    assert torch.equal(model.stem.codebook, CODEBOOK)
    saved = TokenVit.load(tmp_path / "out" / TOKEN_VIT)
    assert torch.equal(saved.pos_embed, model.token_vit.pos_embed)


def test_semantic_units_are_augmented_in_training_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantiser = SemanticUnits(SemanticUnitsConfig(image_width=5, width=16, levels=2, size=CODES))
    quantiser.codebooks.normal_()
    model = SemanticTranslator(SIZES, quantiser, TokenAugmentation(neighbours=2))
    units = torch.randint(CODES, (2, 4 * 2))
    plain = keys(model.eval(), units)
    model.save(tmp_path)
    assert torch.equal(plain, keys(GitDecoder.load(tmp_path), quantiser.features(units)))
    assert_augmented_as_torch_is_seeded(model, units)
