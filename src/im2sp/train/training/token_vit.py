"""Token ViT training by distillation: image units -> the features that a frozen image encoder gives of the same photo.

A linear layer on the image tokens, averaged to the grid of the features, must say the features. It is thrown away
afterwards; what the token ViT learned on the way is where captioning starts from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.errors import Im2SpError
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.token_augmentation import TokenAugmentation, TokenAugmenter
from im2sp.train.models.saving import CONFIG
from im2sp.train.models.token_vit import StemFromUnits, TokenVit, TokenVitConfig
from im2sp.train.precision import products
from im2sp.train.training.averaging import train_averaged
from im2sp.train.training.processes import Processes

CENTRE_PHOTOS = 1000  # on which mean and spread of the features are taken


@dataclass(frozen=True)
class TokenVitTraining:
    """Options of one training run."""

    steps: int = 2000
    batch: int = 32
    learning_rate: float = 5e-4
    warm_up: int = 100
    weight_decay: float = 0.05
    floor: float = 0.02  # of the learning rate at the end of the cosine, as a share of its peak
    average_decay: float = 0.999  # exponential moving average of the weights, which is what is kept
    report_every: int = 100
    held_out_photos: int = 200  # on which a report is made
    seed: int = 0


@dataclass(frozen=True)
class UnitPhotos:
    """Image units of photos in several views, beside their features.

    Attributes:
        units: uint16 [views, photos, units], in the order of `features`.
        features: of the same photos in the same views, from one folder.
    """

    units: npt.NDArray[np.uint16]
    features: ImageFeatures

    def batch(self, image_ids: list[str], views: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Units int64 [B, units] and features float32 [B, cells, width] of some photos, one view each."""
        rows = [self.features.rows[image_id][1] for image_id in image_ids]
        units = torch.from_numpy(self.units[views, rows].astype(np.int64))
        return units, torch.from_numpy(self.features.batch(image_ids, views)).float()


class Pupil(nn.Module):
    """A token ViT and the layer that says features from its image tokens."""

    def __init__(self, token_vit: TokenVit, cells: int, feature_width: int) -> None:
        super().__init__()
        side = math.isqrt(cells)
        if side**2 != cells or side > token_vit.config.grid:
            raise Im2SpError(
                f"features of {cells} cells cannot be said from {token_vit.config.grid} x {token_vit.config.grid} "
                "image tokens: take a square grid that is not finer"
            )
        self.token_vit, self.side = token_vit, side
        self.head = nn.Linear(token_vit.config.width, feature_width)

    def forward(self, vectors: Tensor) -> Tensor:
        """Codebook vectors float32 [B, code_width, crop, crop] -> features [B, cells, feature_width], row by row."""
        grid = self.token_vit.config.grid
        tokens = self.token_vit(vectors)[:, 1:].transpose(1, 2).unflatten(2, (grid, grid))
        said: Tensor = self.head(F.adaptive_avg_pool2d(tokens, self.side).flatten(2).transpose(1, 2))
        return said.float()


@dataclass(frozen=True)
class Scale:
    """Features of mean 0 in each channel and spread 1 over all, so that who says the mean has an error of 1."""

    mean: Tensor  # float32 [width]
    spread: float

    @classmethod
    def of(cls, features: ImageFeatures, image_ids: list[str]) -> Scale:
        """Measured on the first photos given."""
        found = torch.from_numpy(features.batch(image_ids[:CENTRE_PHOTOS])).float().flatten(0, 1)
        mean = found.mean(0)
        return cls(mean, max(float((found - mean).square().mean().sqrt()), 1e-6))

    def __call__(self, features: Tensor) -> Tensor:
        """Features [..., width] -> the same, scaled."""
        return (features - self.mean) / self.spread


def train_token_vit(
    photos: UnitPhotos,
    train: list[str],
    held_out: list[str],
    codebook: Tensor,
    config: TokenVitConfig,
    augmentation: TokenAugmentation,
    options: TokenVitTraining,
    out: Path,
) -> TokenVit:
    """Train; resumes from `out/checkpoint.pt`; leaves the averaged weights in `out` and returns that model.

    What a step sees depends on the seed and the step alone: a resumed run sees what an unbroken one sees.

    Args:
        train, held_out: image ids to learn from, and to report on.
        codebook: float32 [codes, code_width] of the tokenizer that made the units.
    """
    if (out / CONFIG).is_file():
        return TokenVit.load(out)
    torch.manual_seed(options.seed)
    cells, width = photos.features.shape
    grid = math.isqrt(photos.units.shape[2])
    augment = TokenAugmenter(codebook, grid, config.crop, augmentation)
    stem = StemFromUnits(codebook, grid, config.crop)
    pupil, scale = Pupil(TokenVit(config), cells, width).train(), Scale.of(photos.features, train)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)

    def learn(step: int) -> float:
        draw = np.random.default_rng((options.seed, step))
        chosen = [train[row] for row in draw.integers(len(train), size=options.batch)]
        units, wanted = photos.batch(chosen, draw.integers(len(photos.units), size=options.batch))
        random = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        with products("cpu"):
            said = pupil(augment(units, random))
        loss = F.mse_loss(said, scale(wanted))
        loss.backward()
        return loss.item()

    def error() -> float:
        return held_out_error(pupil, stem, scale, photos, held_out[: options.held_out_photos], options.batch)

    train_averaged(pupil, optimizer, learn, error, options, out, Processes())
    pupil.token_vit.eval().save(out)
    return pupil.token_vit


def held_out_error(
    pupil: Pupil, stem: StemFromUnits, scale: Scale, photos: UnitPhotos, image_ids: list[str], batch: int
) -> float:
    """Mean squared error of the scaled features in the first view, without augmentation."""
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(image_ids), batch):
            chunk = image_ids[start : start + batch]
            units, wanted = photos.batch(chunk, np.zeros(len(chunk), dtype=np.int64))
            total += float(F.mse_loss(pupil(stem(units)), scale(wanted))) * len(chunk)
    return total / max(1, len(image_ids))
