"""Semantic image units: the image features that a captioner looks at, as a few hundred bytes of codes.

Our own step beyond the paper: not the picture is quantised but what a captioner sees in it. The features of each cell
are projected and normalised as a trained captioner does it, which throws away what captions do not need, and then
described by residual quantisation: the first code names the nearest of `size` centres, each further code the nearest
centre of what is still missing (Gray, 1984).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError
from im2sp.train.models.git import GitDecoder
from im2sp.train.models.saving import WEIGHTS, load_config, save_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SemanticUnitsConfig:
    """Sizes of a quantiser."""

    image_width: int = 1280  # channels of an image feature
    width: int = 256  # channels after the projection
    levels: int = 7  # codes a cell
    size: int = 1024  # centres of each codebook
    norm_eps: float = 1e-6


class SemanticUnits(nn.Module):
    """Image features -> codes -> projected features."""

    codebooks: Tensor  # float32 [levels, size, width]

    def __init__(self, config: SemanticUnitsConfig) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.image_width, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.register_buffer("codebooks", torch.zeros(config.levels, config.size, config.width))

    @classmethod
    def like(cls, captioner: GitDecoder, levels: int, size: int) -> SemanticUnits:
        """A quantiser without centres that sees photos as a trained captioner does."""
        sizes = captioner.config
        eps = sizes.layer_norm_eps if sizes.image_norm_eps is None else sizes.image_norm_eps
        made = cls(SemanticUnitsConfig(sizes.image_width, sizes.width, levels, size, eps))
        made.projection.load_state_dict(captioner.image_projection.state_dict())
        made.norm.load_state_dict(captioner.image_norm.state_dict())
        return made.eval()

    def sees_like(self, captioner: GitDecoder) -> bool:
        """Whether it projects features exactly as a captioner does."""
        if self.config.image_width != captioner.config.image_width or self.config.width != captioner.config.width:
            return False
        theirs = captioner.state_dict()
        pairs = (("projection", "image_projection"), ("norm", "image_norm"))
        return all(
            torch.equal(value, theirs[f"{their}.{name}"])
            for own, their in pairs
            for name, value in self.get_submodule(own).state_dict().items()
        )

    def project(self, features: Tensor) -> Tensor:
        """Image features [..., image_width] -> what is quantised [..., width]."""
        projected: Tensor = self.norm(self.projection(features))
        return projected

    def forward(self, features: Tensor) -> Tensor:
        """Image features float32 [B, cells, image_width] -> units int64 [B, cells * levels], cell by cell."""
        missing, codes = self.project(features), []
        for centres in self.codebooks:
            # |x - c|^2 without |x|^2, which is the same for every centre
            nearest = (centres.square().sum(-1) - 2 * missing @ centres.T).argmin(-1)
            codes.append(nearest)
            missing = missing - nn.functional.embedding(nearest, centres)
        return torch.stack(codes, -1).flatten(1)

    def features(self, units: Tensor) -> Tensor:
        """Units int64 [B, cells * levels] -> what they still say, float32 [B, cells, width]."""
        # Not unflatten: the exporter takes the batch of its example to be the only one after it.
        codes = units.reshape(units.shape[0], -1, self.config.levels)
        rows = codes + torch.arange(self.config.levels) * self.config.size
        return nn.functional.embedding(rows, self.codebooks.flatten(0, 1)).sum(-2)

    @torch.inference_mode()
    def fit(self, features: FloatArray, seed: int = 0) -> list[float]:
        """Learn the centres by k-means, level after level. They are float16 numbers, so a graph stores them as such.

        Args:
            features: [n, image_width], cells of train photos.

        Returns:
            Share of the variance that is still missing after each level.

        Raises:
            Im2SpError: there are fewer cells than centres.
        """
        if len(features) < self.config.size:
            raise Im2SpError(
                f"{len(features)} cells of photos cannot make {self.config.size} centres: "
                "set a smaller `size` in [semantic_units] of the recipe, or give more photos"
            )
        pieces = np.array_split(features, max(1, len(features) // 8192))
        missing = np.concatenate([self.project(torch.from_numpy(np.float32(piece))).numpy() for piece in pieces])
        whole, shares = missing.var(0).sum(), []
        for level in range(self.config.levels):
            kmeans = MiniBatchKMeans(
                self.config.size,
                batch_size=8192,
                n_init=1,
                max_iter=20,
                max_no_improvement=30,
                reassignment_ratio=0.0,
                random_state=seed + level,
            )
            nearest = kmeans.fit_predict(missing)
            centres = kmeans.cluster_centers_.astype(np.float16).astype(np.float32)
            self.codebooks[level] = torch.from_numpy(centres)
            missing -= centres[nearest]
            shares.append(float(missing.var(0).sum() / whole))
            log.info("level %d: %.1f %% of the variance is missing", level + 1, 100 * shares[-1])
        return shares

    @torch.inference_mode()
    def missing(self, features: Tensor) -> float:
        """Share of the variance of features [B, cells, image_width] that their units do not say."""
        seen = self.project(features)
        rest = seen - self.features(self(features))
        return float(rest.flatten(0, 1).var(0).sum() / seen.flatten(0, 1).var(0).sum())

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        save_model(self.state_dict(), self.config, folder)

    @classmethod
    def load(cls, folder: Path) -> SemanticUnits:
        """Read what `save` wrote, in evaluation mode."""
        model = cls(load_config(folder, SemanticUnitsConfig))
        model.load_state_dict(load_file(folder / WEIGHTS))
        return model.eval()


class FeaturesFromUnits(nn.Module):
    """Units int64 [B, cells * levels] -> projected features float32 [B, cells, width], for export."""

    def __init__(self, quantiser: SemanticUnits) -> None:
        super().__init__()
        self.quantiser = quantiser

    def forward(self, units: Tensor) -> Tensor:
        """The same as the quantiser's `features`."""
        return self.quantiser.features(units)
