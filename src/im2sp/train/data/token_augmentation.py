"""Token augmentations of SeiT: image units -> codebook vectors to train a token ViT on (Park et al., 2023).

In this order: near neighbours replace units, patches of units change places, the grid is cropped somewhere, and noise
is added to the vectors. What happens follows from the random generator alone. Semantic image units get the same but for
the crop: their few cells are the whole photo.
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
    """How much of each."""

    replaced: float = 0.1  # share of the units that a neighbour replaces
    neighbours: int = 5  # of which one is drawn
    swapped: float = 0.2  # share of the patches of a photo that change places, two by two
    patch: int = 2  # units a side of such a patch
    noisy: float = 0.5  # share of the photos of a batch that get noise
    channel_noise: float = 0.1  # standard deviation of a photo's offset of each channel, in that of the codebook
    position_noise: float = 0.1  # the same for each place and channel

    def noise(self, vectors: Tensor, spread: float, random: torch.Generator) -> Tensor:
        """`embedding_noise` of vectors [B, C, H, W] whose codebook has this standard deviation."""
        return embedding_noise(vectors, self.noisy, self.channel_noise * spread, self.position_noise * spread, random)


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
    chosen = (torch.rand(batch, 1, 1, 1, generator=random) < share).to(vectors.dtype)
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


def swap_patches(units: Tensor, patch: int, share: float, random: torch.Generator) -> Tensor:
    """Let patches change places within each photo, two by two.

    Args:
        units: int64 [B, H, W]; what is left over at the right and at the bottom by whole patches stays where it is.
        patch: units a side of a patch.
        share: of the patches; rounded down to pairs.
    """
    rows, columns = (side // patch for side in units.shape[1:])
    pairs = int(share * rows * columns / 2)
    order = torch.arange(rows * columns).repeat(len(units), 1)
    for photo in order:
        first, second = torch.randperm(len(photo), generator=random)[: 2 * pairs].view(2, pairs)
        photo[first], photo[second] = second, first
    whole = units[:, : rows * patch, : columns * patch]
    patches = whole.reshape(-1, rows, patch, columns, patch).transpose(2, 3).flatten(1, 2)
    swapped = patches[torch.arange(len(units))[:, None], order]
    found = units.clone()
    found[:, : rows * patch, : columns * patch] = (
        swapped.unflatten(1, (rows, columns)).transpose(2, 3).reshape(whole.shape)
    )
    return found


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
        units = replace_by_neighbours(units, self.neighbours, options.replaced, random)
        units = swap_patches(units.unflatten(1, (self.grid, self.grid)), options.patch, options.swapped, random)
        return options.noise(random_crop(self.vectors(units), self.crop, random), self.spread, random)
