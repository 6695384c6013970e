"""Clips -> the segments that a step of a vocoder's training learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from im2sp.speech.audio import HOP
from im2sp.train.data.clips import Clips
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.trainer import WHOLE_BATCH, MicroBatch, TrainConfig

BETAS = (0.8, 0.99)  # of AdamW


@dataclass(frozen=True)
class SegmentTraining(TrainConfig):
    """Options that the trainings of all vocoders have."""

    batch: int = 16  # segments
    segment_frames: int = 28  # unit frames of 20 ms


class Segments(NamedTuple):
    """Segments of clips: the batch of a step, or a micro-batch of it."""

    frames: Tensor  # unit of each frame int64 [B, F]
    waveforms: Tensor  # float32 [B, F * HOP]
    speakers: Tensor  # int64 [B]
    known_durations: int  # in the whole batch: units that begin and end inside their segment


def draw_segments(
    clips: Clips,
    config: SegmentTraining,
    step: int,
    part: MicroBatch = WHOLE_BATCH,
    device: torch.device | str = "cpu",
) -> Segments:
    """Draw the segments of a step by (seed, step); short clips are followed by silence and their last unit."""
    rng = np.random.default_rng((config.seed, step))
    length = config.segment_frames
    drawn = [
        (clip := clips[int(index)], int(rng.integers(max(1, len(clip.units) - length + 1))))
        for index in rng.integers(len(clips), size=config.batch)
    ]
    pieces = [(clip.units[start : start + length], start, clip) for clip, start in drawn]
    frames = np.stack([np.pad(units, (0, length - len(units)), "edge") for units, _, _ in pieces]).astype(np.int64)
    changes = (frames[:, 1:] != frames[:, :-1]).sum(1)
    rows = part.rows(config.batch)
    sounds = [clip.waveform[start * HOP : (start + len(units)) * HOP] for units, start, clip in pieces[rows]]
    waveforms = np.stack([np.pad(samples, (0, length * HOP - len(samples))) for samples in sounds])
    return Segments(
        torch.from_numpy(frames[rows]).to(device),
        torch.from_numpy(as_floats(waveforms)).to(device),
        torch.tensor([clip.speaker for clip, _ in drawn[rows]], device=device),
        int(np.maximum(changes - 1, 0).sum()),
    )
