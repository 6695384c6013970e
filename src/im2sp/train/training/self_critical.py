"""Self-critical training: a model's own samples, the better of them made likelier (Rennie et al., 2017).

The baseline of a sample is the mean reward of the other samples about its photo (Luo, 2020), so no second decoding is
needed. The reward is CIDEr-D over tokens, or over what is read in them: words in speech units, say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.sentences import SentenceLookup
from im2sp.train.data.text_tokenizer import BOS, EOS
from im2sp.train.models.git import DecoderStep, GitDecoder
from im2sp.train.precision import products
from im2sp.train.tasks.cider_reward import CiderD
from im2sp.train.training.averaging import follow
from im2sp.train.training.progress import Checkpoint, TrainingLog, warm_up_cosine
from im2sp.train.training.translator import PAD, Sentences, next_token_loss, pad, some_tokens


@dataclass(frozen=True)
class SelfCriticalTraining:
    """Options of one run."""

    steps: int = 800
    photos: int = 24  # a step
    samples: int = 5  # of each photo
    longest: int = 24  # tokens
    learning_rate: float = 1e-4
    warm_up: int = 20
    described: float = 1.0  # share of a step's photos that people described, where there are others
    others_weight: float = 0.3  # of the rewards of other photos
    likely: float = 0.0  # tokens that are less likely than this are not sampled
    image_tokens_kept: float = 1.0  # of each photo in a step, drawn anew; less learns photos by heart more slowly
    cross_entropy: float = 0.0  # weight of the cross-entropy on given sentences, which keeps the language
    label_smoothing: float = 0.1  # of that
    average_decay: float = 0.0  # exponential moving average of the weights, which is what is kept; 0: the last ones
    report_every: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Lessons:
    """What the samples are compared with.

    Attributes:
        references: what people wrote about each photo, in symbols.
        others: what a teacher wrote about each of other photos.
        sentences: token ids, BOS and EOS included, for the cross-entropy.
        read: token ids of a sample, without BOS and with EOS where it ended -> its symbols. Without it, these are they.
    """

    references: Sentences
    others: Sentences = field(default_factory=dict)
    sentences: SentenceLookup = field(default_factory=dict)
    read: Callable[[list[int]], list[int]] = lambda tokens: tokens


def train_self_critical(
    model: GitDecoder,
    features: ImageFeatures,
    lessons: Lessons,
    forbidden: tuple[int, ...],
    options: SelfCriticalTraining,
    out: Path,
) -> GitDecoder:
    """Train on; resumes from `out/checkpoint.pt`; leaves the weights in `out` and returns that model, on the CPU.

    On the GPU where there is one.

    Args:
        forbidden: tokens that are never to be said.
    """
    if (out / "model.safetensors").is_file():
        return GitDecoder.load(out)
    run = SelfCriticalRun(model, features, lessons, forbidden, options)
    checkpoint = Checkpoint(out / "checkpoint.pt", run.state)
    if state := checkpoint.load():
        run.restore(state)
    report, rewards = TrainingLog(out / "log.jsonl"), list[float]()
    while run.step < options.steps:
        rewards.append(run.advance())
        if run.step % options.report_every == 0 or run.step == options.steps:
            report.write(step=run.step, reward=float(np.mean(rewards)))
            rewards = []
        checkpoint.maybe_save()
    checkpoint.save()
    model.load_state_dict(run.average)
    model.to("cpu").save(out)
    return model


class SelfCriticalRun:
    """Everything that one training run changes. Arguments are those of `train_self_critical`."""

    def __init__(
        self,
        model: GitDecoder,
        features: ImageFeatures,
        lessons: Lessons,
        forbidden: tuple[int, ...],
        options: SelfCriticalTraining,
    ) -> None:
        self.features, self.lessons, self.forbidden, self.options = features, lessons, forbidden, options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()  # samples and gradients from one distribution, so no dropout
        self.described_ids, self.other_ids = sorted(lessons.references), sorted(lessons.others)
        self.reward = CiderD(lessons.references | lessons.others)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        self.average = {name: value.clone() for name, value in model.state_dict().items()}
        self.step = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.optimizer.load_state_dict(state["optimizer"])

    def advance(self) -> float:
        """One step; returns the mean reward of its samples about photos that people described."""
        options = self.options
        rng = np.random.default_rng((options.seed, 3, self.step))
        torch.manual_seed(options.seed * 1_000_003 + self.step)
        ids = _photos(self.described_ids, self.other_ids, options, rng)
        images = self._images(ids, rng)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        tokens = sample(self.model, images, options.samples, options.longest, self.forbidden, generator, options.likely)
        scores = self._scores(ids, tokens)
        described = torch.tensor([image_id in self.lessons.references for image_id in ids], device=self.device)
        weights = torch.where(described, 1.0, options.others_weight)[:, None]
        loss = self_critical_loss(self.model, images, tokens, scores * weights, self.forbidden, options.likely)
        if options.cross_entropy:
            loss = loss + options.cross_entropy * _cross_entropy(self.model, images, ids, self.lessons, options)
        self._learn(loss)
        return float(scores[described].mean())

    def _images(self, ids: list[str], rng: np.random.Generator) -> Tensor:
        """Features [P, N, image_width] of some of the image tokens of a view of each photo, both drawn."""
        views = rng.integers(len(self.features.views), size=len(ids))
        images = torch.from_numpy(self.features.batch(ids, views)).float().to(self.device)
        return some_tokens(images, self.options.image_tokens_kept)

    def _scores(self, ids: list[str], tokens: Tensor) -> Tensor:
        """The reward of each sample of each photo, float [P, S]."""
        return torch.tensor(
            [
                [self.reward.score(image_id, self.lessons.read(said)) for said in sentences]
                for image_id, sentences in zip(ids, _sentences(tokens, self.options.samples), strict=True)
            ],
            device=self.device,
        )

    def _learn(self, loss: Tensor) -> None:
        """Weights and their average follow the gradient of a step's loss."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * warm_up_cosine(self.step, options.steps, options.warm_up)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.model.state_dict(), options.average_decay, self.step)


