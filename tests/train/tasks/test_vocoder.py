"""The vocoder and its duration predictor learn; segments are cut into micro-batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig
from im2sp.train.tasks.segments import draw_segments
from im2sp.train.tasks.vocoder import DurationTask, DurationTraining, VocoderTask, VocoderTraining
from im2sp.train.trainer import MicroBatch, train
from tests.train.tasks.clips import tone_clips

CONFIG = VocoderConfig(
    units=9, width=16, feed_forward=16, slow_blocks=1, fast_blocks=1, duration_width=16, duration_blocks=1
)


def test_the_vocoder_learns(tmp_path: Path) -> None:
    training = VocoderTraining(steps=32, batch=4, segment_frames=16, learning_rate=5e-3, warm_up=2, log_every=4)
    torch.manual_seed(0)
    train(VocoderTask(training, UnitVocoder(CONFIG), tone_clips()), tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_the_duration_predictor_aims_at_the_mean(tmp_path: Path) -> None:
    """Unit 1 lasts 2 or 10 frames, unit 2 always 4."""
    sentences = [np.repeat([1, 2] * 4, [frames, 4] * 4) for frames in (2, 10)]
    task = DurationTask(DurationTraining(steps=200, learning_rate=1e-2), DurationPredictor(CONFIG), sentences)
    train(task, tmp_path)
    with torch.inference_mode():
        frames = task.model(torch.tensor([[1, 2] * 4])).exp()[0] - 1
    assert frames[0::2].mean().item() == pytest.approx(6, abs=1)
    assert frames[1::2].mean().item() == pytest.approx(4, abs=0.7)


def test_micro_batches_add_up_to_the_batch() -> None:
    training = VocoderTraining(batch=5, segment_frames=8)
    whole = draw_segments(tone_clips(3), training, 2)
    parts = [draw_segments(tone_clips(3), training, 2, MicroBatch(index, 2)) for index in range(2)]
    assert {part.known_durations for part in parts} == {whole.known_durations}
    for name in ("frames", "waveforms", "speakers"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
