"""The training loop that all vocoders share: segments of clips -> a generator, taught by spectra and by discriminators.

A step has one batch of segments, which follows from the seed and the step alone and is cut into parts
(`im2sp.train.training.processes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.speech.audio import HOP
from im2sp.train.data.clips import Clip
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.precision import products
from im2sp.train.training.averaging import follow
from im2sp.train.training.processes import WHOLE, Part, Processes
from im2sp.train.training.progress import Checkpoint, TrainingLog
from im2sp.train.training.vocoder_losses import Combine, Judges, Verdicts, generator_loss

BETAS, WEIGHT_DECAY = (0.8, 0.99), 0.01  # of AdamW
MATCHING_WEIGHT = 2.0  # of feature matching, against adversarial 1


@dataclass(frozen=True)
class AdversarialTraining:
    """Options that all vocoders have; their defaults are in the classes of each."""

    steps: int
    adversarial_from: int  # step at which the discriminators join; up to there spectra alone count
    batch: int
    segment_frames: int
    learning_rate: float
    spectral_weight: float  # against adversarial 1 and feature matching 2, once the discriminators join
    average_decay: float  # exponential moving average of the weights, which is what is kept
    bf16: bool  # products of matrices in bfloat16
    report_every: int = 50
    accumulate: int = 1  # parts that a process computes its share of a step in
    seed: int = 0


class Segments(NamedTuple):
    """Segments of clips: those of a step, or of a part of one."""

    frames: Tensor  # unit of each frame int64 [B, F]
    waveforms: Tensor  # float32 [B, F * HOP]
    speakers: Tensor  # int64 [B]
    inner: int  # in the whole step: units that begin and end inside their segment, so that their durations are known


def segments(
    clips: Sequence[Clip],
    options: AdversarialTraining,
    step: int,
    part: Part = WHOLE,
    device: torch.device | str = "cpu",
) -> Segments:
    """Random segments of a step, or of a part of one; silence, and the last unit on and on, after short clips."""
    rng = np.random.default_rng((options.seed, step))
    length = options.segment_frames
    drawn = [
        (clip := clips[int(index)], int(rng.integers(max(1, len(clip.units) - length + 1))))
        for index in rng.integers(len(clips), size=options.batch)
    ]
    frames = np.zeros((len(drawn), length), dtype=np.int64)
    for row, (clip, start) in enumerate(drawn):
        piece = clip.units[start : start + length]
        frames[row, : len(piece)] = piece
        frames[row, len(piece) :] = clip.units[-1]
    changes = (frames[:, 1:] != frames[:, :-1]).sum(1)
    rows = part.rows(options.batch)
    waves = np.zeros((len(drawn[rows]), length * HOP), dtype=np.float32)
    for row, (clip, start) in enumerate(drawn[rows]):
        sound = clip.waveform[start * HOP : min(start + length, len(clip.units)) * HOP]
        waves[row, : len(sound)] = as_floats(sound)
    speakers = torch.tensor([clip.speaker for clip, _ in drawn[rows]])
    return Segments(
        torch.from_numpy(frames[rows]).to(device),
        torch.from_numpy(waves).to(device),
        speakers.to(device),
        int(np.maximum(changes - 1, 0).sum()),
    )


class Pupil(nn.Module):
    """A vocoder as it is trained."""

    model: nn.Module  # whose weights are kept

    def forward(self, frames: Tensor, speakers: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unit of every frame int64 [B, F], speakers int64 [B] -> (waveform float32 [B, F * HOP], duration errors).

        Duration errors: summed over the units that begin and end inside their segment, float32 []; None where the
        durations are learned elsewhere.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Lessons:
    """How one kind of vocoder is taught."""

    judges: Judges
    combine: Combine  # what is said of each judge, or of each of their hidden maps [N], -> []
    distance: Callable[[Tensor, Tensor], Tensor]  # of spectra: generated and real speech [B, S] -> []
    rate: Callable[[int], float]  # step -> learning rate
    largest_gradient: tuple[float, float] = (math.inf, math.inf)  # its norm, before and after the judges join


class AdversarialRun:
    """Everything that one training run changes."""

    def __init__(self, pupil: Pupil, lessons: Lessons, options: AdversarialTraining, processes: Processes) -> None:
        self.options, self.lessons, self.processes, self.step = options, lessons, processes, 0
        self.parts = processes.parts(options.accumulate, options.batch, "batch")
        self.pupil, self.model, self.judges = pupil, pupil.model, lessons.judges
        self.shared = processes.share(pupil)
        self.verdicts = processes.share(Verdicts(self.judges, lessons.combine))
        self.optimizer, self.judge_optimizer = (
            torch.optim.AdamW(module.parameters(), lr=options.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY)
            for module in (self.model, self.judges)
        )
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "judges": self.judges.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name in ("model", "judges", "optimizer", "judge_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        self.average = {name: value.to(self.processes.device) for name, value in state["average"].items()}

    def advance(self, clips: Sequence[Clip]) -> dict[str, float]:
        """One step; returns this process's share of each loss."""
        options, processes = self.options, self.processes
        adversarial = self.step >= options.adversarial_from
        for group in [*self.optimizer.param_groups, *self.judge_optimizer.param_groups]:
            group["lr"] = self.lessons.rate(self.step)
        cuts = [segments(clips, options, self.step, part, processes.device) for part in self.parts]
        spoken: list[tuple[Tensor, Tensor | None]] = []
        once = len(self.parts) == 1
        if adversarial:
            # With several parts, what the generator learns by is made again, as keeping it all would take memory.
            with torch.set_grad_enabled(once):
                speaking = self.shared if once else self.pupil
                spoken = [self._speak(speaking, part, cut) for part, cut in zip(self.parts, cuts, strict=True)]
            self._teach_judges(cuts, [waveform for waveform, _ in spoken])
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, float] = {}
        for part, cut in zip(self.parts, cuts, strict=True):
            with processes.backward_of(part, self.shared):
                generated = spoken[0] if adversarial and once else self._speak(self.shared, part, cut)
                for name, loss in self._learn(part, cut, generated, adversarial).items():
                    losses[name] = losses.get(name, 0.0) + loss
        nn.utils.clip_grad_norm_(self.model.parameters(), self.lessons.largest_gradient[adversarial])
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.model.state_dict(), options.average_decay, self.step)
        return losses

    def _speak(self, speaking: nn.Module, part: Part, cut: Segments) -> tuple[Tensor, Tensor | None]:
        torch.manual_seed(part.seed(self.options.seed * 1_000_003 + self.step))  # dropout repeats after a restart, too
        with products(cut.frames.device.type, self.options.bf16):
            waveform, errors = speaking(cut.frames, cut.speakers)
        return waveform, errors

    def _teach_judges(self, cuts: list[Segments], generated: list[Tensor]) -> None:
        """One step of the discriminators."""
        self.judges.renew()
        self.judge_optimizer.zero_grad(set_to_none=True)
        for part, cut, waveform in zip(self.parts, cuts, generated, strict=True):
            with self.processes.backward_of(part, self.verdicts):
                with products(cut.frames.device.type, self.options.bf16):
                    loss = self.verdicts(cut.waveforms, waveform.detach())
                self.processes.backward(loss * part.share(self.options.batch))
        self.judge_optimizer.step()

    def _learn(
        self, part: Part, cut: Segments, generated: tuple[Tensor, Tensor | None], adversarial: bool
    ) -> dict[str, float]:
        """Gradients of the generator from a part; returns the part's share of each loss."""
        waveform, errors = generated
        share = part.share(self.options.batch)
        loss = spectral = self.lessons.distance(waveform, cut.waveforms)
        if adversarial:
            loss = self._judged(waveform, cut.waveforms) + self.options.spectral_weight * spectral
        loss = loss * share
        losses = {"spectral": spectral.item() * share}
        if errors is not None:
            durations = errors / max(1, cut.inner)
            loss = loss + durations
            losses["durations"] = durations.item()
        self.processes.backward(loss)
        return {"loss": loss.item()} | losses

    def _judged(self, generated: Tensor, real: Tensor) -> Tensor:
        """The generator's adversarial and feature-matching loss, by discriminators that are held still."""
        self.judges.requires_grad_(False)
        with products(real.device.type, self.options.bf16):
            with torch.no_grad():
                true = self.judges(real)
            adversarial, matching = generator_loss(true, self.judges(generated), self.lessons.combine)
        self.judges.requires_grad_(True)
        return adversarial + MATCHING_WEIGHT * matching


def train_adversarially(
    pupil: Pupil,
    lessons: Lessons,
    clips: Sequence[Clip],
    options: AdversarialTraining,
    out: Path,
    processes: Processes,
) -> None:
    """Train to the end; goes on from `out/checkpoint.pt`; leaves the averaged weights in `pupil.model`, on the CPU."""
    run = AdversarialRun(pupil, lessons, options, processes)
    checkpoint = Checkpoint(out / "checkpoint.pt", run.state, processes.main)
    if state := checkpoint.load():
        run.restore(state)
    processes.same(run.step, f"checkpoints in {out}")
    report, losses = TrainingLog(out / "log.jsonl", processes.main), list[dict[str, float]]()
    while run.step < options.steps:
        losses.append(run.advance(clips))
        if run.step % options.report_every == 0:
            names = list(losses[0])
            means = processes.sums(*(float(np.mean([row[name] for row in losses])) for name in names))
            report.write(step=run.step, **dict(zip(names, means, strict=True)))
            losses = []
        checkpoint.maybe_save()
    checkpoint.save()
    pupil.model.load_state_dict(run.average)
    pupil.model.eval().to("cpu")
