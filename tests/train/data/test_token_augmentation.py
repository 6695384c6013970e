"""Token augmentations: what each may change and what it must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from im2sp.train.data import token_augmentation
from im2sp.train.data.token_augmentation import (
    TokenAugmenter,
    embedding_noise,
    near_neighbours,
    random_crop,
    replace_by_neighbours,
    swap_patches,
)

CODEBOOK = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_crops_are_pieces_of_the_grid_from_everywhere() -> None:
    grid = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(200, 2, 1, 1)
    found = random_crop(grid, 4, generator())
    corners = found[:, 0, 0, 0]
    expected = corners[:, None, None] + 6 * torch.arange(4)[:, None] + torch.arange(4)
    assert torch.equal(found, expected[:, None].expand(200, 2, 4, 4))
    assert set(corners.tolist()) == {row * 6 + column for row in range(3) for column in range(3)}


def test_noise_has_its_two_parts_and_leaves_the_others_alone() -> None:
    vectors = torch.randn(400, 5, 8, 8, generator=generator(2))
    added = embedding_noise(vectors, 2.0, generator()) - vectors
    noisy = added.flatten(1).abs().sum(1) > 0
    assert noisy.sum() == 200
    offsets = added[noisy].mean((2, 3))
    assert 1.8 < offsets.std() < 2.2
    assert 1.9 < (added[noisy] - offsets[..., None, None]).std() < 2.1


def test_neighbours_are_the_nearest_directions() -> None:
    rows = CODEBOOK.double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = ((rows[:, None] - rows) ** 2).sum(-1)
    np.testing.assert_array_equal(near_neighbours(CODEBOOK, 3).numpy(), distances.argsort(1)[:, 1:4])


def test_a_share_of_the_units_becomes_a_neighbour() -> None:
    units, neighbours = torch.randint(40, (64, 81), generator=generator(1)), near_neighbours(CODEBOOK, 3)
    found = replace_by_neighbours(units, neighbours, generator())
    changed = found != units
    same = neighbours[units[changed]] == found[changed][:, None]
    assert 0.22 < changed.float().mean() < 0.28
    assert same.any(1).all()
    assert {0, 1, 2} == set(same.int().argmax(1).tolist())


def test_two_patches_change_places() -> None:
    units = torch.arange(400).reshape(1, 20, 20).repeat(300, 1, 1)
    found = swap_patches(units, generator())
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


def test_a_photo_gets_neighbours_or_a_swap_but_never_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_augmentation, "NOISY", 0.0)
    each = torch.arange(81).repeat(400, 1) % 40
    augment = TokenAugmenter(CODEBOOK, 9, 9)
    rows = torch.cdist(augment(each, generator()).flatten(2).transpose(1, 2), CODEBOOK).argmin(-1)
    changed = (rows != each).sum(1)
    same = (rows.sort(1).values == each.sort(1).values).all(1)
    assert 0.4 < (changed == 0).float().mean() < 0.75  # neither, or patches of no size
    assert 0.05 < ((changed > 0) & same).float().mean() < 0.3
    assert 0.2 < (~same).float().mean() < 0.3
    assert changed[~same].float().mean() < 0.35 * 81
