"""The stage `tune` at the smallest size: the real backbone, photos of a few colours, words of two tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.image_encoders import early_efficientnet, efficientnet
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.stages.encode import encode, view_of
from im2sp.train.stages.tune import TuneTraining, features_of, tune
from im2sp.train.training.seeing_translator import TUNED_BACKBONE

BACKBONE = BackboneConfig("efficientnet-lite0", image_size=64, grid=2)
SIZES = GitDecoderConfig(20, width=16, layers=1, heads=2, feed_forward=32, max_positions=8)
OPTIONS = TuneTraining(steps=3, photos=3, warm_up=1, report_every=3, bf16=False)
VIEWS = ("whole", "flip")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in "abc"}


@pytest.fixture(scope="module")
def tuned(photos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    GitDecoder(SIZES).save(folder / "start")
    encode(photos, folder / "maps", early_efficientnet(BACKBONE), ("whole", "random1", "flip"))
    sentences = {name: [[1, 5 + row, 2], [1, 8 + row, 2]] for row, name in enumerate(photos)}
    torch.manual_seed(0)
    tune(
        folder / "start",
        ImageFeatures(folder / "maps"),
        BACKBONE,
        {"train": sentences, "dev": sentences},
        OPTIONS,
        folder / "out",
    )
    return folder


def test_early_and_late_part_make_the_whole() -> None:
    backbone, pixels = ImageBackbone.pretrained(BACKBONE), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        maps = backbone.early(pixels)
        assert maps.shape[2:] == (4, 4)
        assert torch.equal(backbone.late(maps), backbone(pixels))


def test_only_the_late_part_of_the_backbone_learns(tuned: Path) -> None:
    before, after = (
        ImageBackbone.pretrained(BACKBONE),
        ImageBackbone.pretrained(BACKBONE, tuned / "out" / TUNED_BACKBONE),
    )
    old, new = before.state_dict(), after.state_dict()
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])}
    assert changed
    assert all(name.startswith("late.") for name in changed)
    assert not any("running_" in name for name in changed)  # statistics of the batch norms
    assert GitDecoder.load(tuned / "out").config == SIZES


def test_features_of_maps_are_those_of_the_photos(tuned: Path, photos: dict[str, Path]) -> None:
    weights = tuned / "out" / TUNED_BACKBONE
    features_of(tuned / "maps", VIEWS, BACKBONE, weights, tuned / "features")
    encode(photos, tuned / "wanted", efficientnet(BACKBONE, weights), VIEWS)
    made, wanted = ImageFeatures(tuned / "features"), ImageFeatures(tuned / "wanted")
    indices = [json.loads((tuned / name / "index.json").read_text()) for name in ("features", "wanted")]
    assert indices[0] == indices[1]
    for view in range(2):
        for name in photos:
            np.testing.assert_allclose(made.get(name, view), wanted.get(name, view), atol=0.15)  # bfloat16


def test_features_of_another_backbone_are_made_again(tuned: Path) -> None:
    out = tuned / "again"
    features_of(tuned / "maps", VIEWS, BACKBONE, tuned / "out" / TUNED_BACKBONE, out)
    first = (out / "whole.npy").stat().st_mtime_ns
    features_of(tuned / "maps", VIEWS, BACKBONE, tuned / "out" / TUNED_BACKBONE, out)
    assert (out / "whole.npy").stat().st_mtime_ns == first
    features_of(tuned / "maps", ("flip", "whole"), BACKBONE, tuned / "out" / TUNED_BACKBONE, out)
    assert (out / "whole.npy").stat().st_mtime_ns != first


def test_random_crops_follow_from_number_and_photo() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    crop = view_of(image, "random2", "a")
    assert crop == view_of(image, "random2", "a")
    assert crop != view_of(image, "random2", "b")
    assert crop != view_of(image, "random4", "a")
    assert 0.7 * 80 - 1 <= crop.width <= 0.95 * 80 + 1
    corner = np.asarray(view_of(image, "random1", "a"))[:, ::-1]  # odd numbers are mirrored
    whole = np.asarray(image)
    height, width = corner.shape[:2]
    found = [
        (top, left)
        for top in range(61 - height)
        for left in range(81 - width)
        if (whole[top : top + height, left : left + width] == corner).all()
    ]
    assert len(found) == 1
