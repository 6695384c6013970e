"""Parquet files from outside, opened with limits: what the footer may take is checked before it is read.

The only place of the runtime that imports pyarrow, and only when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from im2sp.errors import Im2SpError, TableError, reason
from im2sp.installing import install_command

_MOST_NAMES, _MOST_STRING = 2**20, 2**28  # of a list and of a string in a footer
_MOST_FOOTER = 2**26  # bytes; the footer of some hundred thousand row groups
_MAGIC = b"PAR1"  # at both ends of a Parquet file


def pyarrow_modules(what: str, extra: str = "units") -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises Im2SpError, with what to install, where `what` cannot do without them."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise Im2SpError(f"{what} need {error.name}: {install_command(extra)}") from error
    return pyarrow, pyarrow.parquet


@contextmanager
def opened_parquet(path: Path, what: str, **options: Any) -> Iterator[Any]:
    """A pyarrow ParquetFile of `path`, which should be a `what` ("table of image units").

    What pyarrow raises within the block becomes a TableError, as everything is that is wrong with the file itself.
    """
    pa, pq = pyarrow_modules(what.replace("table", "tables", 1))
    _check_ends(path)
    try:
        with pq.ParquetFile(
            path,
            pre_buffer=False,
            thrift_string_size_limit=_MOST_STRING,
            thrift_container_size_limit=_MOST_NAMES,
            **options,
        ) as file:
            yield file
    except Im2SpError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError, OverflowError, MemoryError) as error:
        raise TableError(f"{path}: is damaged or no {what} ({reason(error)}); make it again") from error


def check_row_groups(path: Path, metadata: Any, limits: dict[str, int]) -> None:
    """Refuse row groups by the bytes that their columns promise ({name: most}), before memory is taken for them."""
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema.split(".")[0]
            size = max(column.total_uncompressed_size, column.total_compressed_size)
            if name in limits and not 0 <= size <= limits[name]:
                most = f"{limits[name] >> 20} MB in {name}"
                raise TableError(f"{path}: row group {index + 1} has over {most}; write smaller row groups")


def _check_ends(path: Path) -> None:
    try:
        if not path.is_file():
            raise TableError(f"{path}: {'is no ordinary file' if path.exists() else 'there is no such file'}")
        with path.open("rb") as file:
            start, size = file.read(len(_MAGIC)), path.stat().st_size
            file.seek(max(0, size - 8))
            end = file.read(8)
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({reason(error)})") from error
    if start != _MAGIC:
        raise TableError(f"{path}: is not a Parquet file")
    footer = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or footer + 12 > size:
        raise TableError(f"{path}: is cut short; the file ends before the table does, so make it again")
    if footer > _MOST_FOOTER:
        raise TableError(f"{path}: has a footer of {footer >> 20} MB, which is refused; make it again")
