"""ViT-VQGAN training: each part for itself, a run that was cut off, and one that learns a picture by heart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from im2sp.errors import ImageError
from im2sp.train.data.flickr8k import PHOTO_FOLDER
from im2sp.train.data.tiny_flickr8k import write_tiny_flickr8k
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from im2sp.train.training.photo_crops import PhotoCrops, unit_pixels
from im2sp.train.training.progress import Checkpoint
from im2sp.train.training.vit_vqgan import (
    TrainingRun,
    VitVqganTraining,
    perceptual_distance,
    quantise,
    train_vit_vqgan,
    usage,
)

CONFIG = VitVqganConfig(
    image_size=64, patch=16, width=32, layers=1, heads=1, head_width=32, feed_forward=32, code_width=8,
    codebook_size=24, decoder_layers=1,
)  # fmt: skip
OPTIONS = VitVqganTraining(steps=5, adversarial_from=3, batch=2, warm_up=2, revive_every=2, report_every=2)


@pytest.fixture(scope="module")
def backbone() -> ImageBackbone:
    return ImageBackbone.pretrained(BackboneConfig("efficientnet-lite0", CONFIG.image_size, 2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_flickr8k(folder)
    return sorted((folder / PHOTO_FOLDER).glob("*.jpg"))


def test_units_pass_gradients_straight_through() -> None:
    model = VitVqgan(CONFIG)
    found = torch.randn(2, 16, 8, requires_grad=True)
    quantised = quantise(model, found, 0.25)
    rows = torch.nn.functional.normalize(model.codebook.weight[quantised.units], dim=-1)
    assert (quantised.directions - rows).abs().max() < 1e-6
    wanted = torch.randn(2, 16, 8)
    (quantised.directions * wanted).sum().backward(retain_graph=True)
    straight = found.grad.clone()  # type: ignore[union-attr]
    found.grad = None
    (torch.nn.functional.normalize(found, dim=-1) * wanted).sum().backward()
    assert torch.allclose(straight, found.grad)  # type: ignore[arg-type]
    assert model.codebook.weight.grad is None

    distance = (torch.nn.functional.normalize(found, dim=-1) - rows).square().sum(-1).mean()
    assert torch.allclose(quantised.loss, 1.25 * distance)
    quantised.loss.backward()
    chosen = torch.zeros(24, dtype=torch.bool).index_fill(0, quantised.units.flatten(), True)
    moved = model.codebook.weight.grad.abs().sum(1) > 0  # type: ignore[union-attr]
    assert torch.equal(moved, chosen)


def test_usage_is_the_share_and_the_perplexity() -> None:
    assert usage(torch.tensor([5, 5, 0, 0])) == pytest.approx((0.5, 2.0))
    assert usage(torch.tensor([1, 1, 1, 1])) == pytest.approx((1.0, 4.0))
    assert usage(torch.tensor([8, 4, 4, 0])) == pytest.approx((0.75, 2**1.5))
    assert usage(torch.zeros(4, dtype=torch.int64)).used == 0


def test_codes_that_nothing_chose_move_to_outputs_of_the_encoder() -> None:
    run = TrainingRun(CONFIG, OPTIONS)
    found = torch.randn(2, 16, 8)
    before = run.model.codebook.weight.detach().clone()
    run.recent[:20] = 1
    run.revive(found)
    after, outputs = run.model.codebook.weight.detach(), found.flatten(0, 1)
    assert torch.equal(after[:20], before[:20])
    assert ((after[20:, None] == outputs).all(-1).sum(1) == 1).all()
    assert len(torch.unique(after[20:], dim=0)) == 4
    assert torch.equal(run.average["codebook.weight"][20:], after[20:])
    assert not run.recent.any()


def test_all_codes_are_alive_after_the_first_step(backbone: ImageBackbone, photos: list[Path]) -> None:
    run = TrainingRun(CONFIG, OPTIONS)
    batch = PhotoCrops(photos, CONFIG.image_size, 2, 0.5, 0).at(0)
    losses = run.advance(batch, backbone)
    assert losses["codes"] < 0.05  # each output has a code at, or next to, its own place
    assert set(losses) == {"pixels", "perceptual", "codes"}
    assert int(run.recent.sum()) == 2 * CONFIG.units


def test_codes_may_come_in_later_and_are_alive_then(backbone: ImageBackbone, photos: list[Path]) -> None:
    run = TrainingRun(CONFIG, replace(OPTIONS, codes_from=3))
    batches, before = PhotoCrops(photos, CONFIG.image_size, 2, 0.5, 0), run.model.codebook.weight.detach().clone()
    for step in range(3):
        assert run.advance(batches.at(step), backbone)["codes"] == 0
    assert torch.equal(run.model.codebook.weight, before)
    assert not run.recent.any()
    assert 0 < run.advance(batches.at(3), backbone)["codes"] < 0.05
    assert int(run.recent.sum()) == 2 * CONFIG.units


def test_the_perceptual_distance_grows_with_the_damage(backbone: ImageBackbone, photos: list[Path]) -> None:
    pixels = torch.stack([unit_pixels(Image.open(path).convert("RGB"), 64) for path in photos[:3]])
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    distances = [float(perceptual_distance(backbone, pixels + size * noise, pixels)) for size in (0, 0.05, 0.2)]
    assert distances[0] == 0
    assert 0.001 < distances[1] < distances[2]
    assert [f.shape[-1] for f in backbone.stages(pixels)] == [32, 16, 8, 4, 2]


def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    backbone: ImageBackbone, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOff(Exception):
        pass

    def save_and_maybe_stop(self: Checkpoint) -> None:
        self.save()
        if self._state()["step"] == 4:
            raise CutOff

    unbroken = train_vit_vqgan(photos, backbone, CONFIG, OPTIONS, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "maybe_save", save_and_maybe_stop)
        with pytest.raises(CutOff):
            train_vit_vqgan(photos, backbone, CONFIG, OPTIONS, tmp_path / "broken")
    resumed = train_vit_vqgan(photos, backbone, CONFIG, OPTIONS, tmp_path / "broken")
    for (name, value), other in zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    rows = [json.loads(line) for line in (tmp_path / "unbroken" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert ["judge" in row for row in rows] == [False, True, True]
    assert all(0 < row["codes_used"] <= 1 <= row["perplexity"] <= 24 for row in rows)
    again = train_vit_vqgan([], backbone, CONFIG, OPTIONS, tmp_path / "unbroken")  # nothing is left to do
    assert torch.equal(again.codebook.weight, unbroken.codebook.weight)


def test_it_learns_what_it_sees(backbone: ImageBackbone, photos: list[Path], tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=16, adversarial_from=16, learning_rate=5e-3, revive_every=8)
    train_vit_vqgan(photos[:2], backbone, CONFIG, options, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["pixels"] < 0.6 * rows[0]["pixels"]
    assert rows[-1]["perceptual"] < rows[0]["perceptual"]


def test_batches_follow_the_step_and_visit_every_photo(tmp_path: Path) -> None:
    for shade in range(6):
        Image.new("RGB", (40, 20), (shade * 40,) * 3).save(tmp_path / f"{shade}.png")
    paths = sorted(tmp_path.glob("*.png"))
    crops = PhotoCrops(paths, 8, 4, 0.5, seed=1)
    shades = [round(float(photo.mean()) * 255) for step in range(3) for photo in crops.at(step)]
    assert sorted(shades[:6]) == sorted(shades[6:]) == [0, 40, 80, 120, 160, 200]
    assert crops.at(1).shape == (4, 3, 8, 8)
    assert torch.equal(crops.at(1), PhotoCrops(paths, 8, 4, 0.5, seed=1).at(1))
    paths[0].write_bytes(b"nonsense")
    with pytest.raises(ImageError, match=r"0\.png: is not a picture"):
        [crops.at(step) for step in range(2)]


def test_pieces_are_of_many_places_and_both_ways_round(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    crops = PhotoCrops([tmp_path / "ramp.png"], 16, 40, 0.25, seed=0)
    left, right = crops.at(0)[:, 0, 8, 0], crops.at(0)[:, 0, 8, -1]
    assert 10 < int((left > right).sum()) < 30
    assert ((left - right).abs() > 0.4).all()
    assert ((left - right).abs() < 0.95).any()
