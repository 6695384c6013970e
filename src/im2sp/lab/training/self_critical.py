"""Self-critical training: a captioner's own samples, the better of them made likelier (Rennie et al., 2017).

The baseline of a sample is the mean reward of the other samples about its photo (Luo, 2020), so no second decoding is
needed. The reward is CIDEr-D over tokens, so words are not needed either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.lab.data.image_features import ImageFeatures
from im2sp.lab.data.text_tokenizer import BOS, EOS
from im2sp.lab.models.translator import DecoderStep, Translator
from im2sp.lab.precision import products
from im2sp.lab.training.cider_reward import CiderReward
from im2sp.lab.training.progress import Checkpoint, TrainingLog, warm_up_cosine
from im2sp.lab.training.translator import PAD, Sentences


@dataclass(frozen=True)
class SelfCriticalTraining:
    """Options of one run."""

    steps: int = 800
    photos: int = 24  # a step
    samples: int = 5  # of each photo
    longest: int = 24  # tokens
    learning_rate: float = 1e-4
    warm_up: int = 20
    report_every: int = 50
    seed: int = 0


def train_self_critical(
    model: Translator,
    features: ImageFeatures,
    references: Sentences,
    forbidden: tuple[int, ...],
    options: SelfCriticalTraining,
    out: Path,
) -> Translator:
    """Train on; resumes from `out/checkpoint.pt`; leaves the weights in `out` and returns that model.

    Args:
        references: token ids of each caption of the train photos, BOS and EOS included.
        forbidden: tokens that are never to be said.
    """
    if (out / "model.safetensors").is_file():
        return Translator.load(out)
    model.eval()  # samples and gradients from one distribution, so no dropout
    reward = CiderReward({image_id: [caption[1:] for caption in captions] for image_id, captions in references.items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    step = 0
    checkpoint = Checkpoint(
        out / "checkpoint.pt",
        lambda: {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()},
    )
    if state := checkpoint.load():
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    image_ids, report = sorted(references), TrainingLog(out / "log.jsonl")
    rewards: list[float] = []
    while step < options.steps:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warm_up_cosine(step, options.steps, options.warm_up)
        rng = np.random.default_rng((options.seed, 3, step))
        ids = [image_ids[i] for i in rng.choice(len(image_ids), min(options.photos, len(image_ids)), replace=False)]
        views = rng.integers(len(features.views), size=len(ids))
        images = torch.from_numpy(features.batch(ids, views)).float()
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        tokens = sample(model, images, options.samples, options.longest, forbidden, generator)
        scores = torch.tensor(
            [
                [reward.score(image_id, said) for said in sentences]
                for image_id, sentences in zip(ids, _sentences(tokens, options.samples), strict=True)
            ]
        )
        loss = self_critical_loss(model, images, tokens, scores, forbidden)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        rewards.append(float(scores.mean()))
        if step % options.report_every == 0 or step == options.steps:
            report.write(step=step, reward=float(np.mean(rewards)))
            rewards = []
        checkpoint.maybe_save()
    checkpoint.save()
    model.save(out)
    return model


@torch.no_grad()  # and not inference mode, whose tensors a later backward pass refuses
def sample(
    model: Translator, images: Tensor, count: int, longest: int, forbidden: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Sentences drawn from the model: int64 [P * count, 1 + longest], BOS first, PAD after EOS.

    Args:
        images: features [P, N, image_width]; the sentences of a photo come one after the other.
    """
    step, pairs = DecoderStep(model), model.prefix(images)
    keys, values = (torch.stack(part).repeat_interleave(count, 1) for part in zip(*pairs, strict=True))
    layers, rows, heads, _, dim = keys.shape
    past_keys = past_values = torch.zeros(layers, rows, heads, 0, dim)
    tokens = torch.full((rows, 1 + longest), PAD)
    tokens[:, 0] = BOS
    going = torch.ones(rows, dtype=torch.bool)
    for position in range(longest):
        logits, past_keys, past_values, _ = step(
            tokens[:, position], torch.tensor([position]), keys, values, past_keys, past_values
        )
        logits[:, list(forbidden)] = -torch.inf
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        tokens[going, position + 1] = drawn[going]
        going = going & (drawn != EOS)
        if not going.any():
            break
    return tokens


def self_critical_loss(
    model: Translator, images: Tensor, tokens: Tensor, scores: Tensor, forbidden: tuple[int, ...]
) -> Tensor:
    """Minus the mean log probability of a token, weighted by how much its sentence beats the others of its photo.

    Args:
        images: features [P, N, image_width].
        tokens: int64 [P * S, T], as `sample` gives them.
        scores: float [P, S], the reward of each sentence.
    """
    photos, samples = scores.shape
    others = (scores.sum(1, keepdim=True) - scores) / max(1, samples - 1)
    advantage = (scores - others).flatten()
    targets = tokens[:, 1:]
    counted = targets != PAD
    photo = torch.arange(photos).repeat_interleave(samples)
    with products("cpu"):
        logits = model(images, tokens[:, :-1], photo)
    logits = logits.float()
    logits[..., list(forbidden)] = -torch.inf
    log_probability = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    weighted = advantage[:, None] * log_probability.masked_fill(~counted, 0.0)
    return -weighted.sum() / counted.sum()


def _sentences(tokens: Tensor, samples: int) -> list[list[list[int]]]:
    """Token ids of each sample of each photo, without BOS and PAD, with EOS where it ended."""
    rows = [[token for token in row if token != PAD] for row in tokens[:, 1:].tolist()]
    return [rows[i : i + samples] for i in range(0, len(rows), samples)]
