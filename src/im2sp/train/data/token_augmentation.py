"""Token augmentations of SeiT: image units -> codebook vectors to train a token ViT on (Park et al., 2023).

Of each photo one thing is drawn: near neighbours replace units, two patches of units change places, or neither. Then
the grid is cropped somewhere, and noise is added to the vectors of some photos. What happens follows from the random
generator alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from im2sp.errors import Im2SpError
from im2sp.train.models.token_vit import CodebookGrid

ROWS_AT_ONCE = 1024  # of the codebook, when distances between all of them are computed


@dataclass(frozen=True)
class TokenAugmentation:
    """How much of each; the defaults are SeiT's."""

    replacing: float = 0.25  # share of the photos in which neighbours replace units
    replaced: float = 0.25  # share of their units
    neighbours: int = 5  # of which one is drawn
    swapping: float = 0.25  # share of the photos in which two patches change places
    largest_patch: float = 0.25  # side of such a patch, of that of the grid; smaller ones are as likely
    noisy: float = 0.5  # share of the photos of a batch that get noise
    channel_noise: float = 1.0  # standard deviation of a photo's offset of each channel, in that of the codebook
    position_noise: float = 1.0  # the same for each place and channel

    def __post_init__(self) -> None:
        if not 0 <= self.largest_patch <= 0.3 or self.replacing + self.swapping > 1:
            raise Im2SpError(
                "two patches need room and a photo gets one of two things: make `largest_patch` at most 0.3, and "
                "`replacing` and `swapping` together at most 1"
            )


def random_crop(vectors: Tensor, crop: int, random: torch.Generator) -> Tensor:
    """Vectors [B, C, H, W] -> [B, C, crop, crop], each photo from another place."""
    height, width = vectors.shape[-2:]
    if crop > min(height, width):
        raise Im2SpError(f"a grid of {height} x {width} cannot be cropped to {crop} x {crop}: crop less")
    tops = torch.randint(height - crop + 1, (len(vectors),), generator=random)
    lefts = torch.randint(width - crop + 1, (len(vectors),), generator=random)
    return torch.stack(
        [
            photo[:, top : top + crop, left : left + crop]
            for photo, top, left in zip(vectors, tops.tolist(), lefts.tolist(), strict=True)
        ]
    )


def embedding_noise(vectors: Tensor, share: float, channel: float, position: float, random: torch.Generator) -> Tensor:
    """Add Gaussian noise to a share of the photos.

    Args:
        vectors: float32 [B, C, H, W].
        share: of the photos; which ones is drawn.
        channel: standard deviation of an offset of each photo and channel, the same at every place.
        position: standard deviation of noise that differs from place to place.
    """
    batch, channels = vectors.shape[:2]
    chosen = (torch.randperm(batch, generator=random) < int(share * batch)).view(-1, 1, 1, 1).to(vectors.dtype)
    offsets = torch.randn(batch, channels, 1, 1, generator=random) * channel
    noise = torch.randn(vectors.shape, generator=random) * position
    return vectors + chosen * (offsets + noise)


def near_neighbours(codebook: Tensor, count: int) -> Tensor:
    """The rows in the most similar directions, nearest first and without the row itself: int64 [codes, count].

    Args:
        codebook: float32 [codes, code_width].
    """
    if not 0 < count < len(codebook):
        raise Im2SpError(f"a codebook of {len(codebook)} rows has no {count} neighbours of each: ask for fewer")
    directions = F.normalize(codebook, dim=-1)
    found = []
    for start in range(0, len(codebook), ROWS_AT_ONCE):
        likeness = directions[start : start + ROWS_AT_ONCE] @ directions.T
        likeness.diagonal(start).fill_(-torch.inf)
        found.append(likeness.topk(count).indices)
    return torch.cat(found)


def replace_by_neighbours(units: Tensor, neighbours: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Replace a share of the units, each drawn by itself, by one of their neighbours [codes, count]."""
    drawn = torch.randint(neighbours.shape[1], units.shape, generator=random)
    return torch.where(torch.rand(units.shape, generator=random) < share, neighbours[units, drawn], units)


def swap_patches(units: Tensor, largest: float, random: torch.Generator) -> Tensor:
    """Let two square patches of random size, which do not meet, change places in each photo.

    Args:
        units: int64 [B, H, W].
        largest: side of a patch, of the shorter side of the grid; at most 0.3.
    """
    height, width = units.shape[1:]
    found = units.clone()
    for photo, swapped in zip(units, found, strict=True):
        side = int(min(height, width) * largest * float(torch.rand((), generator=random)))
        (top, left), (row, column) = _places(height - side, width - side, side, random)
        one = slice(top, top + side), slice(left, left + side)
        other = slice(row, row + side), slice(column, column + side)
        swapped[one], swapped[other] = photo[other], photo[one]
    return found


def _places(rows: int, columns: int, apart: int, random: torch.Generator) -> list[list[int]]:
    """Draw two places (row, column) of `rows` x `columns` that are at least so far apart in one direction."""
    while True:
        drawn = torch.stack([torch.randint(side, (2,), generator=random) for side in (rows, columns)], 1)
        if (drawn[0] - drawn[1]).abs().max() >= apart:
            places: list[list[int]] = drawn.tolist()
            return places


class TokenAugmenter(CodebookGrid):
    """Image units of whole grids -> augmented vectors for a token ViT; the counterpart of StemFromUnits in training."""

    neighbours: Tensor

    def __init__(self, codebook: Tensor, grid: int, crop: int, options: TokenAugmentation) -> None:
        super().__init__(codebook, grid, crop, saved=False)  # a model that augments its input has it from its tokenizer
        self.options = options
        self.register_buffer("neighbours", near_neighbours(self.codebook, options.neighbours), persistent=False)
        self.spread = float(self.codebook.std())

    def forward(self, units: Tensor, random: torch.Generator) -> Tensor:
        """Units int64 [B, grid * grid], row by row -> vectors float32 [B, code_width, crop, crop]."""
        options = self.options
        drawn = torch.rand(len(units), generator=random)
        replacing, swapping = drawn < options.replacing, drawn >= 1 - options.swapping
        units = units.clone()
        units[replacing] = replace_by_neighbours(units[replacing], self.neighbours, options.replaced, random)
        grids = units[swapping].unflatten(1, (self.grid, self.grid))
        units[swapping] = swap_patches(grids, options.largest_patch, random).flatten(1)
        return embedding_noise(
            random_crop(self.vectors(units), self.crop, random),
            options.noisy,
            options.channel_noise * self.spread,
            options.position_noise * self.spread,
            random,
        )
