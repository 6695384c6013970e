"""Tables of photos are read row by row, from any row on, whatever they call their columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from im2sp.collections import photo_tables
from im2sp.collections.photo_tables import PhotoTable
from im2sp.errors import TableError
from tests.collections.sources import write_table

URLS = [f"https://example.com/{row}.jpg" for row in range(10)]


def read(path: Path, first: int = 0, count: int = 10) -> list[tuple[str, Any]]:
    return list(PhotoTable.open(path).read(first, count))


@pytest.mark.parametrize("column", ["bytes", "image", "jpg"])
def test_photos_by_their_bytes(tmp_path: Path, column: str) -> None:
    table = write_table(tmp_path / "a.parquet", {"image_id": ["a", "b", "c"], column: [b"1", None, b"3"]})
    assert read(table) == [("a", b"1"), ("b", None), ("c", b"3")]


def test_photos_as_datasets_writes_them(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": b"1", "path": "1.jpg"}, None, {"bytes": None, "path": "3.jpg"}], kind)
    table = write_table(tmp_path / "a.parquet", {"image": images})
    assert read(table) == [("a.parquet/0", b"1"), ("a.parquet/1", None), ("a.parquet/2", None)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_photos_by_url(tmp_path: Path, kind: Any) -> None:
    table = write_table(tmp_path / "a.parquet", {"URL": pa.array(URLS, kind), "caption": ["x"] * 10})
    assert PhotoTable.open(table).by_url
    assert read(table) == [(url, url) for url in URLS]


def test_ids_may_be_numbers_and_bytes_go_before_urls(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.parquet", {"url": ["x"], "key": [42], "jpg": [b"1"]})
    assert read(table) == [("42", b"1")]


@pytest.mark.parametrize("by_url", [True, False])
@pytest.mark.parametrize(("first", "count"), [(0, 3), (2, 4), (5, 5), (9, 1), (3, 0)])
def test_rows_across_row_groups(tmp_path: Path, by_url: bool, first: int, count: int) -> None:
    columns = {"url": URLS} if by_url else {"key": URLS, "bytes": [url.encode() for url in URLS]}
    table = write_table(tmp_path / "a.parquet", columns, row_group_size=3)
    assert [row[0] for row in read(table, first, count)] == URLS[first : first + count]


def test_texts_that_are_too_long(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.parquet", {"key": ["a" * 5_000, "b"], "url": ["https://a.b", "c" * 9_000]})
    assert read(table) == [("", "https://a.b"), ("b", "")]


def test_what_is_no_table_of_photos(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no such file"):
        PhotoTable.open(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no table at all")
    with pytest.raises(TableError, match="is not a Parquet file"):
        PhotoTable.open(tmp_path / "text.parquet")
    with pytest.raises(TableError, match="has no column of photos, which would be one of bytes, image, "):
        PhotoTable.open(write_table(tmp_path / "a.parquet", {"image": ["text"], "url": [b"bytes"]}))


def test_row_groups_that_would_take_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_table(tmp_path / "a.parquet", {"bytes": [bytes(2**20)] * 4})
    monkeypatch.setattr(photo_tables, "_MOST_BYTES", 2**20)
    with pytest.raises(TableError, match="row group 1 has over 1 MB in bytes; write smaller row groups"):
        PhotoTable.open(table)


def test_damage_below_the_footer(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.parquet", {"url": URLS}, row_group_size=5)
    data = bytearray(table.read_bytes())
    data[4:40] = bytes(36)
    table.write_bytes(data)
    with pytest.raises(TableError, match="is damaged or no table of photos"):
        read(table)
