"""Tables of image units: Parquet files with one row a photo, written and read row group by row group.

Columns: `image_id` string, unique, and `image_units` list<uint16>. The file's metadata describes the tokenizer. Tables
come from outside and are not trusted: what the footer promises is checked before memory is taken for a row group, and
every row is checked before it is yielded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from im2sp.arrays import IntArray
from im2sp.bundle import ImageTokenizer
from im2sp.errors import ImageError, TableError, reason
from im2sp.files import atomic_write
from im2sp.image.finding import Survey
from im2sp.image.units import ImageUnits, layout, other_tokenizer
from im2sp.parquet import check_row_groups, opened_parquet, pyarrow_modules
from im2sp.schema import parse

SUFFIX = ".parquet"
METADATA_KEY = b"im2sp"
TABLE_VERSION = 1
ID_BYTES = 4_096  # of an image id, as the longest path of a file system

ROW_GROUP_UNITS, ROW_GROUP_ROWS = 2**20, 2**14  # of the row groups that are written: some megabytes in memory
_MOST_ROWS, _MOST_UNITS, _MOST_BYTES = 2**20, 2**24, 2**28  # of a row group that is read
_MOST_METADATA = 2**16  # bytes
_BATCH_UNITS, _BATCH_ROWS = 2**18, 1_024  # read at a time
_COLUMNS = ("image_id", "image_units")
_WHAT = "table of image units"
_ID_LENGTH = f"is empty or longer than {ID_BYTES} bytes"
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|%]')  # not allowed in file names of some system; % is the escape


@dataclass(frozen=True)
class UnitTable:
    """A table of image units on disk; iterating reads it. Made by `UnitTable.open`."""

    path: Path
    tokenizer: ImageTokenizer
    rows: int

    @classmethod
    def open(cls, path: Path) -> UnitTable:
        """Read the footer of a table.

        Raises TableError: missing, no Parquet, cut short, without a column, of an unknown kind, too large in a part.
        """
        with opened_parquet(path, _WHAT) as file:
            _check_columns(path, file.schema_arrow)
            tokenizer = _tokenizer_of(path, file.metadata.metadata or {})
            check_row_groups(path, file.metadata, dict.fromkeys(_COLUMNS, _MOST_BYTES))
            most = max(1, min(_MOST_ROWS, _MOST_UNITS // tokenizer.units))
            for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
                if not 0 <= group.num_rows <= most:
                    raise TableError(f"{path}: has row groups of over {most} rows; write smaller ones")
            return cls(path, tokenizer, file.metadata.num_rows)

    def batches(self) -> Iterator[tuple[list[str], IntArray]]:
        """Yield image ids and image units int64 [batch, units] of some rows at a time, in order.

        Raises TableError for an invalid row and for a damaged file.
        """
        rows = max(1, min(_BATCH_ROWS, _BATCH_UNITS // self.tokenizer.units))
        done = 0
        # As a dictionary, one long id that stands a million times stays one long id in memory.
        with opened_parquet(self.path, _WHAT, read_dictionary=["image_id"]) as file:
            for index in range(file.metadata.num_row_groups):
                groups = file.iter_batches(rows, row_groups=[index], columns=list(_COLUMNS), use_threads=False)
                for batch in groups:
                    ids = read_ids(self.path, done, batch.column("image_id"))
                    yield ids, self._units(done, ids, batch.column("image_units"))
                    done += len(ids)
        if done != self.rows:
            raise TableError(f"{self.path}: has {done} rows where its footer promises {self.rows}; make it again")

    def __iter__(self) -> Iterator[tuple[str, ImageUnits]]:
        """Yield image id and image units of every row. Raises the errors of `batches`."""
        for ids, units in self.batches():
            for image_id, row in zip(ids, units, strict=True):
                yield image_id, ImageUnits(row, self.tokenizer)

    def check(self) -> None:
        """Read every row once. Raises TableError for an invalid row, and for an image id that stands twice."""
        seen: set[int] = set()
        for ids, _ in self.batches():
            _refuse_repeated(self.path, ids, seen)

    def _units(self, first: int, ids: list[str], column: Any) -> IntArray:
        """Return the units int64 [rows, units] of rows from number `first` on."""
        wanted, values = self.tokenizer.units, column.flatten()
        pa, _ = _pyarrow()
        lengths = pa.compute.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
        if values.null_count or (lengths != wanted).any():
            where = int(np.argmax(lengths != wanted))
            what = f"row {first + where + 1} ({_shown(ids[where])}) or one behind it"
            raise TableError(f"{self.path}: {what} has not the {wanted} image units of {layout(self.tokenizer)}")
        units: IntArray = values.to_numpy(zero_copy_only=False).reshape(len(ids), wanted).astype(np.int64)
        outside = ((units < 0) | (units >= np.array(self.tokenizer.codebook_sizes))).any(axis=1)
        if outside.any():
            where = int(np.argmax(outside))
            what = f"row {first + where + 1} ({_shown(ids[where])})"
            raise TableError(f"{self.path}: {what} has image units outside of their codebooks; tokenize it again")
        return units


@dataclass(frozen=True)
class StoredPhoto:
    """One row of a table."""

    key: Path  # stands for the photo in the manifest: path of the table and image id, as if in a folder
    units: ImageUnits


@dataclass(frozen=True)
class UnitTables:
    """The photos of some tables, for a bundle that reads the units of `tokenizer`. Iterating reads the tables anew."""

    sources: Sequence[Path]
    tokenizer: ImageTokenizer

    def survey(self) -> Survey:
        """Read and count every row, so that nothing is begun with a table that is invalid far below.

        Raises TableError for a table that cannot be read, or whose units another tokenizer made.
        """
        for table in self.tables:
            table.check()
        empty = tuple(f"{table.path}: holds no photos" for table in self.tables if not table.rows)
        return Survey(sum(table.rows for table in self.tables), empty)

    def __iter__(self) -> Iterator[StoredPhoto]:
        """Yield photos in the order of the tables and of their rows. Raises TableError."""
        for table in self.tables:
            for image_id, units in table:
                yield StoredPhoto(photo_key(table.path, image_id), units)

    @cached_property
    def tables(self) -> list[UnitTable]:
        """The tables, each once. Raises TableError."""
        once = {os.path.abspath(source): source for source in self.sources}
        tables = [UnitTable.open(source) for source in once.values()]
        for table in tables:
            if not table.tokenizer.makes_the_units_of(self.tokenizer):
                raise TableError(f"{table.path}: {other_tokenizer('its image units', table.tokenizer, self.tokenizer)}")
        return tables


def is_table(path: Path) -> bool:
    """Return whether a path is to be read as a Parquet table."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def photo_key(table: Path, image_id: str) -> Path:
    """Return a path below `table` for any image id: different for each, and never outside."""
    return table.joinpath(*map(_part, image_id.split("/")))


