"""Semantic image units: the quantiser against a plain re-computation, and what fitting promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.semantic_units import SemanticUnits

CELLS, WIDE, WIDTH, LEVELS, SIZE = 4, 12, 8, 3, 16


@pytest.fixture(scope="module")
def captioner() -> GitDecoder:
    torch.manual_seed(0)
    return GitDecoder(GitDecoderConfig(10, image_width=WIDE, width=WIDTH, layers=1, heads=2, feed_forward=8)).eval()


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(200, CELLS, WIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(captioner: GitDecoder, photos: np.ndarray) -> tuple[SemanticUnits, list[float]]:
    quantiser = SemanticUnits.like(captioner, LEVELS, SIZE)
    return quantiser, quantiser.fit(photos.reshape(-1, WIDE))


def test_it_sees_what_the_captioner_sees(captioner: GitDecoder, photos: np.ndarray) -> None:
    quantiser = SemanticUnits.like(captioner, LEVELS, SIZE)
    features = torch.from_numpy(photos[:2])
    with torch.inference_mode():
        wanted = captioner.image_norm(captioner.image_projection(features))
        assert torch.equal(quantiser.project(features), wanted)


def test_each_level_leaves_less(fitted: tuple[SemanticUnits, list[float]]) -> None:
    _, missing = fitted
    assert len(missing) == LEVELS
    assert missing == sorted(missing, reverse=True)
    assert 0 < missing[-1] < 0.4


def test_units_agree_with_a_plain_computation(fitted: tuple[SemanticUnits, list[float]], photos: np.ndarray) -> None:
    quantiser, _ = fitted
    with torch.inference_mode():
        units = quantiser(torch.from_numpy(photos[:3]))
        said = quantiser.features(units).numpy()
        projected = quantiser.project(torch.from_numpy(photos[:3])).numpy()
    centres = quantiser.codebooks.numpy().astype(np.float64)
    assert units.shape == (3, CELLS * LEVELS)
    for photo in range(3):
        for cell in range(CELLS):
            missing, total = projected[photo, cell].astype(np.float64), np.zeros(WIDTH)
            for level in range(LEVELS):
                code = int(np.square(centres[level] - missing).sum(1).argmin())
                assert units[photo, cell * LEVELS + level] == code
                missing = missing - centres[level][code]
                total += centres[level][code]
            np.testing.assert_allclose(said[photo, cell], total, atol=1e-5)


def test_it_is_saved_whole(fitted: tuple[SemanticUnits, list[float]], photos: np.ndarray, tmp_path: Path) -> None:
    quantiser, _ = fitted
    quantiser.save(tmp_path / "semantic")
    again = SemanticUnits.load(tmp_path / "semantic")
    with torch.inference_mode():
        assert torch.equal(again(torch.from_numpy(photos)), quantiser(torch.from_numpy(photos)))


def test_fitting_repeats(captioner: GitDecoder, photos: np.ndarray, fitted: tuple[SemanticUnits, list[float]]) -> None:
    again = SemanticUnits.like(captioner, LEVELS, SIZE)
    again.fit(photos.reshape(-1, WIDE))
    assert torch.equal(again.codebooks, fitted[0].codebooks)
