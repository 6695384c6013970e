"""Train a captioner: image units of photos -> token sentences, by cross-entropy on the next token.

Teachers, captioners of the same vocabulary, may give the distribution to learn, the mean of theirs (Hinton et al. 2015,
Distilling the Knowledge in a Neural Network).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from im2sp.train.data.caption_targets import Target
from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.data.text_tokenizer import PAD
from im2sp.train.models.unit_captioner import TaggedUnits, UnitCaptioner
from im2sp.train.tasks.tag_swap import TagSwap
from im2sp.train.trainer import MicroBatch, Task, TrainConfig

BUCKETED = 32  # batches that are drawn together and sorted by the length of their captions


@dataclass(frozen=True)
class CaptionerTraining(TrainConfig):
    """Options of the stage."""

    steps: int = 2500
    learning_rate: float = 1.2e-3
    warm_up: int = 120
    weight_decay: float = 0.02
    ema_decay: float = 0.998
    photos: int = 64  # a step
    captions: int = 4  # of a photo and step, at most
    label_smoothing: float = 0.1
    tag_swap: float = 0.25  # share of the photos of which a tag is swapped
    teaching: float = 0.8  # weight of the distribution of the teachers, where there are any
    log_every: int = 50


@dataclass(frozen=True)
class PhotoBatch:
    """Photos of a step or of a part of it, each in one view, with sentences."""

    photos: list[str]
    views: list[int]
    sentences: list[list[list[int]]]  # of each photo

    def part(self, part: MicroBatch) -> PhotoBatch:
        """Some of the photos."""
        rows = part.rows(len(self.photos))
        return PhotoBatch(self.photos[rows], self.views[rows], self.sentences[rows])

    @property
    def predicted(self) -> int:
        """Tokens that are predicted: all but the first of each sentence."""
        return sum(len(sentence) - 1 for sentences in self.sentences for sentence in sentences)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(tokens int64 [B, T], filled with PAD; the photo of each sentence int64 [B])."""
        rows = [torch.tensor(sentence) for sentences in self.sentences for sentence in sentences]
        if not rows:  # no photo has any
            return torch.full((1, 2), PAD), torch.zeros(1, dtype=torch.long)
        photo = [place for place, sentences in enumerate(self.sentences) for _ in sentences]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD), torch.tensor(photo)


class PhotoSampler:
    """Batches of photos by step, drawn by weight, whose longest sentences are of similar length."""

    def __init__(self, targets: Sequence[Target], views: int, photos: int, captions: int, seed: int) -> None:
        self.targets, self.views, self.photos, self.captions, self.seed = targets, views, photos, captions, seed
        weights = np.array([target.weight for target in targets])
        self.shares = weights / weights.sum()
        self._drawn = -1
        self._batches: list[PhotoBatch] = []

    def at(self, step: int) -> PhotoBatch:
        """The batch of a step."""
        round_, place = divmod(step, BUCKETED)
        if round_ != self._drawn:
            self._batches, self._drawn = self._draw(np.random.default_rng((self.seed, round_))), round_
        return self._batches[place]

    def _draw(self, random: np.random.Generator) -> list[PhotoBatch]:
        count = BUCKETED * self.photos
        order = random.permutation(len(self.targets))  # systematic sampling: even shares, few repetitions
        points = (np.arange(count) + random.random()) / count
        rows = order[np.searchsorted(np.cumsum(self.shares[order]), points).clip(max=len(order) - 1)]
        chosen = [self._some(self.targets[row].sentences, random) for row in rows]
        length = [max(map(len, sentences), default=0) + random.uniform(0, 2) for sentences in chosen]
        views = random.integers(self.views, size=count)
        pieces = np.argsort(length).reshape(BUCKETED, self.photos)
        return [
            PhotoBatch(
                [self.targets[rows[i]].photo for i in piece],
                [int(views[i]) for i in piece],
                [chosen[i] for i in piece],
            )
            for piece in pieces[random.permutation(BUCKETED)]
        ]

    def _some(self, sentences: list[list[int]], random: np.random.Generator) -> list[list[int]]:
        if len(sentences) <= self.captions:
            return sentences
        return [sentences[i] for i in random.choice(len(sentences), self.captions, replace=False)]