def _photos(
    described: list[str], others: list[str], options: SelfCriticalTraining, rng: np.random.Generator
) -> list[str]:
    """The photos of a step: some that people described, then others."""
    count = options.photos if not others else max(1, round(options.photos * options.described))
    drawn = []
    for listed, wanted in ((described, count), (others, options.photos - count)):
        drawn += [listed[i] for i in rng.choice(len(listed), min(wanted, len(listed)), replace=False)] if wanted else []
    return drawn


def _cross_entropy(
    model: GitDecoder, images: Tensor, ids: list[str], lessons: Lessons, options: SelfCriticalTraining
) -> Tensor:
    """Of the sentences that there are about the photos of a step, with dropout."""
    pairs = [(row, said) for row, image_id in enumerate(ids) for said in lessons.sentences.get(image_id, ())]
    if not pairs:
        return images.new_zeros(())
    tokens = pad([said for _, said in pairs])
    photo = torch.tensor([row for row, _ in pairs] + [0] * (len(tokens) - len(pairs)))
    model.train()
    loss = next_token_loss(model, images, tokens.to(images.device), photo.to(images.device), options.label_smoothing)
    model.eval()
    return loss


@torch.no_grad()  # and not inference mode, whose tensors a later backward pass refuses
def sample(
    model: GitDecoder,
    images: Tensor,
    count: int,
    longest: int,
    forbidden: tuple[int, ...],
    generator: torch.Generator,
    likely: float = 0.0,
) -> Tensor:
    """Sentences drawn from the model: int64 [P * count, 1 + longest], BOS first, PAD after EOS.

    Args:
        images: features [P, N, image_width]; the sentences of a photo come one after the other.
        likely: tokens that are less likely than this are not drawn, the likeliest excepted.
    """
    step, pairs = DecoderStep(model), model.prefix(images)
    keys, values = (torch.stack(part).repeat_interleave(count, 1) for part in zip(*pairs, strict=True))
    layers, rows, heads, _, dim = keys.shape
    past_keys = past_values = keys.new_zeros(layers, rows, heads, 0, dim)
    tokens = torch.full((rows, 1 + longest), PAD, device=images.device)
    tokens[:, 0] = BOS
    going = torch.ones(rows, dtype=torch.bool, device=images.device)
    for position in range(longest):
        logits, past_keys, past_values, _ = step(
            tokens[:, position], torch.tensor([position], device=images.device), keys, values, past_keys, past_values
        )
        drawn = torch.multinomial(_log_probability(logits, forbidden, likely).exp(), 1, generator=generator)[:, 0]
        tokens[going, position + 1] = drawn[going]
        going = going & (drawn != EOS)
        if not going.any():
            break
    return tokens


def self_critical_loss(
    model: GitDecoder,
    images: Tensor,
    tokens: Tensor,
    scores: Tensor,
    forbidden: tuple[int, ...],
    likely: float = 0.0,
) -> Tensor:
    """Minus the mean log probability of a token, weighted by how much its sentence beats the others of its photo.

    Args:
        images: features [P, N, image_width].
        tokens: int64 [P * S, T], as `sample` gives them.
        scores: float [P, S], the reward of each sentence.
        likely: as the samples were drawn.
    """
    photos, samples = scores.shape
    others = (scores.sum(1, keepdim=True) - scores) / max(1, samples - 1)
    advantage = (scores - others).flatten()
    targets = tokens[:, 1:]
    counted = targets != PAD
    photo = torch.arange(photos, device=images.device).repeat_interleave(samples)
    with products(images.device):
        logits = model(images, tokens[:, :-1], photo)
    log_probability = _log_probability(logits, forbidden, likely).gather(-1, targets[..., None])[..., 0]
    # Rounding may put a token that was drawn just below what is likely: it counts for nothing then.
    weighted = advantage[:, None] * log_probability.masked_fill(~counted | log_probability.isinf(), 0.0)
    return -weighted.sum() / counted.sum()


def _log_probability(logits: Tensor, forbidden: tuple[int, ...], likely: float) -> Tensor:
    """Logits [..., vocabulary] -> log probabilities float32 among the tokens that may be drawn."""
    logits = logits.float()
    logits[..., list(forbidden)] = -torch.inf
    found = logits.log_softmax(-1)
    if likely:
        least = found.detach().amax(-1, keepdim=True).clamp(max=math.log(likely))
        found = found.masked_fill(found.detach() < least, -torch.inf).log_softmax(-1)
    return found


def _sentences(tokens: Tensor, samples: int) -> list[list[list[int]]]:
    """Token ids of each sample of each photo, without BOS and PAD, with EOS where it ended."""
    rows = [[token for token in row if token != PAD] for row in tokens[:, 1:].tolist()]
    return [rows[i : i + samples] for i in range(0, len(rows), samples)]
