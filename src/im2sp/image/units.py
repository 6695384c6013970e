"""Image units of one image, with the tokenizer that made them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from im2sp.arrays import IntArray
from im2sp.bundle import ImageTokenizer
from im2sp.errors import ImageError


@dataclass(frozen=True, eq=False)
class ImageUnits:
    """Image units of one image. Raises ImageError for units that their tokenizer cannot have made."""

    units: IntArray  # int64 [units], cell by cell, row by row, the codes of a cell together
    tokenizer: ImageTokenizer

    def __post_init__(self) -> None:
        units, wanted = np.asarray(self.units), self.tokenizer
        if units.dtype.kind not in "iu" or units.shape != (wanted.units,):
            raise ImageError(
                f"image units of {wanted.tokenizer} are {wanted.units} integers ({layout(wanted)}), "
                f"not {units.dtype} {list(units.shape)}"
            )
        sizes = np.array(wanted.codebook_sizes)
        if (outside := np.flatnonzero((units < 0) | (units >= sizes))).size:
            place = outside[0]
            raise ImageError(f"the image unit {units[place]} is not one of 0..{sizes[place] - 1} of {wanted.tokenizer}")
        object.__setattr__(self, "units", units.astype(np.int64))

    def check_made_by(self, tokenizer: ImageTokenizer) -> None:
        """Raise ImageError when another tokenizer made them."""
        if not self.tokenizer.makes_the_units_of(tokenizer):
            raise ImageError(other_tokenizer("these image units", self.tokenizer, tokenizer))


def layout(tokenizer: ImageTokenizer) -> str:
    """Return for people how the units of a photo lie."""
    photo = f" and {len(tokenizer.photo_codebooks)} of the whole photo" if tokenizer.photo_codebooks else ""
    return f"a grid of {tokenizer.grid[0]} x {tokenizer.grid[1]} cells with {tokenizer.codes} each{photo}"


def other_tokenizer(what: str, found: ImageTokenizer, wanted: ImageTokenizer) -> str:
    """Return the sentence for units of another tokenizer."""
    return (
        f"{what} were made by the tokenizer {_shown(found)}, but the bundle reads those of {_shown(wanted)}: "
        "use the bundle that made them, or tokenize the photos again"
    )


def _shown(tokenizer: ImageTokenizer) -> str:
    return f"{tokenizer.tokenizer!r} ({tokenizer.checksum[:12]})"