def _part(part: str) -> str:
    if part.strip(".") == "":  # "", ".", ".."
        return part.replace(".", "%2E") or "%"
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", part)


def write_unit_table(path: Path, tokenizer: ImageTokenizer, rows: Iterable[tuple[str, IntArray]]) -> int:
    """Write (image id, image units [units]) of photos as a table, whole or not at all; return the number of rows.

    Rows are consumed as they are written. BYTE_STREAM_SPLIT with zstd came out smallest (docs/image-units.md).

    Raises TableError for an id that is empty, too long or there twice, ImageError for units that the tokenizer cannot
    have made, Im2SpError where pyarrow is missing.
    """
    pa, pq = _pyarrow()
    unit = pa.field("element", pa.uint16(), nullable=False)
    columns = [("image_id", pa.string()), ("image_units", pa.list_(unit))]
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns]
    description = {"format_version": TABLE_VERSION, **tokenizer.described()}
    schema = pa.schema(fields, metadata={METADATA_KEY: json.dumps(description).encode()})
    encoding = {"image_id": "PLAIN", "image_units.list.element": "BYTE_STREAM_SPLIT"}
    settings = {"compression": "zstd", "use_dictionary": False, "column_encoding": encoding, "write_statistics": False}
    seen: set[int] = set()
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema, **settings) as writer:
        for ids, units in _row_groups(path, tokenizer, rows):
            _refuse_repeated(path, ids, seen)
            offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * tokenizer.units)
            lists = pa.ListArray.from_arrays(offsets, pa.array(units.reshape(-1)), type=pa.list_(unit))
            table = pa.Table.from_arrays([pa.array(ids, pa.string()), lists], schema=schema)
            writer.write_table(table, row_group_size=len(ids))
    return len(seen)


