"""Training of the token ViT by distillation: image units -> the features that a frozen image encoder has of the photo.

A linear layer on the image tokens, pooled to the grid of the features, predicts them. The layer is thrown away;
captioning starts from the token ViT (SeiT, Park et al., 2023, trained it by classification).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.data.token_augmentation import TokenAugmenter
from im2sp.train.models.token_vit import StemFromUnits, TokenVit
from im2sp.train.trainer import MicroBatch, Task, TrainConfig

SCALE_PHOTOS = 1000  # on which mean and variance of the features are measured


@dataclass(frozen=True)
class SeitTraining(TrainConfig):
    """Options of the token ViT."""

    steps: int = 2000
    learning_rate: float = 5e-4
    warm_up: int = 100
    weight_decay: float = 0.05
    batch: int = 32
    log_every: int = 100
    held_out_photos: int = 200  # on which the error is logged


class SeitTask(Task):
    """Token ViT with a linear layer that reads features off its image tokens.

    Args:
        units: image units of photos [units], of a square grid.
        features: of the same photos in the same views [cells, width], of a coarser square grid.
        train, held_out: photos.
        codebook: float32 [codes, code_width] of the tokenizer that made the units.
    """

    config: SeitTraining
    model: TokenVit

    def __init__(
        self,
        config: SeitTraining,
        model: TokenVit,
        units: PhotoArrays,
        features: PhotoArrays,
        train: Sequence[str],
        held_out: Sequence[str],
        codebook: Tensor,
    ) -> None:
        some = torch.from_numpy(features.batch(train[:SCALE_PHOTOS]).astype(np.float32))
        self.side = math.isqrt(some.shape[1])
        self.head = nn.Linear(model.config.width, some.shape[2])
        super().__init__(config, model, head=self.head)
        self.units, self.features = units, features
        self.train, self.held_out = train, held_out[: config.held_out_photos]
        grid, crop = math.isqrt(units.batch(train[:1]).shape[1]), model.config.crop
        self.augment = TokenAugmenter(codebook, grid, crop)
        self.stem = StemFromUnits(codebook, grid, crop)
        self.mean = some.flatten(0, 1).mean(0)
        self.std = max(float((some - self.mean).square().mean().sqrt()), 1e-6)

    def loss(self, step: int, part: MicroBatch) -> Tensor:
        """Mean squared error of features of variance 1: predicting their mean has a loss of 1."""
        draw = np.random.default_rng((self.config.seed, step))
        chosen = draw.integers(len(self.train), size=self.config.batch)
        views = draw.integers(self.units.views, size=self.config.batch).tolist()
        rows = part.rows(self.config.batch)
        photos = [self.train[row] for row in chosen[rows]]
        random = torch.Generator().manual_seed(part.seed(self.config.seed, step))
        vectors = self.augment(self.units.units(photos, views[rows]), random)
        return self._error(vectors, photos, views[rows]) * part.share(self.config.batch)

    def evaluate(self) -> dict[str, float]:
        """Error on the first view of held-out photos, without augmentation."""
        total = 0.0
        for start in range(0, len(self.held_out), self.config.batch):
            chunk = self.held_out[start : start + self.config.batch]
            total += float(self._error(self.stem(self.units.units(chunk)), chunk)) * len(chunk)
        return {"held_out": total / max(1, len(self.held_out))}

    def _error(self, vectors: Tensor, photos: Sequence[str], views: Sequence[int] | int = 0) -> Tensor:
        features = torch.from_numpy(self.features.batch(photos, views).astype(np.float32))
        wanted = ((features - self.mean) / self.std).to(self.device)
        with self.autocast():
            tokens = self.model(vectors.to(self.device))[:, 1:]  # without the class token
            places = tokens.transpose(1, 2).unflatten(2, (self.model.config.grid, -1))
            predicted = self.head(F.adaptive_avg_pool2d(places, self.side).flatten(2).transpose(1, 2))
        return F.mse_loss(predicted.float(), wanted)
