"""Training of HuBERT by masked prediction: waveforms and frame targets -> `HubertModel` (Hsu et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertModel

from im2sp.speech.audio import HOP, SAMPLE_RATE
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.models.speech_encoder import edge_padding
from im2sp.train.trainer import WHOLE_BATCH, Losses, MicroBatch, Task, TrainConfig, adamw


@dataclass(frozen=True)
class HubertTraining(TrainConfig):
    """Options of one iteration."""

    warm_up: int = 80
    ema_decay: float = 0.0
    batch_seconds: float = 32.0
    mask_probability: float = 0.08  # of a masked span to start at a frame
    mask_span: int = 8  # frames
    unmasked_weight: float = 0.1  # of the loss on frames that are not masked
    log_every: int = 25


class MaskedPrediction(Task):
    """HuBERT with a classifier over frame targets.

    Args:
        hubert: the model that is kept.
        clips: waveforms int16 [n * HOP] each.
        targets: targets of the frames [n] of each clip.
        count: number of different targets.
    """

    config: HubertTraining
    model: HubertModel

    def __init__(
        self,
        config: HubertTraining,
        hubert: HubertModel,
        clips: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        count: int,
    ) -> None:
        self.classifier = nn.Linear(hubert.config.hidden_size, count)
        super().__init__(config, hubert, classifier=self.classifier)
        # All parameters decay, as in the paper.
        self.optimizers = {"model": adamw(self.modules.values(), config, decays=lambda name, parameter: True)}
        self.clips, self.targets, self.padding = clips, targets, edge_padding(hubert.config)
        self._lengths = np.array([len(clip) for clip in clips])
        self._by_length = np.argsort(self._lengths, kind="stable")

    def batch_rows(self, step: int) -> np.ndarray:
        """Numbers of the clips of a step, which have nearly one length."""
        rng = np.random.default_rng((self.config.seed, step))
        middle = int(rng.integers(len(self._by_length)))
        length = max(HOP, int(self._lengths[self._by_length[middle]]))
        count = max(2, int(self.config.batch_seconds * SAMPLE_RATE / length))
        low = max(0, min(middle - count, len(self._by_length) - 2 * count))
        near = self._by_length[low : low + 2 * count]
        return rng.choice(near, size=min(count, len(near)), replace=False)

    def batch(self, step: int, part: MicroBatch = WHOLE_BATCH) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """Pieces of clips that are as long as the shortest of the step.

        Returns:
            waveforms float32 [B, n * HOP], mask bool [B, n], targets int64 [B, n]; (masked, unmasked) frames of the
            whole batch.
        """
        rows = self.batch_rows(step)
        rng = np.random.default_rng((self.config.seed, 1, step))
        frames = min(len(self.targets[row]) for row in rows)
        starts = [int(rng.integers(len(self.targets[row]) - frames + 1)) for row in rows]
        mask = span_mask(frames, len(rows), self.config, rng)
        chosen = part.rows(len(rows))
        pairs = list(zip(rows[chosen], starts[chosen], strict=True))
        waveforms = np.stack([self.clips[row][start * HOP : (start + frames) * HOP] for row, start in pairs])
        targets = np.stack([self.targets[row][start : start + frames] for row, start in pairs])
        tensors = as_floats(waveforms), mask[chosen], targets.astype(np.int64)
        masked = int(mask.sum())
        waveform, hidden, target = (torch.from_numpy(array).to(self.device) for array in tensors)
        return waveform, hidden, target, (masked, mask.size - masked)

    def loss(self, step: int, part: MicroBatch) -> Losses:
        """Cross-entropy and accuracy on masked frames; a little of that on the others."""
        waveform, mask, targets, (masked, unmasked) = self.batch(step, part)
        with self.autocast():
            padded = nn.functional.pad(waveform, (self.padding, self.padding))
            logits = self.classifier(self.model(padded, mask_time_indices=mask).last_hidden_state).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        right = (logits.argmax(-1) == targets)[mask].float().sum()
        others = loss[~mask].sum() / max(1, unmasked)
        return {
            "loss": loss[mask].sum() / masked + self.config.unmasked_weight * others,
            "masked_accuracy": right / masked,
        }


def span_mask(frames: int, batch: int, config: HubertTraining, rng: np.random.Generator) -> np.ndarray:
    """Boolean [batch, frames]: spans of `mask_span` frames start at random frames, at one at least."""
    starts = rng.random((batch, frames)) < config.mask_probability
    starts[np.arange(batch), rng.integers(max(1, frames - config.mask_span + 1), size=batch)] = True
    mask = starts.copy()
    for shift in range(1, config.mask_span):
        mask[:, shift:] |= starts[:, :-shift]
    return mask
