"""Pieces of photos that count as photos of their own: a teacher has other things to say about them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from im2sp.files import replace_whole
from im2sp.image.loading import load_image

SHARES = 0.5, 0.8  # of each side of a photo, the smallest and the largest that a piece keeps
_SEED = 6
_QUALITY = 92


def random_crop(image: Image.Image, random: np.random.Generator, share: float) -> Image.Image:
    """A rectangle of a photo, in the photo's own shape, that keeps this share of each side."""
    width, height = (max(1, round(side * share)) for side in image.size)
    left, top = random.integers(image.width - width + 1), random.integers(image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def write_pieces(photos: dict[str, Path], count: int, out: Path) -> dict[str, Path]:
    """Write `out/<image id>.crop<n>.jpg`, n from 1, unless it is there; returns them by image id, photos in order.

    A piece follows from its photo's image id and n alone.

    Raises:
        ImageError: a photo cannot be read.
    """
    pieces = {
        f"{image_id}.crop{number}": (path, [_SEED + number, zlib.crc32(image_id.encode())])
        for image_id, path in photos.items()
        for number in range(1, count + 1)
    }
    for name, (path, seed) in pieces.items():
        target = out / f"{name}.jpg"
        if not target.is_file():
            random = np.random.default_rng(seed)
            piece = random_crop(load_image(path), random, random.uniform(*SHARES))
            with replace_whole(target) as temporary:
                piece.save(temporary, "JPEG", quality=_QUALITY)
    return {name: out / f"{name}.jpg" for name in pieces}
