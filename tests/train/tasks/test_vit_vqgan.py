"""The image tokenizer learns; units pass gradients; codes that nothing chooses are moved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from im2sp.errors import ImageError
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from im2sp.train.tasks.vit_vqgan import CODEBOOK, VitVqganTask, VitVqganTraining, quantise
from im2sp.train.trainer import WHOLE_BATCH, MicroBatch, train

CONFIG = VitVqganConfig(
    image_size=64, patch=16, width=32, layers=1, heads=1, head_width=32, feed_forward=32, code_width=8,
    codebook_size=24, decoder_layers=1,
)  # fmt: skip
TRAINING = VitVqganTraining(steps=5, batch=2, warm_up=2, revive_every=2, log_every=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for shade in range(6):
        image = Image.new("RGB", (80, 60), (shade * 40, 90, 200 - shade * 30))
        image.paste((250, 250, 20), (10 * shade, 5, 10 * shade + 25, 40))
        image.save(folder / f"{shade}.png")
    return sorted(folder.glob("*.png"))


def _task(photos: list[Path], training: VitVqganTraining = TRAINING) -> VitVqganTask:
    torch.manual_seed(0)
    backbone = ImageBackbone(BackboneConfig("efficientnet-lite0", CONFIG.image_size, 2))
    return VitVqganTask(training, VitVqgan(CONFIG), photos, backbone)


def test_it_learns(photos: list[Path], tmp_path: Path) -> None:
    training = replace(TRAINING, steps=16, learning_rate=5e-3, revive_every=8)
    task = _task(photos[:2], training)
    train(task, tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["pixels"] < 0.7 * log[0]["pixels"]
    assert log[0]["codes"] < 0.05  # codes were moved onto outputs of the encoder before the first step


def test_units_pass_gradients_straight_through() -> None:
    model = VitVqgan(CONFIG)
    outputs = torch.randn(2, 16, 8, requires_grad=True)
    quantised = quantise(model, outputs, 0.25)
    rows = F.normalize(model.codebook.weight[quantised.units], dim=-1)
    assert (quantised.directions - rows).abs().max() < 1e-6
    wanted = torch.randn(2, 16, 8)
    (straight,) = torch.autograd.grad((quantised.directions * wanted).sum(), outputs, retain_graph=True)
    (expected,) = torch.autograd.grad((F.normalize(outputs, dim=-1) * wanted).sum(), outputs)
    assert torch.allclose(straight, expected)
    distance = (F.normalize(outputs, dim=-1) - rows).square().sum(-1).mean()
    assert torch.allclose(quantised.loss, 1.25 * distance)


def test_codes_that_nothing_chose_move_to_outputs_of_the_encoder(photos: list[Path]) -> None:
    task = _task(photos)
    task.ema = {CODEBOOK: task.model.codebook.weight.detach().clone()}
    before = task.ema[CODEBOOK].clone()
    task.recent[:20] = 1
    task.revive(0)
    after, outputs = task.model.codebook.weight.detach(), task.model.before_codes(task.pixels(0, WHOLE_BATCH))
    assert torch.equal(after[:20], before[:20])
    assert torch.cdist(after[20:], outputs.flatten(0, 1)).min(1).values.max() < 1e-4
    assert torch.equal(task.ema[CODEBOOK], after)
    assert not task.recent.any()


def test_batches_visit_every_photo_once_an_epoch_and_are_cut_in_parts(photos: list[Path], tmp_path: Path) -> None:
    task = _task(photos, replace(TRAINING, smallest_crop=1.0))
    reds = [round(float(crop[0, -1, -1]) * 255) for step in range(3) for crop in task.pixels(step, WHOLE_BATCH)]
    assert sorted(reds) == [0, 40, 80, 120, 160, 200]
    parts = [task.pixels(1, MicroBatch(index, 2)) for index in range(2)]
    assert torch.equal(torch.cat(parts), task.pixels(1, WHOLE_BATCH))
    (tmp_path / "no.png").write_bytes(b"nonsense")
    with pytest.raises(ImageError, match=r"no\.png: is not a picture"):
        _task([tmp_path / "no.png"]).pixels(0, WHOLE_BATCH)
