"""The published unit HiFi-GAN: it learns, its durations too, and starts from a converted one."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from im2sp.train.tasks.hifigan import HifiganTask, HifiganTraining, split_units
from im2sp.train.tasks.segments import Segments
from im2sp.train.trainer import train
from tests.train.tasks.clips import tone_clips

CONFIG = UnitHifiganConfig(
    units=9, width=8, channels=32, block_kernels=(3,), block_dilations=((1, 3),), duration_width=8
)
TRAINING = HifiganTraining(steps=3, batch=2, segment_frames=5, discriminator_channels=128, log_every=1)
FRAMES = torch.tensor(
    [[4, 4, 7, 7, 7, 1, 4, 4], [2, 2, 2, 2, 2, 2, 2, 2], [0, 1, 0, 1, 5, 5, 5, 3], [6, 6, 8, 8, 8, 8, 8, 8]]
)


def _task(config: UnitHifiganConfig = CONFIG, training: HifiganTraining = TRAINING, speakers: int = 1) -> HifiganTask:
    torch.manual_seed(0)
    return HifiganTask(training, UnitHifigan(config), tone_clips(speakers))


def test_it_learns(tmp_path: Path) -> None:
    task = _task(training=replace(TRAINING, steps=10, learning_rate=3e-3))
    train(task, tmp_path)
    spectral = [json.loads(line)["spectral"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert np.mean(spectral[-3:]) < 0.7 * np.mean(spectral[:3])
    assert "conv_pre.weight" in task.fold_weight_norm().state_dict()


def test_durations_are_compared_by_their_logarithms_without_the_first_and_the_last() -> None:
    task = _task()
    task.model.eval()
    expected = 0.0
    for row in FRAMES.tolist():
        runs = [(unit, len(list(group))) for unit, group in groupby(row)]
        with torch.inference_mode():
            predicted = task.model.log_durations(torch.tensor([[unit for unit, _ in runs]]))[0]
        for place in range(1, len(runs) - 1):
            expected += (predicted[place].item() - np.log(runs[place][1] + 1)) ** 2
    speakers = torch.zeros(4, dtype=torch.int64)
    with torch.inference_mode():
        _, errors = task.generate(Segments(FRAMES, torch.zeros(4, 8 * 320), speakers, 0))
    assert errors.item() == pytest.approx(expected, rel=1e-5)
    units, durations, known = split_units(FRAMES)
    assert units[0, :4].tolist() == [4, 7, 1, 4]
    assert durations[0].tolist() == [2, 3, 1, 2, 0, 0]
    assert known.sum(1).tolist() == [2, 0, 4, 0]


def test_training_may_start_from_a_converted_vocoder(tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = UnitHifigan(replace(CONFIG, speakers=5))
    other.save(tmp_path / "converted")
    training = replace(TRAINING, init_from=str(tmp_path / "converted"))
    found = _task(replace(CONFIG, speakers=2), training, 2).fold_weight_norm().state_dict()
    for name, value in other.state_dict().items():
        if name == "spkr.weight":
            assert found[name].shape == (2, 8)
        else:
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)
    for sizes in (CONFIG, replace(CONFIG, speakers=2, channels=64)):
        with pytest.raises(Im2SpError, match="has other sizes than"):
            _task(sizes, training)
    with pytest.raises(Im2SpError, match="holds no vocoder to start from"):
        _task(CONFIG, replace(training, init_from=str(tmp_path)))
