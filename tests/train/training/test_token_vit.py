"""Distilling a token ViT: it learns features from units, and a run that was cut off ends the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.token_augmentation import TokenAugmentation
from im2sp.train.models.token_vit import TokenVit, TokenVitConfig
from im2sp.train.training.progress import Checkpoint
from im2sp.train.training.token_vit import Pupil, TokenVitTraining, UnitPhotos, train_token_vit

CONFIG = TokenVitConfig(code_width=4, crop=8, width=32, layers=1, heads=2, feed_forward=32)
OPTIONS = TokenVitTraining(steps=5, batch=4, warm_up=2, report_every=2)
AUGMENTATION = TokenAugmentation(swapped=0, neighbours=2)
CODEBOOK = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
NAMES = [f"photo{row}" for row in range(40)]


@pytest.fixture
def photos(tmp_path: Path) -> UnitPhotos:
    """Features that are the mean codebook vector of each quarter of the grid, and a mirrored view."""
    random = np.random.default_rng(0)
    shades = random.integers(12, size=(40, 2, 1, 2, 1))  # each quarter has a unit of its own
    units = np.broadcast_to(shades, (40, 2, 4, 2, 4)).reshape(40, 8, 8)
    both = np.stack([units, units[:, :, ::-1]]).astype(np.uint16)
    for view, grids in zip(("whole", "flip"), both, strict=True):
        rows = CODEBOOK.numpy()[grids].reshape(40, 2, 4, 2, 4, 4).mean((2, 4)).reshape(40, 4, 4)
        np.save(tmp_path / f"{view}.npy", (3 * rows + 5).astype(np.float16))
    (tmp_path / "index.json").write_text(json.dumps({"image_ids": NAMES, "views": ["whole", "flip"]}))
    return UnitPhotos(both.reshape(2, 40, 64), ImageFeatures(tmp_path))


def train(photos: UnitPhotos, options: TokenVitTraining, out: Path) -> TokenVit:
    return train_token_vit(photos, NAMES[:32], NAMES[32:], CODEBOOK, CONFIG, AUGMENTATION, options, out)


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_features_are_learned_and_hold_for_other_photos(photos: UnitPhotos, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=80, batch=16, learning_rate=5e-3, report_every=40, average_decay=0.9)
    train(photos, options, tmp_path / "out")
    assert rows(tmp_path / "out")[-1]["held_out"] < 0.5  # 1 is the error of the mean


def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    photos: UnitPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOff(Exception):
        pass

    def save_and_maybe_stop(self: Checkpoint) -> None:
        self.save()
        if self._state()["step"] == 3:
            raise CutOff

    unbroken = train(photos, OPTIONS, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "maybe_save", save_and_maybe_stop)
        with pytest.raises(CutOff):
            train(photos, OPTIONS, tmp_path / "broken")
    resumed = train(photos, OPTIONS, tmp_path / "broken")
    for (name, value), other in zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert [row["step"] for row in rows(tmp_path / "unbroken")] == [2, 4, 5]
    loaded = train(photos, OPTIONS, tmp_path / "unbroken")  # nothing is left to do
    assert torch.equal(loaded.pos_embed, unbroken.pos_embed)


@pytest.mark.parametrize("cells", [5, 25])
def test_grids_that_do_not_fit_are_refused(cells: int) -> None:
    with pytest.raises(Im2SpError, match="cannot be said"):
        Pupil(TokenVit(CONFIG), cells, 8)
