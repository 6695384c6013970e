"""Translator training: image features and token sentences -> a translator, with cross-entropy on the next token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.lab.data.image_features import ImageFeatures
from im2sp.lab.models.translator import Translator
from im2sp.lab.training.progress import Checkpoint, TrainingLog, warm_up_cosine

PAD = 0

Sentences = dict[str, list[list[int]]]  # image id -> token ids of each caption, BOS and EOS included


@dataclass(frozen=True)
class TranslatorTraining:
    """Options of one training run."""

    steps: int = 4000
    photos: int = 48  # photos a step, each with all its captions behind one shared image prefix
    captions: int = 5  # captions a photo and step at most
    distilled_from: int | None = None  # step from which only sentences of the text captioner are learnt from
    distilled_photos: int = 64  # photos a step from there on; they have fewer sentences each
    learning_rate: float = 1e-3
    warm_up: int = 300
    floor: float = 0.02  # of the learning rate at the end of the cosine, as a share of its peak
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    average_decay: float = 0.999  # exponential moving average of the weights, which is what is kept
    report_every: int = 200
    frozen: tuple[str, ...] = ()  # modules of the translator that stay as the stage `translate` gets them
    seed: int = 0


class PhotoBatches:
    """Batches of photos whose longest captions are alike, drawn by step."""

    def __init__(self, sentences: Sentences, options: TranslatorTraining, photos: int, views: int) -> None:
        self._sentences, self._options, self._photos, self._views = sentences, options, photos, views
        self._ids = sorted(sentences)
        self._longest = np.array([max(len(s) for s in sentences[i]) for i in self._ids])
        self._per_epoch = max(1, len(self._ids) // photos)

    def at(self, step: int) -> tuple[list[str], np.ndarray, Tensor, Tensor]:
        """Photo ids [P], the view of each [P], tokens int64 [B, T] padded, and the photo of each caption int64 [B]."""
        epoch, place = divmod(step, self._per_epoch)
        rng = np.random.default_rng((self._options.seed, epoch))
        jittered = self._longest + rng.uniform(0, 6, len(self._longest))
        order = np.argsort(jittered)
        starts = rng.permutation(self._per_epoch) * self._photos
        rows = order[starts[place] : starts[place] + self._photos]
        ids = [self._ids[row] for row in rows]
        draw = np.random.default_rng((self._options.seed, 1, step))
        captions, photo = [], []
        for index, image_id in enumerate(ids):
            chosen = self._sentences[image_id]
            if len(chosen) > self._options.captions:
                picks = draw.choice(len(chosen), self._options.captions, replace=False)
                chosen = [chosen[pick] for pick in picks]
            captions.extend(chosen)
            photo.extend([index] * len(chosen))
        tokens = pad(captions)
        photo += [0] * (len(tokens) - len(photo))
        return ids, draw.integers(self._views, size=len(ids)), tokens, torch.tensor(photo)


def pad(sentences: list[list[int]]) -> Tensor:
    """Token sentences -> int64 [B, longest], filled with PAD at the end; sizes rounded up to few different ones.

    Matrix products are compiled anew for every shape on a CPU: B is a multiple of 8, the length 1 more than one of 4.
    """
    longest = 1 + -(-(max(map(len, sentences)) - 1) // 4) * 4
    tokens = torch.full((-(-len(sentences) // 8) * 8, longest), PAD)
    for row, sentence in enumerate(sentences):
        tokens[row, : len(sentence)] = torch.tensor(sentence)
    return tokens


def next_token_loss(model: Translator, features: Tensor, tokens: Tensor, photo: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy [nats] over all tokens after BOS, EOS included, pad ignored."""
    targets = tokens[:, 1:].flatten()
    counted = (targets != PAD).nonzero()[:, 0]  # logits of padding would cost as much as the rest and count for nothing
    filler = -len(counted) % 128
    rows = nn.functional.pad(counted, (0, filler))
    targets = nn.functional.pad(targets[counted], (0, filler), value=PAD)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden(features, tokens[:, :-1], photo).flatten(0, 1)
        logits = model.output(hidden[rows])
    return nn.functional.cross_entropy(logits.float(), targets, ignore_index=PAD, label_smoothing=smoothing)


def validation_loss(model: Translator, features: ImageFeatures, sentences: Sentences, photos: int = 400) -> float:
    """Cross-entropy [nats a token] without smoothing on the first photos of a held-out part, weighted by tokens."""
    model.eval()
    ids, total, count = sorted(sentences)[:photos], 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ids), 50):
            chunk = ids[start : start + 50]
            captions = [caption for image_id in chunk for caption in sentences[image_id]]
            tokens = pad(captions)
            rows = [row for row, image_id in enumerate(chunk) for _ in sentences[image_id]]
            photo = torch.tensor(rows + [0] * (len(tokens) - len(rows)))
            images = torch.from_numpy(features.batch(chunk)).float()
            predicted = int((tokens[:, 1:] != PAD).sum())
            total += next_token_loss(model, images, tokens, photo, 0.0).item() * predicted
            count += predicted
    model.train()
    return total / max(1, count)


def train_translator(
    model: Translator,
    features: ImageFeatures,
    train: Sentences,
    held_out: Sentences,
    options: TranslatorTraining,
    out: Path,
    distilled: Sentences | None = None,
) -> Translator:
    """Train; resumes from `out/checkpoint.pt`; leaves the averaged weights in `out` and returns that model.

    The batch of a step depends on the seed and the step alone: a resumed run sees the data of an unbroken one.

    Args:
        distilled: what is learnt from in place of `train` from step `options.distilled_from` on.
    """
    if (out / "model.safetensors").is_file():
        return Translator.load(out)
    torch.manual_seed(options.seed)
    model.train()
    optimizer = torch.optim.AdamW(_groups(model, options.weight_decay), lr=options.learning_rate, betas=(0.9, 0.98))
    average = {name: value.clone() for name, value in model.state_dict().items()}
    step = 0
    checkpoint = Checkpoint(
        out / "checkpoint.pt",
        lambda: {"step": step, "model": model.state_dict(), "average": average, "optimizer": optimizer.state_dict()},
    )
    if state := checkpoint.load():
        step, average = state["step"], state["average"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    views = len(features.views)
    batches = PhotoBatches(train, options, options.photos, views)
    turn = options.distilled_from if distilled and options.distilled_from is not None else options.steps
    later = PhotoBatches(distilled or train, options, options.distilled_photos, views)
    report, losses = TrainingLog(out / "log.jsonl"), []
    while step < options.steps:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warm_up_cosine(step, options.steps, options.warm_up, options.floor)
        torch.manual_seed(options.seed * 1_000_003 + step)  # dropout repeats after a restart, too
        ids, chosen_views, tokens, photo = (batches if step < turn else later).at(step)
        images = torch.from_numpy(features.batch(ids, chosen_views)).float()
        loss = next_token_loss(model, images, tokens, photo, options.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(options.average_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        losses.append(loss.item())
        if step % options.report_every == 0 or step == options.steps:
            report.write(
                step=step, loss=float(np.mean(losses)), held_out=_averaged_loss(model, average, features, held_out)
            )
            losses = []
        checkpoint.maybe_save()
    checkpoint.save()
    model.load_state_dict(average)
    model.eval().save(out)
    return model


def _averaged_loss(
    model: Translator, average: dict[str, Tensor], features: ImageFeatures, held_out: Sentences
) -> float:
    current = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average)
    loss = validation_loss(model, features, held_out)
    model.load_state_dict(current)
    return loss


def _groups(model: Translator, weight_decay: float) -> list[dict[str, object]]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
