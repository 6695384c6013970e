"""Training of our vocoder and its duration predictor: clips -> `UnitVocoder`, sentences -> `DurationPredictor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.speech.units import remove_repeats
from im2sp.train.data.clips import Clips
from im2sp.train.losses import spectral_loss
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder
from im2sp.train.tasks.segments import BETAS, SegmentTraining, draw_segments
from im2sp.train.trainer import MicroBatch, Task, TrainConfig, adamw

LENGTH_STEP = 16  # units that batches are padded to a multiple of: kernels are compiled for every length


@dataclass(frozen=True)
class VocoderTraining(SegmentTraining):
    """Options of the vocoder."""

    steps: int = 6000
    batch: int = 12
    segment_frames: int = 64  # 1.28 s
    learning_rate: float = 1e-3
    warm_up: int = 200


@dataclass(frozen=True)
class DurationTraining(TrainConfig):
    """Options of the duration predictor."""

    steps: int = 2000
    learning_rate: float = 1e-3
    warm_up: int = 100
    batch: int = 16  # sentences
    max_grad_norm: float = float("inf")
    ema_decay: float = 0.0
    log_every: int = 250


class VocoderTask(Task):
    """Our vocoder, by distances of spectra alone. All speakers sound alike; durations are learned apart."""

    config: VocoderTraining
    model: UnitVocoder

    def __init__(self, config: VocoderTraining, vocoder: UnitVocoder, clips: Clips) -> None:
        super().__init__(config, vocoder)
        self.clips = clips
        self.optimizers = {"model": adamw([vocoder], config, BETAS, decays=lambda name, parameter: True)}

    def loss(self, step: int, part: MicroBatch) -> Tensor:
        """Distance of spectra."""
        segments = draw_segments(self.clips, self.config, step, part, self.device)
        with self.autocast():
            generated = self.model(segments.frames)
        return spectral_loss(generated, segments.waveforms) * part.share(self.config.batch)


class DurationTask(Task):
    """Duration predictor on whole sentences (unit of each frame [F]).

    The loss is the likelihood of a Poisson variable, which is largest where exp(prediction) is the mean of frames + 1.
    The squared error of the logarithm aims at the geometric mean, which is smaller and makes speech too fast.
    """

    config: DurationTraining
    model: DurationPredictor

    def __init__(self, config: DurationTraining, predictor: DurationPredictor, sentences: Sequence[np.ndarray]) -> None:
        super().__init__(config, predictor)
        self._pairs = sorted((remove_repeats(units) for units in sentences), key=lambda pair: len(pair[0]))

    def loss(self, step: int, part: MicroBatch) -> Tensor:
        """Poisson loss of a batch of sentences of nearly one length."""
        batch = min(self.config.batch, len(self._pairs))
        rng = np.random.default_rng((self.config.seed, 2, step))
        start = int(rng.integers(len(self._pairs) - batch + 1))
        chosen = self._pairs[start : start + batch]
        total = sum(len(units) for units, _ in chosen)
        units, durations, mask = (tensor.to(self.device) for tensor in _padded(chosen[part.rows(batch)]))
        with self.autocast():
            predicted = self.model(units)
        return nn.functional.poisson_nll_loss(predicted[mask], durations[mask] + 1, reduction="sum") / total


def _padded(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of units and durations -> int64, float32 and bool [B, longest]; the mask is false in the padding."""
    longest = -(-max(len(units) for units, _ in pairs) // LENGTH_STEP) * LENGTH_STEP
    units = np.stack([np.pad(units, (0, longest - len(units)), "edge") for units, _ in pairs])
    durations = np.stack([np.pad(lengths, (0, longest - len(lengths))) for _, lengths in pairs])
    return torch.from_numpy(units), torch.from_numpy(durations).float(), torch.from_numpy(durations > 0)
