"""Vocoder training: unit frames and waveforms -> vocoder and duration predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.files import replace_whole
from im2sp.speech.units import remove_repeats
from im2sp.train.data.clips import Clip
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig, load_vocoder, save_vocoder
from im2sp.train.precision import products
from im2sp.train.training.adversarial import AdversarialTraining, Lessons, Pupil, train_adversarially
from im2sp.train.training.processes import Processes, peers_answer
from im2sp.train.training.progress import TrainingLog, warm_up_cosine
from im2sp.train.training.vocoder_losses import Discriminators, spectral_loss


@dataclass(frozen=True)
class VocoderTraining(AdversarialTraining):
    """Options of vocoder training."""

    steps: int = 6000
    adversarial_from: int = 5000
    batch: int = 12
    segment_frames: int = 64  # 1.28 s
    learning_rate: float = 1e-3
    spectral_weight: float = 15.0
    average_decay: float = 0.999
    bf16: bool = True
    warm_up: int = 200
    duration_steps: int = 2000
    duration_batch: int = 16


@peers_answer()
def train_vocoder(
    clips: Sequence[Clip],
    start: VocoderConfig | tuple[UnitVocoder, DurationPredictor],
    options: VocoderTraining,
    out: Path,
) -> tuple[UnitVocoder, DurationPredictor]:
    """Train both networks; resumes; leaves them in `out` (`save_vocoder`); what is returned is on the CPU.

    Args:
        start: sizes of new networks, or networks that learn on.

    Several processes share the batches of the vocoder. The duration predictor, which is small, learns in the main one.
    """
    processes = Processes()
    finished = (out / "config.json").is_file()
    processes.same(finished, f"states of {out}")
    if finished:
        return load_vocoder(out)
    if isinstance(start, VocoderConfig):
        torch.manual_seed(options.seed)
        start = UnitVocoder(start), DurationPredictor(start)
    with processes.main_first():
        durations = train_durations([clip.units for clip in clips], start[1], options, out, processes.device)
    vocoder = _train_generator(clips, start[0], options, out, processes)
    if processes.main:
        save_vocoder(vocoder, durations, out)
    processes.wait()
    return vocoder, durations


class _Pupil(Pupil):
    """Our vocoder, whose durations are learned apart."""

    def __init__(self, model: UnitVocoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, speakers: Tensor) -> tuple[Tensor, None]:
        """All speakers sound alike."""
        return self.model(frames), None


def _train_generator(
    clips: Sequence[Clip], model: UnitVocoder, options: VocoderTraining, out: Path, processes: Processes
) -> UnitVocoder:
    torch.manual_seed(options.seed)
    model.train()
    lessons = Lessons(
        Discriminators(),
        torch.mean,
        spectral_loss,
        lambda step: options.learning_rate * warm_up_cosine(step, options.steps, options.warm_up),
        largest_gradient=(1.0, 10.0),
    )
    train_adversarially(_Pupil(model), lessons, clips, options, out, processes)
    return model


def train_durations(
    sentences: list[np.ndarray],
    model: DurationPredictor,
    options: VocoderTraining,
    out: Path,
    device: torch.device | str = "cpu",
) -> DurationPredictor:
    """Train the duration predictor on whole sentences (unit of each frame [F]); what is returned is on the CPU.

    By the likelihood of a Poisson variable, which is largest where exp(prediction) is the mean of frames + 1. Squared
    error of the logarithm aims at the geometric mean, which is smaller, and hurries the speech.
    """
    model.train()
    path = out / "durations.pt"
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    model.to(device)
    pairs = sorted((remove_repeats(units) for units in sentences), key=lambda pair: len(pair[0]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.01)
    report, losses = TrainingLog(out / "durations.jsonl"), []
    for step in range(options.duration_steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warm_up_cosine(step, options.duration_steps, 100)
        rng = np.random.default_rng((options.seed, 2, step))
        start = int(rng.integers(max(1, len(pairs) - options.duration_batch + 1)))
        chosen = pairs[start : start + options.duration_batch]
        longest = -(-max(len(units) for units, _ in chosen) // 16) * 16  # few lengths: each is compiled anew
        units = torch.zeros(len(chosen), longest, dtype=torch.int64)
        targets = torch.zeros(len(chosen), longest)
        mask = torch.zeros(len(chosen), longest, dtype=torch.bool)
        for row, (sentence, durations) in enumerate(chosen):
            units[row, : len(sentence)] = torch.from_numpy(np.asarray(sentence, dtype=np.int64))
            units[row, len(sentence) :] = int(sentence[-1])
            targets[row, : len(sentence)] = torch.from_numpy(np.asarray(durations, dtype=np.float32))
            mask[row, : len(sentence)] = True
        units, targets, mask = units.to(device), targets.to(device), mask.to(device)
        with products(units.device.type, options.bf16):
            predicted = model(units)
        loss = nn.functional.poisson_nll_loss(predicted[mask], targets[mask] + 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            report.write(step=step + 1, duration_error=float(np.mean(losses)))
            losses = []
    model.eval().to("cpu")
    with replace_whole(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return model
