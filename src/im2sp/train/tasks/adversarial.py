"""Training of any vocoder: segments of clips -> a generator, by distances of spectra and by discriminators."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.speech.audio import HOP
from im2sp.train.data.clips import Clips
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.losses import Reduce, discriminator_loss, generator_losses
from im2sp.train.models.discriminators import Discriminators
from im2sp.train.trainer import WHOLE_BATCH, Losses, MicroBatch, Task, TrainConfig, Update, adamw

BETAS = (0.8, 0.99)  # of AdamW
MATCHING_WEIGHT = 2.0  # of feature matching, against adversarial 1


@dataclass(frozen=True)
class AdversarialTraining(TrainConfig):
    """Options that the trainings of all vocoders have."""

    adversarial_from: int = 0  # step at which the discriminators join; before it, the spectral loss alone counts
    batch: int = 16  # segments
    segment_frames: int = 28  # unit frames of 20 ms
    spectral_weight: float = 45.0  # against adversarial 1 and feature matching 2, once the discriminators join


class Segments(NamedTuple):
    """Segments of clips: the batch of a step, or a micro-batch of it."""

    frames: Tensor  # unit of each frame int64 [B, F]
    waveforms: Tensor  # float32 [B, F * HOP]
    speakers: Tensor  # int64 [B]
    known_durations: int  # in the whole batch: units that begin and end inside their segment


def draw_segments(
    clips: Clips,
    config: AdversarialTraining,
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


class AdversarialTask(Task):
    """Vocoder and discriminators.

    Args:
        generator: the vocoder.
        clips: recordings and their units.
        distance: of spectra: generated and real waveforms [B, S] -> [].
        reduce: how the losses of the discriminators become one.
        max_grad_norms: of the generator, before and after the discriminators join.
    """

    config: AdversarialTraining

    def __init__(
        self,
        config: AdversarialTraining,
        generator: nn.Module,
        discriminators: Discriminators,
        clips: Clips,
        distance: Callable[[Tensor, Tensor], Tensor],
        reduce: Reduce,
        max_grad_norms: tuple[float, float] = (math.inf, math.inf),
    ) -> None:
        super().__init__(config, generator, discriminators=discriminators)
        self.discriminators, self.clips, self.distance = discriminators, clips, distance
        self.reduce, self.max_grad_norms = reduce, max_grad_norms
        self.optimizers = {
            name: adamw([module], config, BETAS, decays=lambda name, parameter: True)
            for name, module in self.modules.items()
        }

    @abstractmethod
    def generate(self, segments: Segments) -> tuple[Tensor, Tensor | None]:
        """Return (waveforms float32 [B, F * HOP], errors of durations summed over all units or None)."""

    def updates(self, step: int) -> list[Update]:
        """The discriminators, once they join, then the generator."""
        adversarial = step >= self.config.adversarial_from
        updates = [Update("model", self.loss, self.max_grad_norms[adversarial])]
        if adversarial:
            self.discriminators.update_norms()
            updates.insert(0, Update("discriminators", self.discriminate))
        return updates

    def discriminate(self, step: int, part: MicroBatch) -> Tensor:
        """Loss of the discriminators."""
        segments = self._segments(step, part)
        with self.autocast():
            with torch.no_grad():
                generated, _ = self.generate(segments)
            real, fake = self.discriminators(segments.waveforms), self.discriminators(generated)
            return discriminator_loss(real, fake, self.reduce) * part.share(self.config.batch)

    def loss(self, step: int, part: MicroBatch) -> Losses:
        """Loss of the generator."""
        segments, share = self._segments(step, part), part.share(self.config.batch)
        with self.autocast():
            generated, duration_errors = self.generate(segments)
        spectral = self.distance(generated, segments.waveforms)
        losses = {"loss": spectral * share, "spectral": spectral * share}
        if step >= self.config.adversarial_from:
            adversarial = self._adversarial(generated, segments.waveforms) + self.config.spectral_weight * spectral
            losses["loss"] = adversarial * share
        if duration_errors is not None:
            losses["durations"] = duration_errors / max(1, segments.known_durations)
            losses["loss"] = losses["loss"] + losses["durations"]
        return losses

    def _adversarial(self, generated: Tensor, real: Tensor) -> Tensor:
        """Adversarial and feature-matching loss by discriminators whose weights get no gradients."""
        self.discriminators.requires_grad_(False)
        with self.autocast():
            with torch.no_grad():
                truth = self.discriminators(real)
            adversarial, matching = generator_losses(truth, self.discriminators(generated), self.reduce)
        self.discriminators.requires_grad_(True)
        return adversarial + MATCHING_WEIGHT * matching

    def _segments(self, step: int, part: MicroBatch) -> Segments:
        return draw_segments(self.clips, self.config, step, part, self.device)
