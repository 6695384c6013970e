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
            cells = f"{wanted.grid[0]} x {wanted.grid[1]} cells, {wanted.codes} each"
            raise ImageError(
                f"image units of {wanted.tokenizer} are {wanted.units} integers ({cells}), "
                f"not {units.dtype} {list(units.shape)}"
            )
        if units.min() < 0 or units.max() >= wanted.codebook_size:
            wrong = units.min() if units.min() < 0 else units.max()
            raise ImageError(
                f"the image unit {wrong} is not one of 0..{wanted.codebook_size - 1} of {wanted.tokenizer}"
            )
        object.__setattr__(self, "units", units.astype(np.int64))

    def check_made_by(self, tokenizer: ImageTokenizer) -> None:
        """Raise ImageError when another tokenizer made them."""
        if not self.tokenizer.makes_the_units_of(tokenizer):
            raise ImageError(other_tokenizer("these image units", self.tokenizer, tokenizer))


def other_tokenizer(what: str, found: ImageTokenizer, wanted: ImageTokenizer) -> str:
    """Return the sentence for units of another tokenizer."""
    return (
        f"{what} were made by the tokenizer {_shown(found)}, but the bundle reads those of {_shown(wanted)}: "
        "use the bundle that made them, or tokenize the photos again"
    )


def _shown(tokenizer: ImageTokenizer) -> str:
    return f"{tokenizer.tokenizer!r} ({tokenizer.checksum[:12]})"
