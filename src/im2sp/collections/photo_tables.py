"""Parquet tables of photos, by their bytes or by URL: rows in, ids and photos out.

Tables come from outside and are not trusted: what a row group may take is checked before it is read, and long texts
stay in Arrow's memory until their length is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from im2sp.collections.fetching import MOST_URL
from im2sp.collections.photos import row_id
from im2sp.errors import TableError
from im2sp.image.unit_table import ID_BYTES, METADATA_KEY
from im2sp.parquet import opened_parquet, pyarrow_modules

SUFFIX = ".parquet"
ID_COLUMNS = ("image_id", "key", "__key__")  # the first that is there
BYTES_COLUMNS = ("bytes", "image", "image_bytes", "jpg", "jpeg", "png", "webp")
URL_COLUMNS = ("url", "image_url", "URL")

_WHAT = "table of photos"
_MOST_BYTES, _MOST_TEXT = 2**30, 2**28  # of a column in a row group, unpacked
_TEXT_ROWS = 1_024  # read at a time; photos one by one
_NAMED = f"one of {', '.join((*BYTES_COLUMNS, *URL_COLUMNS))}"


@dataclass(frozen=True)
class PhotoTable:
    """A Parquet table of photos that is there. Made by `PhotoTable.open`."""

    path: Path
    rows: int
    id_column: str | None  # without one, a photo is called by its URL, or by file and row
    photo_column: str
    by_url: bool

    @classmethod
    def open(cls, path: Path) -> PhotoTable:
        """Read what the table has. Raises TableError: no Parquet, damaged, no column of photos, too large in a part."""
        with opened_parquet(path, _WHAT) as file:
            schema = file.schema_arrow
            found = {name: schema.field(name).type for name in schema.names if schema.names.count(name) == 1}
            photo = next((name for name in BYTES_COLUMNS if name in found and _holds_bytes(found[name])), None)
            url = next((name for name in URL_COLUMNS if name in found and _holds_text(found[name])), None)
            column = photo or url
            if column is None:
                raise TableError(f"{path}: has no column of photos, which would be {_NAMED}")
            key = next((name for name in ID_COLUMNS if name in found and _holds_ids(found[name])), None)
            table = cls(path, file.metadata.num_rows, key, column, photo is None)
            for index in range(file.metadata.num_row_groups):
                table._check(file.metadata.row_group(index), index)
            return table

    def read(self, first: int, count: int) -> Iterator[tuple[str, bytes | str | None]]:
        """Rows `first` to `first + count` (from 0): the id, and bytes, URL or None where there is no photo.

        An id or URL that is longer than is allowed comes as an empty text. Raises TableError for a damaged file.
        """
        texts = [name for name in (self.id_column, self.photo_column if self.by_url else None) if name]
        with opened_parquet(self.path, _WHAT, read_dictionary=texts, buffer_size=2**20) as file:
            start = 0
            for index in range(file.metadata.num_row_groups):
                end = start + file.metadata.row_group(index).num_rows
                if start < first + count and end > first:
                    yield from self._of_group(file, index, start, range(first, first + count))
                start = end

    def _of_group(self, file: Any, index: int, row: int, wanted: range) -> Iterator[tuple[str, bytes | str | None]]:
        columns = [name for name in (self.id_column, self.photo_column) if name]
        size = _TEXT_ROWS if self.by_url else 1
        for batch in file.iter_batches(size, row_groups=[index], columns=columns, use_threads=False):
            skip = max(0, wanted.start - row)
            part = batch.slice(skip, max(0, wanted.stop - row - skip))
            yield from self._of_batch(part, row + skip)
            row += len(batch)
            if row >= wanted.stop:
                return

    def _of_batch(self, batch: Any, row: int) -> Iterator[tuple[str, bytes | str | None]]:
        photos: Sequence[bytes | str | None]
        if self.by_url:
            photos = _texts(batch.column(self.photo_column), MOST_URL)
        else:
            photos = _bytes(batch.column(self.photo_column))
        ids = _texts(batch.column(self.id_column), ID_BYTES) if self.id_column else [None] * len(photos)
        for number, (image_id, photo) in enumerate(zip(ids, photos, strict=True), start=row):
            own = image_id if self.id_column else photo if self.by_url else row_id(str(self.path), number)
            yield (own if isinstance(own, str) else ""), photo

    def _check(self, group: Any, index: int) -> None:
        """Refuse a row group by what the footer promises, before memory is taken for it."""
        for column in (group.column(number) for number in range(group.num_columns)):
            name = column.path_in_schema.split(".")[0]
            if name not in (self.id_column, self.photo_column):
                continue
            most = _MOST_TEXT if self.by_url or name == self.id_column else _MOST_BYTES
            if not 0 <= max(column.total_uncompressed_size, column.total_compressed_size) <= most:
                raise TableError(
                    f"{self.path}: row group {index + 1} has over {most >> 20} MB in {name}; write smaller row groups"
                )


def is_unit_table(path: Path) -> bool:
    """Whether a Parquet file is a table of image units. Raises TableError where it is no Parquet file."""
    with opened_parquet(path, _WHAT) as file:
        return METADATA_KEY in (file.metadata.metadata or {})


def _holds_text(kind: Any) -> bool:
    types = pyarrow_modules("tables of photos")[0].types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _holds_ids(kind: Any) -> bool:
    return _holds_text(kind) or bool(pyarrow_modules("tables of photos")[0].types.is_integer(kind))


def _holds_bytes(kind: Any) -> bool:
    """Binary, or a structure with `bytes`, as `datasets` writes images."""
    types = pyarrow_modules("tables of photos")[0].types
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _bytes(column: Any) -> list[bytes | None]:
    types = pyarrow_modules("tables of photos")[0].types
    while types.is_struct(column.type):
        column = column.flatten()[column.type.get_field_index("bytes")]
    found: list[bytes | None] = column.to_pylist()
    return found


def _texts(column: Any, most: int) -> list[str | None]:
    """The texts of a column; what is longer than `most` bytes never becomes one."""
    pa, _ = pyarrow_modules("tables of photos")
    if pa.types.is_integer(column.type):
        return [None if number is None else str(number) for number in column.to_pylist()]
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    lengths = pa.compute.binary_length(column.dictionary).to_pylist()
    chosen = column.indices.to_pylist()
    return [
        None if index is None else column.dictionary[index].as_py() if (lengths[index] or 0) <= most else ""
        for index in chosen
    ]