def check_id(path: Path, image_id: str) -> None:
    """Raise TableError for an image id that the table `path` cannot hold."""
    if not 0 < len(image_id.encode("utf-8", "surrogatepass")) <= ID_BYTES:
        raise TableError(f"{path}: the image id {_shown(image_id)} {_ID_LENGTH}")


def _row_groups(
    path: Path, tokenizer: ImageTokenizer, rows: Iterable[tuple[str, IntArray]]
) -> Iterator[tuple[list[str], np.ndarray[Any, np.dtype[np.uint16]]]]:
    """Check rows and collect them to row groups: image ids, and units uint16 [rows, units]."""
    most = max(1, min(ROW_GROUP_ROWS, ROW_GROUP_UNITS // tokenizer.units))
    ids: list[str] = []
    units = np.empty((most, tokenizer.units), dtype=np.uint16)
    for image_id, row in rows:
        try:
            units[len(ids)] = ImageUnits(row, tokenizer).units
        except ImageError as error:
            raise ImageError(f"{path}: {_shown(image_id)} cannot be stored: {error}") from error
        check_id(path, image_id)
        ids.append(image_id)
        if len(ids) == most:
            yield ids, units
            ids = []
    if ids:
        yield ids, units[: len(ids)]


class _Description(ImageTokenizer, frozen=True, kw_only=True):
    """The JSON in the metadata of a table."""

    format_version: int


def _pyarrow() -> tuple[Any, Any]:
    return pyarrow_modules("tables of image units")


def _check_columns(path: Path, schema: Any) -> None:
    pa, _ = _pyarrow()
    if missing := [name for name in _COLUMNS if schema.names.count(name) != 1]:
        raise TableError(f"{path}: has no single column {missing[0]}; a table of image units has {', '.join(_COLUMNS)}")
    ids, units = (schema.field(name).type for name in _COLUMNS)
    ids = ids.value_type if pa.types.is_dictionary(ids) else ids
    if not (pa.types.is_string(ids) or pa.types.is_large_string(ids)):
        raise TableError(f"{path}: its column image_id is {ids}, not string")
    is_list = pa.types.is_list(units) or pa.types.is_large_list(units) or pa.types.is_fixed_size_list(units)
    if not is_list or not pa.types.is_integer(units.value_type):
        raise TableError(f"{path}: its column image_units is {units}, not list<uint16>")


def _tokenizer_of(path: Path, metadata: dict[bytes, bytes]) -> ImageTokenizer:
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise TableError(f"{path}: does not say which tokenizer made its units; im2sp tokenize writes tables that do")
    try:
        if len(text) > _MOST_METADATA:
            raise ValueError("it is too long")
        found = parse(text, _Description)
    except ValueError as error:
        raise TableError(f"{path}: what it says about its tokenizer is not valid ({reason(error)})") from error
    if found.format_version > TABLE_VERSION:
        version = f"{found.format_version} but this im2sp reads {TABLE_VERSION}"
        raise TableError(f"{path}: has format version {version}: upgrade im2sp")
    return ImageTokenizer(**found.described())


def read_ids(path: Path, first: int, column: Any) -> list[str]:
    """Return the image ids of rows from number `first` on; none is empty or too long."""
    pa, _ = _pyarrow()
    if column.null_count:
        raise TableError(f"{path}: a row from {first + 1} on has no image_id; make the table again")
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    strings = column.dictionary if pa.types.is_dictionary(column.type) else column
    shortest, longest = (each.as_py() for each in pa.compute.min_max(pa.compute.binary_length(strings)).values())
    if len(strings) and not 0 < shortest <= longest <= ID_BYTES:  # known before the strings are made
        raise TableError(f"{path}: an image_id of the rows from {first + 1} on {_ID_LENGTH}")
    ids: list[str] = column.to_pylist()
    return ids


def _refuse_repeated(path: Path, ids: list[str], seen: set[int]) -> None:
    """Raise TableError for an id that is in `seen`; add the others.

    Hashes of 64 bits are kept, not ids, which may be long: two of ten million agree by chance in a table of 400,000.
    """
    for image_id in ids:
        if hash(image_id) in seen:
            raise TableError(f"{path}: has two rows of the photo {_shown(image_id)}")
        seen.add(hash(image_id))


def _shown(image_id: str) -> str:
    return repr(image_id if len(image_id) <= 100 else f"{image_id[:100]}...")
