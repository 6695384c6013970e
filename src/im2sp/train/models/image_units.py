"""Image units: grid features of a photo -> about 1,200 bits of codes, and back to what they still say.

Each cell of the grid is projected to the directions that predict the words of captions (reduced-rank regression) and
described by residual vector quantisation: the first code names the nearest centre, each further code the nearest centre
of the residual (Gray, 1984). The image classifier's most probable classes and a code for their probabilities follow.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError
from im2sp.train.models.saving import SavedModule

log = logging.getLogger(__name__)

FLOOR = 1e-4  # probability of a class that is not among the most probable ones


@dataclass(frozen=True)
class ImageUnitsConfig:
    """Sizes of the quantiser."""

    cells: int = 16  # of the grid of features
    image_width: int = 1280  # channels of a feature
    width: int = 256  # channels after the projection
    levels: int = 7  # codes of a cell
    size: int = 1024  # centres of each codebook
    class_count: int = 1000  # outputs of the classifier
    classes: int = 5  # most probable ones that are kept

    @property
    def units(self) -> int:
        """Codes of a photo."""
        return self.cells * self.levels + self.classes + 1

    @property
    def bits(self) -> int:
        """Bits of a photo."""
        code = (self.size - 1).bit_length()
        return (self.cells * self.levels + 1) * code + self.classes * (self.class_count - 1).bit_length()


class ImageUnits(SavedModule):
    """Features float32 [B, cells, image_width] -> units int64 [B, units] -> cells and class log-probabilities."""

    config_type = ImageUnitsConfig
    config: ImageUnitsConfig

    mean: Tensor
    projection: Tensor
    class_bias: Tensor
    probabilities: Tensor  # float32 [size, classes], each row sorted downwards

    def __init__(self, config: ImageUnitsConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.image_width))
        self.register_buffer("projection", torch.zeros(config.image_width, config.width))
        # Parameters, as a bundle may store them as int8, which it does not do to buffers.
        self.codebooks = nn.Parameter(torch.zeros(config.levels, config.size, config.width), requires_grad=False)
        self.class_weight = nn.Parameter(torch.zeros(config.class_count, config.image_width), requires_grad=False)
        self.register_buffer("class_bias", torch.zeros(config.class_count))
        self.register_buffer("probabilities", torch.zeros(config.size, config.classes))

    def project(self, features: Tensor) -> Tensor:
        """Features [..., image_width] -> what is quantised [..., width]."""
        return (features - self.mean) @ self.projection

    def top_classes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, cells, image_width] -> (classes int64, their probabilities), both [B, classes]."""
        logits = F.linear(features.mean(1), self.class_weight, self.class_bias)
        top = logits.softmax(-1).topk(self.config.classes, -1)
        return top.indices, top.values

    def forward(self, features: Tensor) -> Tensor:
        """Features float32 [B, cells, image_width] -> units int64 [B, units]: cell by cell, then classes."""
        residual, codes = self.project(features), []
        for centres in self.codebooks:
            nearest = _nearest(residual, centres)
            codes.append(nearest)
            residual = residual - F.embedding(nearest, centres)
        classes, probabilities = self.top_classes(features)
        strength = _nearest(probabilities.sqrt(), self.probabilities.sqrt())
        return torch.cat([torch.stack(codes, -1).flatten(1), classes, strength[:, None]], 1)

    def embed(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Units int64 [B, units] -> (cells float32 [B, cells, width], class log-probabilities [B, class_count])."""
        config = self.config
        codes, classes = units[:, : -config.classes - 1], units[:, -config.classes - 1 : -1]
        rows = codes.reshape(units.shape[0], config.cells, config.levels)
        rows = rows + torch.arange(config.levels, device=units.device) * config.size
        cells = F.embedding(rows, self.codebooks.flatten(0, 1)).sum(2)
        probabilities = F.embedding(units[:, -1], self.probabilities).clamp(min=FLOOR)
        floor = torch.full((units.shape[0], config.class_count), FLOOR, device=units.device)
        return cells, floor.scatter(1, classes, probabilities).log()

    @torch.inference_mode()
    def fit_projection(self, features: Tensor, words: Tensor, ridge: float = 0.02) -> None:
        """Fit the projection by reduced-rank regression of words on the mean feature of each photo.

        Args:
            features: [n, image_width], means over the cells of photos.
            words: float32 [n, words], how often each word stands in the captions of each photo.
            ridge: regularisation, as a fraction of the mean variance of a channel.

        Raises:
            Im2SpError: there are fewer words than directions.
        """
        width = self.config.width
        if words.shape[1] < width:
            raise Im2SpError(f"{words.shape[1]} words cannot give {width} directions: set a smaller width")
        self.mean.copy_(features.mean(0))
        x, y = features - self.mean, words - words.mean(0)
        y = y / (y.std(0) + 0.02)
        covariance = x.T @ x / len(x)
        penalty = ridge * covariance.diag().mean() * torch.eye(len(covariance))
        weights = torch.linalg.solve(covariance + penalty, x.T @ y / len(x))
        _, vectors = torch.linalg.eigh(weights.T @ covariance @ weights)
        self.projection.copy_(weights @ vectors[:, -width:].flip(1))

    @torch.inference_mode()
    def fit(self, cells: Tensor, features: Tensor, seed: int = 0) -> list[float]:
        """Fit the codebooks by k-means, level after level, after `fit_projection`.

        Centres are rounded to float16, in which a bundle stores them.

        Args:
            cells: [n, image_width], features of cells.
            features: [m, cells, image_width], of whole photos, for the probabilities of classes.

        Returns:
            Fraction of the variance that is left after each level.

        Raises:
            Im2SpError: there are fewer cells or photos than centres.
        """
        if min(len(cells), len(features)) < self.config.size:
            raise Im2SpError(f"{len(features)} photos are too few for {self.config.size} centres: set a smaller size")
        scale = self.project(cells).std(0)
        scale = scale.clamp(min=1e-4 * float(scale.max()))  # few photos leave directions empty
        self.projection /= scale.pow(0.6)  # less weight on the few strongest directions
        self.projection /= self.project(cells).square().mean().sqrt()
        residual = self.project(cells).numpy()
        whole, left = residual.var(0).sum(), []
        for level in range(self.config.levels):
            centres, nearest = _kmeans(residual, self.config.size, seed + level)
            self.codebooks[level] = torch.from_numpy(centres)
            residual -= centres[nearest]
            left.append(float(residual.var(0).sum() / whole))
            log.info("level %d: %.1f %% of the variance is left", level + 1, 100 * left[-1])
        centres, _ = _kmeans(self.top_classes(features)[1].sqrt().numpy(), self.config.size, seed)
        self.probabilities.copy_(torch.from_numpy(centres).square())
        return left


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    # |x - c|^2 without |x|^2, which is the same for every centre
    return (centres.square().sum(-1) - 2 * x @ centres.T).argmin(-1)


def _kmeans(points: FloatArray, size: int, seed: int) -> tuple[FloatArray, np.ndarray]:
    """Centres as float16 numbers, and the nearest one of each point."""
    kmeans = MiniBatchKMeans(
        size,
        batch_size=8192,
        n_init=1,
        max_iter=20,
        max_no_improvement=30,
        reassignment_ratio=0.0,
        random_state=seed,
    )
    nearest = kmeans.fit_predict(points)
    return kmeans.cluster_centers_.astype(np.float16).astype(np.float32), nearest
