"""HuBERT training: waveforms and frame targets -> a model that predicts the targets of masked frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from im2sp.lab.data.speech_shards import as_floats
from im2sp.lab.models.speech_encoder import edge_padding
from im2sp.lab.training.progress import Checkpoint, TrainingLog, warm_up_cosine
from im2sp.speech.audio import HOP


@dataclass(frozen=True)
class HubertTraining:
    """Options of one iteration of masked prediction."""

    steps: int = 1000
    batch_seconds: float = 32.0
    learning_rate: float = 1e-3
    warm_up: int = 80
    weight_decay: float = 0.01
    mask_share: float = 0.08  # share of frames at which a masked span starts
    mask_span: int = 8  # frames
    unmasked_weight: float = 0.1  # weight of the loss on frames that were not masked
    seed: int = 0


class LengthBatches:
    """Batches of clips of nearly one length, drawn by step: the same step gives the same batch after a restart."""

    def __init__(self, lengths: np.ndarray, batch_seconds: float, seed: int) -> None:
        self._order = np.argsort(lengths, kind="stable")
        self._lengths, self._seconds, self._seed = lengths, batch_seconds, seed

    def at(self, step: int) -> np.ndarray:
        """Row numbers of the clips of one step."""
        rng = np.random.default_rng((self._seed, step))
        middle = int(rng.integers(len(self._order)))
        length = max(HOP, int(self._lengths[self._order[middle]]))
        count = max(2, int(self._seconds * 16_000 / length))
        low = max(0, min(middle - count, len(self._order) - 2 * count))
        near = self._order[low : low + 2 * count]
        return rng.choice(near, size=min(count, len(near)), replace=False)


def span_mask(frames: int, batch: int, options: HubertTraining, rng: np.random.Generator) -> np.ndarray:
    """Boolean [batch, frames]: spans of `mask_span` frames start at a share of the frames, at one at least."""
    starts = rng.random((batch, frames)) < options.mask_share
    starts[np.arange(batch), rng.integers(max(1, frames - options.mask_span + 1), size=batch)] = True
    mask = starts.copy()
    for shift in range(1, options.mask_span):
        mask[:, shift:] |= starts[:, :-shift]
    return mask


class MaskedPrediction(nn.Module):
    """HuBERT with a classifier over frame targets."""

    def __init__(self, config: HubertConfig, targets: int) -> None:
        super().__init__()
        self.hubert = HubertModel(config)
        self.padding = edge_padding(config)
        self.head = nn.Linear(config.hidden_size, targets)

    def forward(self, waveform: Tensor, mask: Tensor, targets: Tensor, unmasked_weight: float) -> tuple[Tensor, Tensor]:
        """Waveform [B, n * HOP], mask and targets [B, n] -> (loss, accuracy on masked frames)."""
        padded = nn.functional.pad(waveform, (self.padding, self.padding))
        hidden = self.hubert(padded, mask_time_indices=mask).last_hidden_state
        logits = self.head(hidden).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        right = (logits.argmax(-1) == targets)[mask].float().mean()
        return loss[mask].mean() + unmasked_weight * loss[~mask].mean(), right


def train_hubert(
    clips: list[np.ndarray],
    targets: list[np.ndarray],
    config: HubertConfig,
    options: HubertTraining,
    out: Path,
    clusters: int,
    start: HubertModel | None = None,
) -> HubertModel:
    """Train one iteration; resumes from `out/checkpoint.pt`; leaves the model in transformers layout in `out`.

    Args:
        clips: waveforms int16 [n * HOP] each.
        targets: frame targets [n] each.
        clusters: number of different targets.
        start: model whose weights to begin from; None for a random start.
    """
    if (out / "model.safetensors").is_file():
        return HubertModel.from_pretrained(out)
    torch.manual_seed(options.seed)
    model = MaskedPrediction(config, clusters).train()
    if start is not None:
        model.hubert.load_state_dict(start.state_dict())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=options.weight_decay
    )
    step = 0
    checkpoint = Checkpoint(
        out / "checkpoint.pt", lambda: {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    )
    if state := checkpoint.load():
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    batches = LengthBatches(np.array([len(clip) for clip in clips]), options.batch_seconds, options.seed)
    report, losses, rights = TrainingLog(out / "log.jsonl"), [], []
    while step < options.steps:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warm_up_cosine(step, options.steps, options.warm_up)
        rng = np.random.default_rng((options.seed, 1, step))
        waveform, mask, target = _batch(clips, targets, batches.at(step), options, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss, right = model(waveform, mask, target, options.unmasked_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        rights.append(right.item())
        if step % 25 == 0:
            report.write(step=step, loss=float(np.mean(losses)), masked_accuracy=float(np.mean(rights)))
            losses, rights = [], []
        checkpoint.maybe_save()
    checkpoint.save()
    model.eval().hubert.save_pretrained(out)
    return model.hubert


def _batch(
    clips: list[np.ndarray],
    targets: list[np.ndarray],
    rows: np.ndarray,
    options: HubertTraining,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    frames = min(len(targets[row]) for row in rows)
    waveforms, labels = [], []
    for row in rows:
        start = int(rng.integers(len(targets[row]) - frames + 1))
        waveforms.append(clips[row][start * HOP : (start + frames) * HOP])
        labels.append(targets[row][start : start + frames])
    waveform = torch.from_numpy(as_floats(np.stack(waveforms)))
    mask = torch.from_numpy(span_mask(frames, len(rows), options, rng))
    return waveform, mask, torch.from_numpy(np.stack(labels).astype(np.int64))
