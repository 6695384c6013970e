"""Vocoder training: unit frames and waveforms -> vocoder and duration predictor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.files import replace_whole
from im2sp.lab.data.speech_shards import as_floats
from im2sp.lab.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig, load_vocoder, save_vocoder
from im2sp.lab.precision import products
from im2sp.lab.training.processes import WHOLE, Part, Processes, peers_answer
from im2sp.lab.training.progress import Checkpoint, TrainingLog, warm_up_cosine
from im2sp.lab.training.vocoder_losses import Discriminators, Verdicts, generator_loss, spectral_loss
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
    accumulate: int = 1  # parts that a process computes its share of a step in
    bf16: bool = True  # products of matrices in bfloat16
    seed: int = 0


Clip = tuple[np.ndarray, np.ndarray]  # unit of each frame uint8/uint16 [F], waveform int16 [F * HOP]


@peers_answer()
def train_vocoder(
    clips: list[Clip], config: VocoderConfig, options: VocoderTraining, out: Path
) -> tuple[UnitVocoder, DurationPredictor]:
    """Train both networks; resumes; leaves them in `out` (`save_vocoder`); what is returned is on the CPU.

    Several processes share the batches of the vocoder. The duration predictor, which is small, learns in the main one.
    """
    processes = Processes()
    finished = (out / "config.json").is_file()
    processes.same(finished, f"states of {out}")
    if finished:
        return load_vocoder(out)
    with processes.main_first():
        durations = train_durations([units for units, _ in clips], config, options, out, processes.device)
    vocoder = _train_generator(clips, config, options, out, processes)
    if processes.main:
        save_vocoder(vocoder, durations, out)
    processes.wait()
    return vocoder, durations


def _train_generator(
    clips: list[Clip], config: VocoderConfig, options: VocoderTraining, out: Path, processes: Processes
) -> UnitVocoder:
    parts = processes.parts(options.accumulate, options.batch, "batch")
    torch.manual_seed(options.seed)
    model, judges = UnitVocoder(config).train(), Discriminators().train()
    shared, verdicts = processes.share(model), processes.share(Verdicts(judges))
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
        processes.main,
    )
    if state := checkpoint.load():
        step, average = state["step"], {name: value.to(processes.device) for name, value in state["average"].items()}
        model.load_state_dict(state["model"])
        judges.load_state_dict(state["judges"])
        optimizer.load_state_dict(state["optimizer"])
        judge_optimizer.load_state_dict(state["judge_optimizer"])
    processes.same(step, f"checkpoints in {out}")
    report, losses = TrainingLog(out / "log.jsonl", processes.main), []
    while step < options.steps:
        adversarial = step >= options.adversarial_from
        rate = options.learning_rate * warm_up_cosine(step, options.steps, options.warm_up)
        for group in [*optimizer.param_groups, *judge_optimizer.param_groups]:
            group["lr"] = rate
        cuts = [segments(clips, options, step, part, processes.device) for part in parts]
        fakes: list[Tensor] = []
        if adversarial:
            # With several parts, what the generator learns by is made again, as keeping it all would take memory.
            once = len(parts) == 1
            with torch.set_grad_enabled(once):
                fakes = [_predict(shared if once else model, frames, options) for frames, _ in cuts]
            judge_optimizer.zero_grad(set_to_none=True)
            for part, fake, (_, real) in zip(parts, fakes, cuts, strict=True):
                with processes.backward_of(part, verdicts):
                    with products(processes.device.type, options.bf16):
                        loss = verdicts(real, fake.detach())
                    processes.backward(loss * part.share(options.batch))
            judge_optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total = distance = 0.0
        for part, (frames, real) in zip(parts, cuts, strict=True):
            with processes.backward_of(part, shared):
                generated = fakes[0] if len(parts) == len(fakes) == 1 else _predict(shared, frames, options)
                loss = spectral = spectral_loss(generated, real)
                if adversarial:
                    loss = _judged(judges, generated, real, options) + options.spectral_weight * spectral
                processes.backward(loss * part.share(options.batch))
            total += loss.item() * part.share(options.batch)
            distance += spectral.item() * part.share(options.batch)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0 if adversarial else 1.0)
        optimizer.step()
        step += 1
        decay = min(options.average_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        losses.append((total, distance))
        if step % options.report_every == 0:
            mean, mean_distance = processes.sums(*np.mean(losses, 0).tolist())
            report.write(step=step, loss=mean, spectral=mean_distance)
            losses = []
        checkpoint.maybe_save()
    checkpoint.save()
    model.load_state_dict(average)
    return model.eval().to("cpu")


def _predict(model: nn.Module, frames: Tensor, options: VocoderTraining) -> Tensor:
    with products(frames.device.type, options.bf16):
        waveform: Tensor = model(frames)
    return waveform


def _judged(judges: Discriminators, generated: Tensor, real: Tensor, options: VocoderTraining) -> Tensor:
    """The generator's adversarial and feature-matching loss."""
    judges.requires_grad_(False)
    with products(real.device.type, options.bf16):
        with torch.no_grad():
            true = judges(real)
        adversarial, matching = generator_loss(true, judges(generated))
    judges.requires_grad_(True)
    return adversarial + 2 * matching


def segments(
    clips: list[Clip],
    options: VocoderTraining,
    step: int,
    part: Part = WHOLE,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Random segments of a step, or of a part of one; silence after short clips.

    Returns:
        (unit frames int64 [B, F], waveform float32 [B, F * HOP]).
    """
    rng = np.random.default_rng((options.seed, step))
    length = options.segment_frames
    drawn = [
        (clips[index], int(rng.integers(max(1, len(clips[index][0]) - length + 1))))
        for index in rng.integers(len(clips), size=options.batch)
    ][part.rows(options.batch)]
    frames = np.zeros((len(drawn), length), dtype=np.int64)
    waves = np.zeros((len(drawn), length * HOP), dtype=np.float32)
    for row, ((units, wave), start) in enumerate(drawn):
        piece = units[start : start + length]
        frames[row, : len(piece)] = piece
        frames[row, len(piece) :] = units[-1]
        sound = wave[start * HOP : (start + len(piece)) * HOP]
        waves[row, : len(sound)] = as_floats(sound)
    return torch.from_numpy(frames).to(device), torch.from_numpy(waves).to(device)


def train_durations(
    sentences: list[np.ndarray],
    config: VocoderConfig,
    options: VocoderTraining,
    out: Path,
    device: torch.device | str = "cpu",
) -> DurationPredictor:
    """Train the duration predictor on whole sentences (unit of each frame [F]); what is returned is on the CPU.

    By the likelihood of a Poisson variable, which is largest where exp(prediction) is the mean of frames + 1. Squared
    error of the logarithm aims at the geometric mean, which is smaller, and hurries the speech.
    """
    torch.manual_seed(options.seed)
    model = DurationPredictor(config).train()
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
        predicted = _predict(model, units, options)
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
