"""Vocoder training: unit frames and waveforms -> vocoder and duration predictor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.lab.data.speech_shards import as_floats
from im2sp.lab.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig, load_vocoder, save_vocoder
from im2sp.lab.training.progress import Checkpoint, TrainingLog, warm_up_cosine
from im2sp.lab.training.vocoder_losses import Discriminators, discriminator_loss, generator_loss, spectral_loss
from im2sp.speech.audio import HOP
from im2sp.speech.units import remove_repeats


@dataclass(frozen=True)
class VocoderTraining:
    """Options of vocoder training."""

    steps: int = 6000
    adversarial_from: int = 5000  # step at which the discriminators join
    batch: int = 12
    segment_frames: int = 64  # 1.28 s
    learning_rate: float = 1e-3
    warm_up: int = 200
    spectral_weight: float = 15.0  # against adversarial 1 and feature matching 2, once the discriminators join
    average_decay: float = 0.999
    duration_steps: int = 2000
    duration_batch: int = 16
    report_every: int = 50
    seed: int = 0


Clip = tuple[np.ndarray, np.ndarray]  # unit of each frame uint8/uint16 [F], waveform int16 [F * HOP]


def train_vocoder(
    clips: list[Clip], config: VocoderConfig, options: VocoderTraining, out: Path
) -> tuple[UnitVocoder, DurationPredictor]:
    """Train both networks; resumes; leaves them in `out` (`save_vocoder`)."""
    if (out / "config.json").is_file():
        return load_vocoder(out)
    durations = train_durations([units for units, _ in clips], config, options, out)
    vocoder = _train_generator(clips, config, options, out)
    save_vocoder(vocoder, durations, out)
    return vocoder, durations


def _train_generator(clips: list[Clip], config: VocoderConfig, options: VocoderTraining, out: Path) -> UnitVocoder:
    torch.manual_seed(options.seed)
    model, judges = UnitVocoder(config).train(), Discriminators().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
    judge_optimizer = torch.optim.AdamW(judges.parameters(), lr=options.learning_rate / 2, betas=(0.8, 0.99))
    average = {name: value.clone() for name, value in model.state_dict().items()}
    step = 0
    checkpoint = Checkpoint(
        out / "checkpoint.pt",
        lambda: {
            "step": step,
            "model": model.state_dict(),
            "average": average,
            "judges": judges.state_dict(),
            "optimizer": optimizer.state_dict(),
            "judge_optimizer": judge_optimizer.state_dict(),
        },
    )
    if state := checkpoint.load():
        step, average = state["step"], state["average"]
        model.load_state_dict(state["model"])
        judges.load_state_dict(state["judges"])
        optimizer.load_state_dict(state["optimizer"])
        judge_optimizer.load_state_dict(state["judge_optimizer"])
    report, losses = TrainingLog(out / "log.jsonl"), []
    while step < options.steps:
        rate = options.learning_rate * warm_up_cosine(step, options.steps, options.warm_up)
        for group in [*optimizer.param_groups, *judge_optimizer.param_groups]:
            group["lr"] = rate
        frames, real = segments(clips, options, step)
        with torch.autocast("cpu", torch.bfloat16):
            generated = model(frames)
        loss = spectral = spectral_loss(generated, real)
        if step >= options.adversarial_from:
            loss = _judge(judges, judge_optimizer, generated, real) + options.spectral_weight * spectral
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0 if step < options.adversarial_from else 10.0)
        optimizer.step()
        step += 1
        decay = min(options.average_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        losses.append((loss.item(), spectral.item()))
        if step % options.report_every == 0:
            total, distance = np.mean(losses, 0)
            report.write(step=step, loss=float(total), spectral=float(distance))
            losses = []
        checkpoint.maybe_save()
    checkpoint.save()
    model.load_state_dict(average)
    return model.eval()


def _judge(judges: Discriminators, optimizer: torch.optim.Optimizer, generated: Tensor, real: Tensor) -> Tensor:
    """One step of the discriminators; returns the generator's adversarial and feature-matching loss."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = discriminator_loss(judges(real), judges(generated.detach()))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    judges.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            true = judges(real)
        adversarial, matching = generator_loss(true, judges(generated))
    judges.requires_grad_(True)
    return adversarial + 2 * matching


def segments(clips: list[Clip], options: VocoderTraining, step: int) -> tuple[Tensor, Tensor]:
    """Random segments of a step: unit frames int64 [B, F], waveform float32 [B, F * HOP]; silence after short clips."""
    rng = np.random.default_rng((options.seed, step))
    length = options.segment_frames
    frames = np.zeros((options.batch, length), dtype=np.int64)
    waves = np.zeros((options.batch, length * HOP), dtype=np.float32)
    for row, index in enumerate(rng.integers(len(clips), size=options.batch)):
        units, wave = clips[index]
        start = int(rng.integers(max(1, len(units) - length + 1)))
        piece = units[start : start + length]
        frames[row, : len(piece)] = piece
        frames[row, len(piece) :] = units[-1]
        sound = wave[start * HOP : (start + len(piece)) * HOP]
        waves[row, : len(sound)] = as_floats(sound)
    return torch.from_numpy(frames), torch.from_numpy(waves)


def train_durations(
    sentences: list[np.ndarray], config: VocoderConfig, options: VocoderTraining, out: Path
) -> DurationPredictor:
    """Train the duration predictor on whole sentences (unit of each frame [F]).

    By the likelihood of a Poisson variable, which is largest where exp(prediction) is the mean of frames + 1. Squared
    error of the logarithm aims at the geometric mean, which is smaller, and hurries the speech.
    """
    torch.manual_seed(options.seed)
    model = DurationPredictor(config).train()
    path = out / "durations.pt"
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
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
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(units)
        loss = nn.functional.poisson_nll_loss(predicted[mask], targets[mask] + 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            report.write(step=step + 1, duration_error=float(np.mean(losses)))
            losses = []
    out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()
