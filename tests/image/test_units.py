"""Image units: only what their tokenizer can have made."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from im2sp.errors import ImageError
from im2sp.image.units import ImageUnits
from tests.tiny_bundle import tiny_image_units


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        (np.zeros(17, np.int64), "are 18 integers"),
        (np.zeros((1, 18), np.int64), "are 18 integers"),
        (np.zeros(18, np.float32), "are 18 integers"),
        (np.full(18, 16), "the image unit 16 is not one of 0..15"),
        (np.full(18, 2**63, np.uint64), "the image unit 9223372036854775808 is not"),
    ],
)
def test_what_are_no_image_units(units: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        ImageUnits(units, tiny_image_units())


def test_the_name_is_for_people_and_the_checksum_counts() -> None:
    units = ImageUnits(np.zeros(18, np.int64), tiny_image_units())
    units.check_made_by(replace(tiny_image_units(), tokenizer="renamed", crop=(2, 2)))
    for changed in ({"checksum": "1" * 64}, {"codebook_size": 32}, {"grid": (9, 1)}):
        with pytest.raises(ImageError, match="use the bundle that made them"):
            units.check_made_by(replace(tiny_image_units(), **changed))
