"""One photo of a collection: its id, and what there is to look at or why there is nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from im2sp.image.unit_table import ID_BYTES

if TYPE_CHECKING:
    from im2sp.image.loading import ImageSource
    from im2sp.image.units import ImageUnits


@dataclass(frozen=True)
class Photo:
    """A photo; it has either an image or an error."""

    image_id: str  # 1 to ID_BYTES bytes
    image: ImageSource | ImageUnits | None = None
    error: str | None = None  # why there is nothing to look at, in one sentence


class NamedBytes(io.BytesIO):
    """The bytes of a picture file; what is wrong with them is said under a name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def photo_of(image_id: str, where: str, image: ImageSource | ImageUnits | None = None, error: str = "") -> Photo:
    """A photo under its id, or under `where` it stands, with an error, if that is no proper id."""
    try:
        size = len(image_id.encode("utf-8"))
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= ID_BYTES:
        return Photo(where, error=f"{where}: its id is empty, longer than {ID_BYTES} bytes or no text")
    return Photo(image_id, image, error or None)


def failed(first: int, count: int, where: str, sentence: str) -> Iterator[Photo]:
    """So many photos from number `first` (from 0) on, of which nothing is known but that they cannot be read."""
    for number in range(first, first + count):
        yield Photo(row_id(where, number), error=sentence)


def row_id(where: str, number: int) -> str:
    """What a row of a table (from 0) is called that has no id of its own."""
    return f"{os.path.basename(where)}/{number}"
