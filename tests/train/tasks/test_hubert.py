"""Masked prediction: HuBERT learns targets that follow from the sound."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import HubertModel

from im2sp.train.models.speech_encoder import small_hubert_config
from im2sp.train.tasks.hubert import HubertTraining, MaskedPrediction
from im2sp.train.trainer import MicroBatch, train
from tests.train.tasks.clips import tone_clips


def _task(config: HubertTraining) -> MaskedPrediction:
    torch.manual_seed(0)
    clips = tone_clips()
    waveforms, units = [clip.waveform for clip in clips], [clip.units for clip in clips]
    return MaskedPrediction(config, HubertModel(small_hubert_config(1, 32)), waveforms, units, 9)


def test_it_learns(tmp_path: Path) -> None:
    task = _task(HubertTraining(steps=120, learning_rate=5e-3, warm_up=5, batch_seconds=2, log_every=40))
    train(task, tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert log[-1]["masked_accuracy"] > log[0]["masked_accuracy"]


def test_micro_batches_add_up_to_the_batch() -> None:
    task = _task(HubertTraining(batch_seconds=3))
    task.model.eval()
    whole = task.loss(1, MicroBatch())
    parts = [task.loss(1, MicroBatch(index, 2)) for index in range(2)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, atol=1e-4, rtol=1e-4)
