"""Token augmentations of SeiT: image units -> codebook vectors to train a token ViT on (Park et al., 2023).

Of each photo one thing is drawn: near neighbours replace units, two patches of units change places, or neither. Then
the grid is cropped somewhere, and noise is added to the vectors of some photos. What happens follows from the random
generator alone. The constants are SeiT's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from im2sp.train.models.token_vit import CodebookGrid

REPLACING = 0.25  # share of the photos in which neighbours replace units
REPLACED = 0.25  # share of their units
NEIGHBOURS = 5  # of which one is drawn
SWAPPING = 0.25  # share of the photos in which two patches change places
LARGEST_PATCH = 0.25  # side of such a patch, of that of the grid; smaller ones are as likely
NOISY = 0.5  # share of the photos of a batch that get noise
NOISE = 1.0  # standard deviation, in that of the codebook: of a photo's offset of each channel, and of each place's


def random_crop(vectors: Tensor, crop: int, random: torch.Generator) -> Tensor:
    """Vectors [B, C, H, W] -> [B, C, crop, crop], each photo from another place."""
    height, width = vectors.shape[-2:]
    tops = torch.randint(height - crop + 1, (len(vectors),), generator=random).tolist()
    lefts = torch.randint(width - crop + 1, (len(vectors),), generator=random).tolist()
    places = zip(vectors, tops, lefts, strict=True)
    return torch.stack([photo[:, top : top + crop, left : left + crop] for photo, top, left in places])


def embedding_noise(vectors: Tensor, deviation: float, random: torch.Generator) -> Tensor:
    """Add Gaussian noise to some photos [B, C, H, W]: an offset of each channel, and another value at every place."""
    batch, channels = vectors.shape[:2]
    chosen = (torch.randperm(batch, generator=random) < int(NOISY * batch)).view(-1, 1, 1, 1).to(vectors.dtype)
    offsets = torch.randn(batch, channels, 1, 1, generator=random)
    return vectors + chosen * deviation * (offsets + torch.randn(vectors.shape, generator=random))


def near_neighbours(codebook: Tensor, count: int) -> Tensor:
    """The rows in the most similar directions, nearest first and without the row itself: int64 [codes, count].

    Args:
        codebook: float32 [codes, code_width].
    """
    directions = F.normalize(codebook, dim=-1)
    return (directions @ directions.T).fill_diagonal_(-torch.inf).topk(count).indices


def replace_by_neighbours(units: Tensor, neighbours: Tensor, random: torch.Generator) -> Tensor:
    """Replace a share of the units, each drawn by itself, by one of their neighbours [codes, count]."""
    drawn = torch.randint(neighbours.shape[1], units.shape, generator=random)
    return torch.where(torch.rand(units.shape, generator=random) < REPLACED, neighbours[units, drawn], units)


def swap_patches(units: Tensor, random: torch.Generator) -> Tensor:
    """Let two square patches of random size, which do not meet, change places in each photo: units int64 [B, H, W]."""
    height, width = units.shape[1:]
    found = units.clone()
    for photo, swapped in zip(units, found, strict=True):
        side = int(min(height, width) * LARGEST_PATCH * float(torch.rand((), generator=random)))
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

    def __init__(self, codebook: Tensor, grid: int, crop: int) -> None:
        super().__init__(codebook, grid, crop, saved=False)  # a model that augments its input has it from its tokenizer
        self.register_buffer("neighbours", near_neighbours(self.codebook, NEIGHBOURS), persistent=False)
        self.deviation = NOISE * float(self.codebook.std())

    def forward(self, units: Tensor, random: torch.Generator) -> Tensor:
        """Units int64 [B, grid * grid], row by row -> vectors float32 [B, code_width, crop, crop]."""
        drawn = torch.rand(len(units), generator=random)
        replacing, swapping = drawn < REPLACING, drawn >= 1 - SWAPPING
        units = units.clone()
        units[replacing] = replace_by_neighbours(units[replacing], self.neighbours, random)
        grids = units[swapping].unflatten(1, (self.grid, self.grid))
        units[swapping] = swap_patches(grids, random).flatten(1)
        return embedding_noise(random_crop(self.vectors(units), self.crop, random), self.deviation, random)
