"""GitDecoder training: image features and token sentences -> a translator, with cross-entropy on the next token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.errors import Im2SpError
from im2sp.train.data.image_features import PhotoInputs
from im2sp.train.data.sentences import Sentence, SentenceLookup
from im2sp.train.models.git import GitDecoder
from im2sp.train.precision import products
from im2sp.train.training.averaging import train_averaged
from im2sp.train.training.processes import Part, Processes, peers_answer
from im2sp.train.training.sharding import whole

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
    accumulate: int = 1  # parts that a process computes its share of a step in
    activation_checkpoints: bool = False  # keep only the input of each layer: less memory, a third more arithmetic
    image_tokens_kept: float = 1.0  # of each photo in a step, drawn anew; less learns photos by heart more slowly
    bf16: bool = True  # products of matrices in bfloat16
    sharded: bool = False  # several processes keep a shard each of weights, gradients and moments
    frozen: tuple[str, ...] = ()  # modules of the translator that stay as the stage `translate` gets them
    seed: int = 0


@dataclass(frozen=True)
class PhotoBatch:
    """Photos of a step, or of a part of one, with their captions."""

    ids: list[str]
    views: np.ndarray  # int64 [P], the view of each photo
    captions: list[Sequence[Sentence]]  # of each photo

    def part(self, part: Part) -> PhotoBatch:
        """Some of the photos."""
        rows = part.rows(len(self.ids))
        return PhotoBatch(self.ids[rows], self.views[rows], self.captions[rows])

    @property
    def targets(self) -> int:
        """How many tokens are to be predicted: all but each caption's first."""
        return sum(len(caption) - 1 for captions in self.captions for caption in captions)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(tokens int64 [B, T] padded, the photo of each caption int64 [B])."""
        tokens = pad([caption for captions in self.captions for caption in captions])
        photo = [index for index, captions in enumerate(self.captions) for _ in captions]
        return tokens, torch.tensor(photo + [0] * (len(tokens) - len(photo)))


class PhotoBatches:
    """Batches of photos whose longest captions are alike, drawn by step."""

    def __init__(self, sentences: SentenceLookup, options: TranslatorTraining, photos: int, views: int) -> None:
        self._sentences, self._options, self._photos, self._views = sentences, options, photos, views
        self._ids = sorted(sentences)
        self._longest = np.array([max(len(s) for s in sentences[i]) for i in self._ids])
        self._per_epoch = max(1, len(self._ids) // photos)
        self.smallest = min(len(self._ids), photos)  # photos of a batch
        self._epoch, self._order, self._starts = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def at(self, step: int) -> PhotoBatch:
        """The batch of a step."""
        epoch, place = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self._options.seed, epoch))
            self._order = np.argsort(self._longest + rng.uniform(0, 6, len(self._longest)))
            self._starts = rng.permutation(self._per_epoch) * self._photos
            self._epoch = epoch
        rows = self._order[self._starts[place] : self._starts[place] + self._photos]
        ids = [self._ids[row] for row in rows]
        draw = np.random.default_rng((self._options.seed, 1, step))
        captions: list[Sequence[Sentence]] = []
        for image_id in ids:
            chosen = self._sentences[image_id]
            if len(chosen) > self._options.captions:
                picks = draw.choice(len(chosen), self._options.captions, replace=False)
                chosen = [chosen[pick] for pick in picks]
            captions.append(chosen)
        return PhotoBatch(ids, draw.integers(self._views, size=len(ids)), captions)


def pad(sentences: Sequence[Sentence]) -> Tensor:
    """Token sentences -> int64 [B, longest], filled with PAD at the end; sizes rounded up to few different ones.

    Matrix products are compiled anew for every shape on a CPU: B is a multiple of 8, the length 1 more than one of 4.
    """
    longest = 1 + -(-(max(map(len, sentences)) - 1) // 4) * 4
    tokens = torch.full((-(-len(sentences) // 8) * 8, longest), PAD)
    for row, sentence in enumerate(sentences):
        tokens[row, : len(sentence)] = torch.from_numpy(np.array(sentence, np.int64))
    return tokens


def next_token_loss(
    model: GitDecoder, features: Tensor, tokens: Tensor, photo: Tensor, smoothing: float, bf16: bool = True
) -> Tensor:
    """Mean cross-entropy [nats] over all tokens after BOS, EOS included, pad ignored."""
    targets = tokens[:, 1:].flatten()
    counted = (targets != PAD).nonzero()[:, 0]  # logits of padding would cost as much as the rest and count for nothing
    filler = -len(counted) % 128
    rows = nn.functional.pad(counted, (0, filler))
    targets = nn.functional.pad(targets[counted], (0, filler), value=PAD)
    with products(features.device.type, bf16):
        hidden = model.hidden(features, tokens[:, :-1], photo).flatten(0, 1)
        logits = model.output(hidden[rows])
    return nn.functional.cross_entropy(logits.float(), targets, ignore_index=PAD, label_smoothing=smoothing)


def input_of(batch: np.ndarray) -> Tensor:
    """Features or units of a batch as a translator takes them: float32, or int64 where they are whole numbers."""
    found = torch.from_numpy(batch)
    return found.float() if found.is_floating_point() else found.long()


def some_tokens(images: Tensor, share: float) -> Tensor:
    """Features of a share of each photo's image tokens, drawn for each photo: [P, N, width] -> [P, M, width].

    A translator does not see where a token stands but by what it says, so the others are simply left out. The rest of
    the photo must do, which keeps a translator from learning few photos by heart, and a step costs less.

    Raises:
        Im2SpError: these are units, whose places count.
    """
    if share >= 1:
        return images
    if not images.is_floating_point():
        raise Im2SpError("image_tokens_kept is for image features: leave it out of a recipe that sees image units")
    photos, tokens, width = images.shape
    kept = torch.rand(photos, tokens).argsort(1)[:, : max(1, round(tokens * share))].to(images.device)
    return images.gather(1, kept[:, :, None].expand(-1, -1, width))


def training_step(
    model: GitDecoder, optimizer: torch.optim.Optimizer, images: Tensor, tokens: Tensor, photo: Tensor, smoothing: float
) -> float:
    """Learn from one batch; returns its loss."""
    loss = next_token_loss(model, images, tokens, photo, smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


class NextToken(nn.Module):
    """A translator and its loss as one module, as processes share the gradients of a module's forward pass."""

    def __init__(self, translator: GitDecoder, options: TranslatorTraining) -> None:
        super().__init__()
        self.translator, self.options = translator, options

    def forward(self, features: Tensor, tokens: Tensor, photo: Tensor) -> Tensor:
        """`next_token_loss` with the options of the run; in evaluation without smoothing."""
        smoothing = self.options.label_smoothing if self.training else 0.0
        return next_token_loss(self.translator, features, tokens, photo, smoothing, self.options.bf16)


