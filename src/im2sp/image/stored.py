"""Photos that are stored as image units: tables in, the units of one photo after the other out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from im2sp.bundle import ImageTokenizer
from im2sp.errors import TableError
from im2sp.image.finding import Survey
from im2sp.image.units import ImageUnits, other_tokenizer

if TYPE_CHECKING:
    from im2sp.image.unit_table import UnitTable

SUFFIX = ".parquet"

# What could leave a folder, or cannot stand in the name of a file on some system; and the escape itself.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|%]')


@dataclass(frozen=True)
class StoredPhoto:
    """One row of a table."""

    key: Path  # stands for the photo on record: the path of the table and the image id, as if in a folder
    units: ImageUnits


@dataclass(frozen=True)
class StoredPhotos:
    """The photos of some tables, for a bundle that reads the units of `tokenizer`. Iterating reads the tables anew."""

    sources: Sequence[Path]
    tokenizer: ImageTokenizer

    def survey(self) -> Survey:
        """Read every row once and count them, so that nothing is begun with a table that is wrong further below.

        Raises TableError for a table that cannot be read, or whose units another tokenizer made.
        """
        empty = []
        for table in self._tables:
            table.check()
            if not table.rows:
                empty.append(f"{table.path}: holds no photos")
        return Survey(sum(table.rows for table in self._tables), tuple(empty))

    def __iter__(self) -> Iterator[StoredPhoto]:
        """Photos in the order of the tables and of their rows. Raises TableError."""
        for table in self._tables:
            for image_id, units in table:
                yield StoredPhoto(photo_key(table.path, image_id), units)

    @cached_property
    def _tables(self) -> list[UnitTable]:
        from im2sp.image.unit_table import UnitTable

        once = {os.path.abspath(source): source for source in self.sources}
        tables = [UnitTable.open(source) for source in once.values()]
        for table in tables:
            if not table.tokenizer.makes_the_units_of(tables[0].tokenizer):
                raise TableError(
                    f"{tables[0].path} and {table.path} hold units of different tokenizers: give them one at a time, "
                    "each with the bundle that made it"
                )
            if not table.tokenizer.makes_the_units_of(self.tokenizer):
                raise TableError(f"{table.path}: {other_tokenizer('its image units', table.tokenizer, self.tokenizer)}")
        return tables


def is_table(path: Path) -> bool:
    """Whether a path is to be read as a table of image units."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def photo_key(table: Path, image_id: str) -> Path:
    """A path below `table` for an image id, whatever that is: different for each, and never outside."""
    return table.joinpath(*map(_part, image_id.split("/")))


def _part(part: str) -> str:
    if part.strip(".") == "":  # nothing, here, above
        return part.replace(".", "%2E") or "%"
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", part)
