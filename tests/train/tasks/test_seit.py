"""Distillation of a token ViT: it learns features from units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.train.data import token_augmentation
from im2sp.train.data.photo_units import INDEX, PhotoArrays
from im2sp.train.models.token_vit import TokenVit, TokenVitConfig
from im2sp.train.tasks.seit import SeitTask, SeitTraining
from im2sp.train.trainer import train

CONFIG = TokenVitConfig(code_width=4, crop=8, width=32, layers=1, heads=2, feed_forward=32)
CODEBOOK = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
NAMES = [f"photo{row}" for row in range(40)]


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[PhotoArrays, PhotoArrays]:
    """Units, and features that are the mean codebook vector of each quarter of the grid; a mirrored view, too."""
    random = np.random.default_rng(0)
    shades = random.integers(12, size=(40, 2, 1, 2, 1))  # each quarter has a unit of its own
    units = np.broadcast_to(shades, (40, 2, 4, 2, 4)).reshape(40, 8, 8)
    both = np.stack([units, units[:, :, ::-1]]).astype(np.uint16)
    folders, views = (tmp_path / "units", tmp_path / "features"), ("whole", "crop1")
    for folder in folders:
        folder.mkdir()
        (folder / INDEX).write_text(json.dumps(NAMES))
    for view, grids in zip(views, both, strict=True):
        rows = CODEBOOK.numpy()[grids].reshape(40, 2, 4, 2, 4, 4).mean((2, 4)).reshape(40, 4, 4)
        np.save(folders[0] / f"{view}.npy", grids.reshape(40, 64))
        np.save(folders[1] / f"{view}.npy", (3 * rows + 5).astype(np.float16))
    return PhotoArrays(folders[0], views), PhotoArrays(folders[1], views)


def test_features_are_learned_and_hold_for_other_photos(
    arrays: tuple[PhotoArrays, PhotoArrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SWAPPING", 0.0), ("NEIGHBOURS", 2), ("NOISE", 0.1)):
        monkeypatch.setattr(token_augmentation, name, value)
    training = SeitTraining(steps=80, batch=16, learning_rate=5e-3, warm_up=2, log_every=40, ema_decay=0.9)
    torch.manual_seed(0)
    task = SeitTask(training, TokenVit(CONFIG), *arrays, NAMES[:32], NAMES[32:], CODEBOOK)
    train(task, tmp_path / "out")
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["held_out"] < 0.5  # predicting the mean has an error of 1
