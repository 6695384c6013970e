"""Photos -> batches of pixels, drawn by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from im2sp.image.loading import load_image, to_pixels
from im2sp.train.data.photo_pieces import random_crop


def unit_pixels(image: Image.Image, side: int) -> Tensor:
    """An RGB picture resized (bicubic) to a square: float32 [3, side, side] in [0, 1], no mean or std."""
    return torch.from_numpy(to_pixels(image, side, side, (0.0,) * 3, (1.0,) * 3))


class PhotoCrops:
    """Pieces of photos in the photos' own shape, half of them mirrored.

    Args:
        photos: paths.
        side: pixels that a piece is resized to.
        batch: photos a step.
        smallest: area of the smallest piece, as a share of the photo.
        seed: a batch depends on it and on the step alone.
    """

    def __init__(self, photos: Sequence[Path], side: int, batch: int, smallest: float, seed: int) -> None:
        self._photos, self._side, self._batch = list(photos), side, batch
        self._smallest, self._seed = smallest, seed

    def at(self, step: int) -> Tensor:
        """The batch of a step: float32 [batch, 3, side, side] in [0, 1]. Each photo comes once an epoch.

        Raises:
            ImageError: a photo cannot be read.
        """
        random = np.random.default_rng((self._seed, 1, step))
        pieces = []
        for place in range(step * self._batch, (step + 1) * self._batch):
            epoch, index = divmod(place, len(self._photos))
            order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._photos))
            pieces.append(unit_pixels(self._piece(load_image(self._photos[order[index]]), random), self._side))
        return torch.stack(pieces)

    def _piece(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        piece = random_crop(image, random, math.sqrt(random.uniform(self._smallest, 1)))
        return ImageOps.mirror(piece) if random.random() < 0.5 else piece
