"""Self-critical sequence training: a captioner's own samples, the better of them made likelier (Rennie et al., 2017).

The baseline of a sample is the mean reward of the other samples of its photo (Luo, 2020), so no second decoding is
needed. The reward is CIDEr-D, and less for each object that is named but absent where the objects of a photo are known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from im2sp.train.data.caption_targets import Target
from im2sp.train.data.object_names import Synonyms, named_objects
from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.data.text_tokenizer import BOS, EOS, FORBIDDEN, PAD, TextTokenizer
from im2sp.train.models.git import DecoderStep, GitDecoder
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.tasks.captioner import PhotoSampler, next_token_loss
from im2sp.train.tasks.cider_reward import CiderD
from im2sp.train.trainer import MicroBatch, Task, TrainConfig


@dataclass(frozen=True)
class ScstTraining(TrainConfig):
    """Options of the stage."""

    steps: int = 600
    learning_rate: float = 2e-4
    warm_up: int = 20
    ema_decay: float = 0.99
    weight_decay: float = 0.0
    photos: int = 24  # a step
    samples: int = 5  # of a photo
    max_tokens: int = 30
    absent_penalty: float = 0.5  # of the reward, for each absent object that is named
    cross_entropy: float = 0.2  # weight of the cross-entropy on the captions, which keeps the language
    label_smoothing: float = 0.1  # of that
    log_every: int = 20


@dataclass(frozen=True)
class CaptionReward:
    """CIDEr-D of the words of sampled tokens, less a penalty for absent objects.

    Attributes:
        cider: with the references of all photos, as words.
        words: tokens of a sentence -> its words, tokens of `tokenizer`.
        objects: of the photos where they are known.
    """

    cider: CiderD
    words: Callable[[Sequence[int]], list[int]]
    tokenizer: TextTokenizer
    synonyms: Synonyms
    objects: Mapping[str, Collection[str]]
    absent_penalty: float

    def __call__(self, photo: str, tokens: Sequence[int]) -> float:
        """Reward of a sentence, its tokens without BOS and with EOS."""
        words = self.words(tokens)
        reward = self.cider.score(photo, words)
        if self.absent_penalty and photo in self.objects:
            named = named_objects(self.tokenizer.decode(words), self.synonyms)
            reward -= self.absent_penalty * sum(name not in self.objects[photo] for name in named)
        return reward


class ScstTask(Task):
    """Policy gradient on samples, with the cross-entropy of the captions beside it. Dropout is off while sampling."""

    def __init__(
        self,
        config: ScstTraining,
        model: UnitCaptioner,
        units: PhotoArrays,
        targets: Sequence[Target],
        reward: CaptionReward,
    ) -> None:
        super().__init__(config, model)
        self.captioner, self.options, self.units, self.reward = model, config, units, reward
        self.sampler = PhotoSampler(targets, units.views, config.photos, config.samples, config.seed)

    def loss(self, step: int, part: MicroBatch) -> dict[str, Tensor]:
        """Return the loss, and the mean reward for the log."""
        options, model = self.options, self.captioner
        batch = self.sampler.at(step).part(part)
        units = self.units.units(batch.photos, batch.views).to(self.device)
        model.eval()  # samples and their gradients come from one distribution
        with self.autocast():
            sampled = sample(model, units, options.samples, options.max_tokens)
            scores = self._scores(batch.photos, sampled).to(self.device)
            loss = policy_loss(model, units, sampled, scores)
        model.train()
        if options.cross_entropy and batch.predicted:
            tokens, photo = (tensor.to(self.device) for tensor in batch.tensors())
            with self.autocast():
                total = next_token_loss(model, units, tokens, photo, options.label_smoothing)
            loss = loss + options.cross_entropy * total / batch.predicted
        share = part.share(options.photos)
        return {"loss": loss * share, "reward": scores.mean() * share}

    def _scores(self, photos: Sequence[str], sampled: Tensor) -> Tensor:
        rows = [[token for token in row if token != PAD] for row in sampled[:, 1:].tolist()]
        count = self.options.samples
        said = [rows[start : start + count] for start in range(0, len(rows), count)]
        return torch.tensor(
            [[self.reward(photo, tokens) for tokens in some] for photo, some in zip(photos, said, strict=True)]
        )


@torch.no_grad()
def sample(model: GitDecoder, images: Tensor, count: int, max_tokens: int) -> Tensor:
    """Draw sentences from the model: int64 [P * count, 1 + max_tokens], BOS first, PAD after EOS.

    Args:
        images: what `model.prefix` takes, [P, ...]; the sentences of a photo are next to each other.
    """
    step, pairs = DecoderStep(model), model.prefix(images)
    keys, values = (torch.stack(part).repeat_interleave(count, 1) for part in zip(*pairs, strict=True))
    layers, rows, heads, _, dim = keys.shape
    past_keys = past_values = keys.new_zeros(layers, rows, heads, 0, dim)
    tokens = torch.full((rows, 1 + max_tokens), PAD, device=images.device)
    tokens[:, 0] = BOS
    going = torch.ones(rows, dtype=torch.bool, device=images.device)
    for position in range(max_tokens):
        at = torch.tensor([position], device=images.device)
        logits, past_keys, past_values, _ = step(tokens[:, position], at, keys, values, past_keys, past_values)
        drawn = torch.multinomial(_log_probabilities(logits).exp(), 1)[:, 0]
        tokens[going, position + 1] = drawn[going]
        going = going & (drawn != EOS)
        if not going.any():
            break
    return tokens


def policy_loss(model: GitDecoder, images: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
    """Minus the mean log-probability of a token, weighted by how much its sentence beats the others of its photo.

    Args:
        images: what `model.prefix` takes, [P, ...].
        tokens: int64 [P * S, T], as `sample` returns them.
        scores: float32 [P, S], the reward of each sentence.
    """
    photos, samples = scores.shape
    others = (scores.sum(1, keepdim=True) - scores) / max(1, samples - 1)
    wanted = tokens[:, 1:]
    photo = torch.arange(photos, device=images.device).repeat_interleave(samples)
    rows = (wanted != PAD).flatten().nonzero()[:, 0]
    hidden = model.hidden(images, tokens[:, :-1], photo).flatten(0, 1)[rows]
    chosen = _log_probabilities(model.output(hidden)).gather(1, wanted.flatten()[rows, None])[:, 0]
    advantage = (scores - others).flatten()[:, None].expand_as(wanted).flatten()[rows]
    return -(advantage * chosen).mean()


def _log_probabilities(logits: Tensor) -> Tensor:
    """Logits [..., vocabulary] -> log-probabilities float32 of the tokens that may be said."""
    blocked = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    blocked[list(FORBIDDEN)] = True
    return logits.float().masked_fill(blocked, -torch.inf).log_softmax(-1)
