"""HuBERT training: waveforms and frame targets -> a model that predicts the targets of masked frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from im2sp.speech.audio import HOP
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.models.speech_encoder import edge_padding
from im2sp.train.precision import products
from im2sp.train.training.processes import Part, Processes, peers_answer
from im2sp.train.training.progress import Checkpoint, TrainingLog, warm_up_cosine


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
    accumulate: int = 1  # parts that a process computes its share of a step in
    bf16: bool = True  # products of matrices in bfloat16
    seed: int = 0


class LengthBatches:
    """Batches of clips of nearly one length, drawn by step: the same step gives the same batch after a restart."""

    def __init__(self, lengths: np.ndarray, batch_seconds: float, seed: int) -> None:
        self._order = np.argsort(lengths, kind="stable")
        self._lengths, self._seconds, self._seed = lengths, batch_seconds, seed

    @property
    def smallest(self) -> int:
        """Clips of a batch of the longest."""
        return min(len(self._order), self._count(int(self._lengths.max())))

    def _count(self, length: int) -> int:
        return max(2, int(self._seconds * 16_000 / length))

    def at(self, step: int) -> np.ndarray:
        """Row numbers of the clips of one step."""
        rng = np.random.default_rng((self._seed, step))
        middle = int(rng.integers(len(self._order)))
        length = max(HOP, int(self._lengths[self._order[middle]]))
        count = self._count(length)
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


class MaskedBatch:
    """The batch of a step: pieces of clips, as long as the shortest of these, and what of them is masked.

    Args:
        clips: waveforms int16 [n * HOP] each.
        targets: frame targets [n] each.
        rows: numbers of the clips of the batch.
    """

    def __init__(
        self,
        clips: list[np.ndarray],
        targets: list[np.ndarray],
        rows: np.ndarray,
        options: HubertTraining,
        step: int,
    ) -> None:
        rng = np.random.default_rng((options.seed, 1, step))
        self._clips, self._targets, self._rows = clips, targets, rows
        self._frames = min(len(targets[row]) for row in rows)
        self._starts = [int(rng.integers(len(targets[row]) - self._frames + 1)) for row in rows]
        self._mask = span_mask(self._frames, len(rows), options, rng)

    @property
    def counts(self) -> tuple[int, int]:
        """How many frames are masked, and how many are not."""
        masked = int(self._mask.sum())
        return masked, self._mask.size - masked

    def part(self, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """Some of the clips: waveform float32 [B, n * HOP], mask bool [B, n] and targets int64 [B, n]."""
        rows = part.rows(len(self._rows))
        waveforms, labels = [], []
        for row, start in zip(self._rows[rows], self._starts[rows], strict=True):
            waveforms.append(self._clips[row][start * HOP : (start + self._frames) * HOP])
            labels.append(self._targets[row][start : start + self._frames])
        waveform = torch.from_numpy(as_floats(np.stack(waveforms)))
        return waveform, torch.from_numpy(self._mask[rows]), torch.from_numpy(np.stack(labels).astype(np.int64))


class MaskedPrediction(nn.Module):
    """HuBERT with a classifier over frame targets."""

    def __init__(self, config: HubertConfig, targets: int) -> None:
        super().__init__()
        self.hubert = HubertModel(config)
        self.padding = edge_padding(config)
        self.head = nn.Linear(config.hidden_size, targets)

    def forward(
        self, waveform: Tensor, mask: Tensor, targets: Tensor, frames: tuple[int, int], unmasked_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Loss and accuracy on masked frames of a batch, or what a part of one contributes to them.

        Args:
            waveform: float32 [B, n * HOP].
            mask, targets: [B, n].
            frames: how many frames of the whole batch are masked, and how many are not.
            unmasked_weight: weight of the loss on these.
        """
        masked, unmasked = frames
        padded = nn.functional.pad(waveform, (self.padding, self.padding))
        hidden = self.hubert(padded, mask_time_indices=mask).last_hidden_state
        logits = self.head(hidden).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        right = (logits.argmax(-1) == targets)[mask].float().sum() / masked
        return loss[mask].sum() / masked + unmasked_weight * (loss[~mask].sum() / unmasked), right


@peers_answer()
def train_hubert(
    clips: list[np.ndarray],
    targets: list[np.ndarray],
    config: HubertConfig,
    options: HubertTraining,
    out: Path,
    clusters: int,
    start: HubertModel | None = None,
) -> HubertModel:
    """Train one iteration; resumes from `out/checkpoint.pt`; leaves the model in transformers layout in `out`;
    what is returned is on the CPU.

    Args:
        clips: waveforms int16 [n * HOP] each.
        targets: frame targets [n] each.
        clusters: number of different targets.
        start: model whose weights to begin from; None for a random start.
    """
    processes = Processes()
    finished = (out / "model.safetensors").is_file()
    processes.same(finished, f"states of {out}")
    if finished:
        return HubertModel.from_pretrained(out)
    batches = LengthBatches(np.array([len(clip) for clip in clips]), options.batch_seconds, options.seed)
    parts = processes.parts(options.accumulate, batches.smallest, "batch_seconds")
    torch.manual_seed(options.seed)
    model = MaskedPrediction(config, clusters).train()
    if start is not None:
        model.hubert.load_state_dict(start.state_dict())
    shared = processes.share(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=options.weight_decay
    )
    step = 0
    checkpoint = Checkpoint(
        out / "checkpoint.pt",
        lambda: {
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
        },
        processes.main,
    )
    # One process on a CPU draws dropout from one stream for the whole run; all others from a seed of each part.
    one_stream = parts[0].of == 1 and processes.device.type == "cpu"
    if state := checkpoint.load():
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if "random" in state:  # checkpoints were without it once
            torch.set_rng_state(state["random"])
    processes.same(step, f"checkpoints in {out}")
    report, sums = TrainingLog(out / "log.jsonl", processes.main), []
    while step < options.steps:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warm_up_cosine(step, options.steps, options.warm_up)
        optimizer.zero_grad(set_to_none=True)
        batch = MaskedBatch(clips, targets, batches.at(step), options, step)
        loss = right = 0.0
        for part in parts:
            if not one_stream:
                torch.manual_seed(part.seed(options.seed * 1_000_003 + step))
            waveform, mask, target = (tensor.to(processes.device) for tensor in batch.part(part))
            with processes.backward_of(part, shared):
                with products(processes.device.type, options.bf16):
                    contribution, share = shared(waveform, mask, target, batch.counts, options.unmasked_weight)
                processes.backward(contribution)
            loss, right = loss + contribution.item(), right + share.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        sums.append((loss, right))
        if step % 25 == 0:
            mean, accuracy = processes.sums(*np.mean(sums, 0).tolist())
            report.write(step=step, loss=mean, masked_accuracy=accuracy)
            sums = []
        checkpoint.maybe_save()
    checkpoint.save()
    model.eval().to("cpu")
    if processes.main:
        model.hubert.save_pretrained(out)
    processes.wait()
    return model.hubert
