"""Dataclasses <-> rows of a Parquet table; lists of numbers are arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from im2sp.files import atomic_write
from im2sp.image.unit_table import METADATA_KEY

ROWS_AT_ONCE = 1024  # in memory while a table is read

T = TypeVar("T")


def write_rows(path: Path, rows: Iterable[object], schema: pa.Schema, description: object = None) -> None:
    """Write objects with an attribute for each column, whole or not at all; `description` goes into the metadata."""
    listed = list(rows)
    columns = {name: [getattr(row, name) for row in listed] for name in schema.names}
    schema = schema.with_metadata({METADATA_KEY: json.dumps(description).encode()})
    with atomic_write(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary, compression="zstd")


def read_rows(path: Path, kind: type[T], schema: pa.Schema) -> Iterator[T]:
    """Read the columns of a schema as keyword arguments of `kind`."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=schema.names):
            columns = (_cells(batch[name]) for name in schema.names)
            for cells in zip(*columns, strict=True):
                yield kind(**dict(zip(schema.names, cells, strict=True)))


def _cells(column: pa.Array) -> Sequence[Any]:
    if not pa.types.is_list(column.type) or not pa.types.is_integer(column.type.value_type):
        cells: list[Any] = column.to_pylist()
        return cells
    values, edges = column.values.to_numpy(), column.offsets.to_numpy()
    return [
        values[edges[row] : edges[row + 1]] if valid else None
        for row, valid in enumerate(column.is_valid().to_pylist())
    ]
