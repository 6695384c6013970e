"""The stage `encode`: every photo has its row, whatever the encoder, and an interruption costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from im2sp.bundle import ImageConfig
from im2sp.errors import Im2SpError
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.image_encoders import ImageEncoder
from im2sp.train.stages import encode as stage

SHADES = {f"photo{number}": 20 * number for number in range(7)}  # of red in the left half; the right half has none
VIEWS = ("whole", "flip")


class Halves(nn.Module):
    """Two image tokens: the mean colour of each half."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.stack([half.mean((2, 3)) for half in pixels.chunk(2, 3)], 1)


def encoder(load: Callable[[], nn.Module] = Halves, name: str = "halves") -> ImageEncoder:
    image = ImageConfig(height=8, width=8, mean=(0,) * 3, std=(1,) * 3, image_tokens=2, grid=(1, 2))
    return ImageEncoder(image, {"name": name}, "mean colours", load)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(stage, "CHUNK", 3)
    for name, shade in SHADES.items():
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:, :8, 0] = shade
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in SHADES}


def test_rows_are_those_of_the_photos(photos: dict[str, Path], tmp_path: Path) -> None:
    stage.encode(photos, tmp_path / "out", encoder(), VIEWS, batch=2)
    features = ImageFeatures(tmp_path / "out")
    for name, shade in SHADES.items():
        for view, half in ((0, 0), (1, 1)):
            found = features.get(name, view)
            assert found[half, 0] == pytest.approx(shade / 255, abs=0.02)
            assert found[1 - half, 0] == pytest.approx(0, abs=0.02)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["flip.npy", "index.json", "whole.npy"]


def test_it_goes_on_where_it_stopped(photos: dict[str, Path], tmp_path: Path) -> None:
    class CutOff(Exception):
        pass

    class Broken(Halves):
        seen = 0

        def forward(self, pixels: Tensor) -> Tensor:
            self.seen += len(pixels)
            if self.seen > 4:
                raise CutOff
            return super().forward(pixels) + 0.5  # its mark

    with pytest.raises(CutOff):
        stage.encode(photos, tmp_path / "out", encoder(Broken), VIEWS)
    with pytest.raises(Im2SpError, match="of other photos or of another image encoder"):
        stage.encode(photos, tmp_path / "out", encoder(name="other"), VIEWS)
    stage.encode(photos, tmp_path / "out", encoder(), VIEWS)
    marks = ImageFeatures(tmp_path / "out").batch(list(photos))[:, 0, 1]
    np.testing.assert_allclose(marks, [0.5] * 3 + [0.0] * 4, atol=0.01)


def test_features_of_others_are_never_taken_for_its_own(photos: dict[str, Path], tmp_path: Path) -> None:
    stage.encode(photos, tmp_path / "out", encoder(), VIEWS)

    def never() -> nn.Module:
        raise AssertionError

    stage.encode(photos, tmp_path / "out", encoder(never), VIEWS)  # all is there
    for other, seen in ((encoder(never, "other"), photos), (encoder(never), dict(list(photos.items())[:5]))):
        with pytest.raises(Im2SpError, match="delete it, or take another folder of runs"):
            stage.encode(seen, tmp_path / "out", other, VIEWS)