def next_token_logits(model: UnitCaptioner, photos: Tensor | TaggedUnits, tokens: Tensor, photo: Tensor) -> Tensor:
    """Logits float32 [N, vocabulary] of the N tokens after BOS, EOS included, sentence by sentence.

    Args:
        photos: units int64 [P, units], or with their tags.
        tokens: int64 [B, T], filled with PAD.
        photo: int64 [B], the row of `photos` that each sentence belongs to.
    """
    hidden = model.hidden(photos, tokens[:, :-1], photo)  # type: ignore[arg-type]  # goes to `prefix` as it is
    logits: Tensor = model.output(hidden[tokens[:, 1:] != PAD])
    return logits.float()


def next_token_loss(logits: Tensor, tokens: Tensor, smoothing: float) -> Tensor:
    """Sum of the cross-entropy [nats] of what `next_token_logits` gives for these tokens."""
    return F.cross_entropy(logits, tokens[:, 1:][tokens[:, 1:] != PAD], label_smoothing=smoothing, reduction="sum")


def teaching_loss(logits: Tensor, taught: Sequence[Tensor]) -> Tensor:
    """Sum of the cross-entropy [nats] with the distribution of teachers: the mean of their log-probabilities.

    Args:
        logits: float32 [N, vocabulary]; `taught` are those of each teacher.
    """
    mean = torch.stack([one.log_softmax(-1) for one in taught]).mean(0)
    return F.cross_entropy(logits, mean.softmax(-1), reduction="sum")


class CaptionerTask(Task):
    """Next-token cross-entropy on sampled photos; the same on held-out parts, without smoothing, for the log.

    Args:
        teachers: with the image units of `model`.
    """

    def __init__(
        self,
        config: CaptionerTraining,
        model: UnitCaptioner,
        units: PhotoArrays,
        targets: Sequence[Target],
        dev: Mapping[str, Sequence[Target]],
        swap: TagSwap | None = None,
        teachers: Sequence[UnitCaptioner] = (),
    ) -> None:
        super().__init__(config, model)
        self.captioner, self.options, self.units = model, config, units
        self.sampler = PhotoSampler(targets, units.views, config.photos, config.captions, config.seed)
        self.dev, self.swap = dev, swap
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]

    def loss(self, step: int, part: MicroBatch) -> Tensor:
        """Mean over the tokens of the step."""
        batch = self.sampler.at(step)
        random = np.random.default_rng((self.options.seed, 1, step, part.index)) if self.swap else None
        return self._sum(batch.part(part), self.options.label_smoothing, random, self.teachers) / batch.predicted

    def _sum(
        self,
        batch: PhotoBatch,
        smoothing: float = 0.0,
        random: np.random.Generator | None = None,
        teachers: Sequence[UnitCaptioner] = (),
    ) -> Tensor:
        """Cross-entropy of a batch, with what teachers say in part; with `random`, some of its tags are swapped."""
        seen, batch = self._seen(batch, random)
        tokens, photo = (tensor.to(self.device) for tensor in batch.tensors())
        with self.autocast():
            logits = next_token_logits(self.captioner, seen, tokens, photo)
            with torch.no_grad():
                taught = [next_token_logits(one.to(self.device), seen, tokens, photo) for one in teachers]
        loss, share = next_token_loss(logits, tokens, smoothing), self.options.teaching
        return share * teaching_loss(logits, taught) + (1 - share) * loss if taught else loss

    def _seen(self, batch: PhotoBatch, random: np.random.Generator | None) -> tuple[Tensor | TaggedUnits, PhotoBatch]:
        """What the captioner sees of the photos, and the batch; with `random`, some tags are swapped in both."""
        seen = self.captioner.tagged(self.units.units(batch.photos, batch.views).to(self.device))
        if self.swap is None or random is None:
            return seen, batch
        first_class = -self.captioner.tagger.image_units.config.classes - 1
        seen, sentences = self.swap(seen, batch.sentences, first_class, random)
        return seen, replace(batch, sentences=sentences)

    def evaluate(self) -> dict[str, float]:
        """Cross-entropy [nats a token] on each held-out part."""
        found = {}
        for name, targets in self.dev.items():
            total = count = 0.0
            for start in range(0, len(targets), 50):
                some = targets[start : start + 50]
                batch = PhotoBatch([t.photo for t in some], [0] * len(some), [t.sentences for t in some])
                total += float(self._sum(batch))
                count += batch.predicted
            found[name] = total / max(1.0, count)
        return found
