"""Token augmentations: what each may change and what it must leave alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.data.token_augmentation import (
    TokenAugmentation,
    TokenAugmenter,
    embedding_noise,
    near_neighbours,
    random_crop,
    replace_by_neighbours,
    swap_patches,
)
from im2sp.train.models.token_vit import StemFromUnits

CODEBOOK = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * 3
NOTHING = TokenAugmentation(replacing=0, swapping=0, noisy=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def units() -> torch.Tensor:
    return torch.randint(40, (64, 81), generator=generator(1))


def test_crops_are_pieces_of_the_grid_from_everywhere() -> None:
    grid = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(200, 2, 1, 1)
    found = random_crop(grid, 4, generator())
    assert found.shape == (200, 2, 4, 4)
    corners = found[:, 0, 0, 0]
    expected = corners[:, None, None] + 6 * torch.arange(4)[:, None] + torch.arange(4)
    assert torch.equal(found[:, 0], expected)
    assert torch.equal(found[:, 0], found[:, 1])
    assert set(corners.tolist()) == {row * 6 + column for row in range(3) for column in range(3)}
    with pytest.raises(Im2SpError, match="crop less"):
        random_crop(grid, 7, generator())


def test_noise_has_its_two_parts_and_leaves_the_others_alone() -> None:
    vectors = torch.randn(400, 5, 8, 8, generator=generator(2))
    added = embedding_noise(vectors, 0.25, 2.0, 0.5, generator()) - vectors
    noisy = added.flatten(1).abs().sum(1) > 0
    assert noisy.sum() == 100
    offsets = added[noisy].mean((2, 3))
    assert 1.8 < offsets.std() < 2.2
    assert 0.48 < (added[noisy] - offsets[..., None, None]).std() < 0.52
    assert torch.equal(embedding_noise(vectors, 0.0, 2.0, 0.5, generator()), vectors)


def test_neighbours_are_the_nearest_directions() -> None:
    found = near_neighbours(CODEBOOK, 3)
    rows = CODEBOOK.double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = ((rows[:, None] - rows) ** 2).sum(-1)
    np.testing.assert_array_equal(found.numpy(), distances.argsort(1)[:, 1:4])
    for count in (0, 40):
        with pytest.raises(Im2SpError, match="ask for fewer"):
            near_neighbours(CODEBOOK, count)


def test_a_share_of_the_units_becomes_a_neighbour(units: torch.Tensor) -> None:
    neighbours = near_neighbours(CODEBOOK, 3)
    found = replace_by_neighbours(units, neighbours, 0.3, generator())
    changed = found != units
    assert 0.27 < changed.float().mean() < 0.33
    assert (neighbours[units[changed]] == found[changed][:, None]).any(1).all()
    assert {0, 1, 2} == set((neighbours[units[changed]] == found[changed][:, None]).int().argmax(1).tolist())
    assert torch.equal(replace_by_neighbours(units, neighbours, 0.0, generator()), units)


def test_two_patches_change_places() -> None:
    units = torch.arange(400).reshape(1, 20, 20).repeat(300, 1, 1)
    found = swap_patches(units, 0.25, generator())
    assert torch.equal(found.flatten(1).sort(1).values, units.flatten(1))
    sides = set()
    for photo in found:
        moved = (photo != units[0]).nonzero()
        side = round((len(moved) / 2) ** 0.5)
        assert len(moved) == 2 * side * side
        shifts = {int(value) for value in (photo - units[0]).flatten() if value}
        assert len(shifts) == (2 if side else 0)  # each patch moved as a whole, to where the other was
        assert sum(shifts) == 0
        sides.add(side)
    assert sides == {0, 1, 2, 3, 4}


def test_a_photo_gets_neighbours_or_a_swap_but_never_both(units: torch.Tensor) -> None:
    each = torch.arange(81).repeat(400, 1) % 40
    augment = TokenAugmenter(CODEBOOK, 9, 9, replace(NOTHING, replacing=0.25, swapping=0.25, largest_patch=0.3))
    rows = torch.cdist(augment(each, generator()).flatten(2).transpose(1, 2), CODEBOOK).argmin(-1)
    changed = (rows != each).sum(1)
    same = (rows.sort(1).values == each.sort(1).values).all(1)
    assert 0.4 < (changed == 0).float().mean() < 0.75  # neither, or patches of no size
    assert 0.05 < ((changed > 0) & same).float().mean() < 0.3
    assert 0.2 < (~same).float().mean() < 0.3
    assert changed[~same].float().mean() < 0.35 * 81
    with pytest.raises(Im2SpError, match="together at most 1"):
        TokenAugmentation(replacing=0.6, swapping=0.6)


@pytest.mark.parametrize("change", [{"replacing": 1.0}, {"swapping": 1.0}, {"noisy": 1.0}])
def test_each_of_them_works_by_itself(change: dict[str, float], units: torch.Tensor) -> None:
    augment = TokenAugmenter(CODEBOOK, 9, 9, replace(NOTHING, **change))
    assert not torch.equal(augment(units, generator()), StemFromUnits(CODEBOOK, 9, 9)(units))
