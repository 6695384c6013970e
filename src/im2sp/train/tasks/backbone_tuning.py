"""Tune the late part of an image backbone: maps of photos -> features from which the words of their captions are read.

The classes that the published weights tell apart are kept: the loss has the distance to their class probabilities.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.models.image_backbone import LateBackbone, channels_last
from im2sp.train.trainer import MicroBatch, Task, TrainConfig, adamw


@dataclass(frozen=True)
class BackboneTuning(TrainConfig):
    """Options of the stage."""

    steps: int = 900
    learning_rate: float = 2e-3  # of the linear layer that reads words
    backbone_learning_rate: float = 0.1  # of the backbone, as a fraction of that
    warm_up: int = 60
    weight_decay: float = 0.05
    ema_decay: float = 0.99
    photos: int = 64  # a step, with captions
    labelled: int = 32  # a step, of which objects or the class are known
    dropout: float = 0.3  # of pooled features
    class_weight: float = 5.0  # of the divergence from the class probabilities of the published weights
    min_photos: int = 6  # in whose captions a word stands
    recall_at: int = 8  # words, for the log
    log_every: int = 100


@dataclass(frozen=True)
class DevWords:
    """Held-out photos and the words that at least two people used of each: float32 [photos, words], 0 or 1."""

    photos: Sequence[str]
    words: np.ndarray


class BackboneTask(Task):
    """Binary cross-entropy of each word; of labelled photos, of the words that are known to belong to them.

    Args:
        late: what is tuned.
        classifier: of the published weights: weight [classes, width] and bias [classes].
        maps: what `late` takes, of all photos.
        described: photo -> row of `words`.
        words: float32 [described, words], see `word_targets`.
        labelled: photo -> columns of words that belong to it.
        dev: held-out parts by name.
    """

    def __init__(
        self,
        config: BackboneTuning,
        late: LateBackbone,
        classifier: tuple[Tensor, Tensor],
        maps: PhotoArrays,
        described: Sequence[str],
        words: np.ndarray,
        labelled: Mapping[str, Sequence[int]],
        dev: Mapping[str, DevWords],
    ) -> None:
        self.late = channels_last(late.requires_grad_(True))
        self.reader = nn.Linear(classifier[0].shape[1], words.shape[1])
        nn.init.zeros_(self.reader.weight)
        nn.init.constant_(self.reader.bias, -4.0)
        for name, parameter in late.named_parameters():
            parameter.requires_grad = "depthwise" not in name  # 1 % of the weights, most of the time of their gradients
        self.published = copy.deepcopy(late).requires_grad_(False)
        self.classifier = nn.Linear(classifier[0].shape[1], classifier[0].shape[0]).requires_grad_(False)
        self.classifier.load_state_dict({"weight": classifier[0], "bias": classifier[1]})
        others = {"reader": self.reader, "published": self.published, "classifier": self.classifier}
        super().__init__(config, self.late, **others)
        self.optimizers["model"] = adamw(
            self.modules.values(),
            config,
            lr_scale=lambda name: 1.0 if name in _LINEAR else config.backbone_learning_rate,
        )
        self.options, self.maps, self.described, self.words, self.dev = config, maps, described, words, dev
        self.labelled = [(photo, list(columns)) for photo, columns in labelled.items() if columns]

    def loss(self, step: int, part: MicroBatch) -> dict[str, Tensor]:
        """Sum over words, mean over the photos."""
        options = self.options
        random = np.random.default_rng((options.seed, step))
        chosen = random.integers(len(self.described), size=options.photos)[part.rows(options.photos)]
        some = random.integers(len(self.labelled), size=options.labelled)[part.rows(options.labelled)]
        view, mirrored = int(random.integers(self.maps.views)), bool(random.integers(2))
        photos = [self.described[row] for row in chosen] + [self.labelled[row][0] for row in some]
        pooled, distance = self._pooled(photos, view, mirrored)
        with self.autocast():
            logits = self.reader(F.dropout(pooled, options.dropout)).float()
        wanted = torch.from_numpy(self.words[chosen]).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits[: len(chosen)], wanted, reduction="sum")
        known = torch.zeros_like(logits[len(chosen) :])
        for place, row in enumerate(some):
            known[place, self.labelled[row][1]] = 1.0
        loss = loss + (F.softplus(-logits[len(chosen) :]) * known).sum()
        total = options.photos + options.labelled
        return {"loss": (loss + options.class_weight * distance) / total, "class_divergence": distance / total}

    def _pooled(self, photos: Sequence[str], view: int, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Mean features [B, width], and the summed divergence of their class probabilities from the published ones."""
        maps = self._maps(photos, view)
        maps = maps.flip(3) if mirrored else maps
        with self.autocast():
            pooled = self.late(maps).mean(1)
            with torch.no_grad():
                before = self.published(maps).mean(1)
        wanted, found = (self.classifier(features).log_softmax(1) for features in (before, pooled))
        return pooled, F.kl_div(found, wanted, reduction="sum", log_target=True)

    def _maps(self, photos: Sequence[str], view: int = 0) -> Tensor:
        maps = torch.from_numpy(self.maps.batch(photos, view))
        return maps.to(self.device, memory_format=torch.channels_last).float()

    def evaluate(self) -> dict[str, float]:
        """Share of the words of held-out photos that are among the likeliest."""
        found = {}
        for name, dev in self.dev.items():
            top = []
            for start in range(0, len(dev.photos), 50):
                with self.autocast():
                    logits = self.reader(self.late(self._maps(dev.photos[start : start + 50])).mean(1))
                top.append(logits.float().topk(self.options.recall_at, 1).indices.cpu())
            hits = np.take_along_axis(dev.words, torch.cat(top).numpy(), 1).sum()
            found[f"recall_{name}"] = float(hits / max(1.0, dev.words.sum()))
        return found


_LINEAR = {"weight", "bias"}  # names of the parameters of the linear layer