def validation_loss(task: NextToken, features: PhotoInputs, sentences: SentenceLookup, photos: int = 400) -> float:
    """Cross-entropy [nats a token] without smoothing on the first photos of a held-out part, weighted by tokens."""
    task.eval()
    device = task.translator.output.weight.device
    ids, total, count = sorted(sentences)[:photos], 0.0, 0
    with torch.no_grad():  # and not inference mode, whose tensors shards could not be trained on
        for start in range(0, len(ids), 50):
            chunk = ids[start : start + 50]
            batch = PhotoBatch(chunk, np.zeros(len(chunk), np.int64), [sentences[image_id] for image_id in chunk])
            tokens, photo = (tensor.to(device) for tensor in batch.tensors())
            images = input_of(features.batch(batch.ids)).to(device)
            total += task(images, tokens, photo).item() * batch.targets
            count += batch.targets
    task.train()
    return total / max(1, count)


@peers_answer()
def train_translator(
    model: GitDecoder,
    features: PhotoInputs,
    train: SentenceLookup,
    held_out: SentenceLookup,
    options: TranslatorTraining,
    out: Path,
    distilled: SentenceLookup | None = None,
) -> GitDecoder:
    """Train; resumes from `out/checkpoint.pt`; leaves the averaged weights in `out` and returns that model, on the CPU.

    The batch of a step depends on the seed and the step alone: a resumed run sees the data of an unbroken one, and
    several processes together that of one.

    Args:
        distilled: what is learnt from in place of `train` from step `options.distilled_from` on.
    """
    processes = Processes()
    finished = (out / "model.safetensors").is_file()
    processes.same(finished, f"states of {out}")
    if finished:
        return GitDecoder.load(out)
    views = len(features.views)
    batches = PhotoBatches(train, options, options.photos, views)
    turn = options.distilled_from if distilled and options.distilled_from is not None else options.steps
    later = PhotoBatches(distilled or train, options, options.distilled_photos, views)
    smallest = min(used.smallest for used, when in ((batches, turn > 0), (later, turn < options.steps)) if when)
    parts = processes.parts(options.accumulate, smallest, "photos")
    torch.manual_seed(options.seed)
    sharded = options.sharded and processes.count > 1
    model.activation_checkpoints = options.activation_checkpoints
    # Shards are made of a copy: what is given gets the weights back whole.
    task = NextToken(deepcopy(model) if sharded else model, options).train()
    shared: nn.Module = task
    if sharded:
        processes.shard(task, task.translator.stack, task.translator.LAYER_METHODS)
    else:
        shared = processes.share(task)

    def learn(step: int) -> float:
        batch, loss = (batches if step < turn else later).at(step), 0.0
        for part in parts:
            torch.manual_seed(part.seed(options.seed * 1_000_003 + step))  # dropout repeats after a restart, too
            piece = batch.part(part)
            tokens, photo = (tensor.to(processes.device) for tensor in piece.tensors())
            images = input_of(features.batch(piece.ids, piece.views)).to(processes.device)
            images = some_tokens(images, options.image_tokens_kept)
            with nullcontext() if sharded else processes.backward_of(part, shared):
                contribution = shared(images, tokens, photo) * (piece.targets / batch.targets)
                processes.backward(contribution)
            loss += contribution.item()
        return loss

    train_averaged(
        task.translator,
        optimizer_of(task.translator, options),
        learn,
        lambda: validation_loss(task, features, held_out),
        options,
        out,
        processes,
        sharded,
    )
    if sharded:
        model.load_state_dict(whole(task.translator.state_dict()))
    model.activation_checkpoints = False
    model.eval().to("cpu")
    if processes.main:
        model.save(out)
    processes.wait()
    return model


def optimizer_of(model: GitDecoder, options: TranslatorTraining) -> torch.optim.Optimizer:
    """AdamW at the peak learning rate, which decays matrices and no vectors."""
    return torch.optim.AdamW(_groups(model, options.weight_decay), lr=options.learning_rate, betas=(0.9, 0.98))


def _groups(model: GitDecoder, weight_decay: float) -> list[dict[str, object]]:
    groups = []
    named = [(model.learning_rate_share(name), p) for name, p in model.named_parameters()]
    for share in sorted({share for share, _ in named}, reverse=True):
        matrices = [p for of, p in named if of == share and p.dim() > 1]
        vectors = [p for of, p in named if of == share and p.dim() <= 1]
        groups += [
            {"params": matrices, "weight_decay": weight_decay, "share": share},
            {"params": vectors, "weight_decay": 0.0, "share": share},
        ]
    return groups
