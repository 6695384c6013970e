"""Tables of image units: there and back, in row groups; everything wrong with one is one sentence."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from im2sp.bundle import ImageTokenizer
from im2sp.errors import Im2SpError, TableError
from im2sp.image import unit_table
from im2sp.image.unit_table import (
    METADATA_KEY,
    UnitTable,
    UnitTables,
    photo_key,
    write_unit_table,
)
from tests.tiny_bundle import tiny_image_units

TOKENIZER = ImageTokenizer(**tiny_image_units().described())
UNITS = 18
UINT16_LISTS = pa.list_(pa.uint16())


def rows(count: int = 5) -> list[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [(f"train/{number}.jpg", random.integers(0, 16, UNITS)) for number in range(count)]


def lists() -> list[Any]:
    return [units.tolist() for _, units in rows()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_unit_table(tmp_path / "units.parquet", TOKENIZER, rows())
    return tmp_path / "units.parquet"


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(Im2SpError) as caught:
        call()
    words = str(caught.value)
    assert words
    assert "\n" not in words
    assert not words.endswith(".")
    return words


def refusal(path: Path) -> str:
    """Return the sentence about a table that is opened and read."""
    words = sentence(lambda: UnitTable.open(path).check())
    assert str(path) in words
    return words


def rewrite(path: Path, description: dict[str, object] | None = None, **columns: pa.Array | None) -> Path:
    """Write the table with other columns (None: without it) or another description."""
    old = pq.read_table(path)
    arrays = {name: old[name] for name in old.column_names} | columns
    new = pa.table({name: values for name, values in arrays.items() if values is not None})
    known = json.loads(old.schema.metadata[METADATA_KEY])
    pq.write_table(new.replace_schema_metadata({METADATA_KEY: json.dumps(known | (description or {}))}), path)
    return path


# ---- there and back ----


def test_a_table_comes_back(table: Path) -> None:
    found = UnitTable.open(table)
    assert (found.tokenizer, found.rows) == (TOKENIZER, 5)
    found.check()
    for (image_id, units), (expected_id, expected) in zip(found, rows(), strict=True):
        assert (image_id, units.units.tolist(), units.tokenizer) == (expected_id, expected.tolist(), TOKENIZER)
        assert units.units.dtype == np.int64
    ids, batch = next(found.batches())
    assert (len(ids), batch.shape) == (5, (5, UNITS))


def test_other_libraries_read_it(table: Path, tmp_path: Path) -> None:
    plain = pq.read_table(table)
    assert plain.schema.field("image_id").type == pa.string()
    assert plain.schema.field("image_units").type.value_type == pa.uint16()
    assert plain["image_units"].to_pylist() == lists()
    described = json.loads(plain.schema.metadata[METADATA_KEY])
    assert described == {"format_version": 1, **json.loads(msgspec.json.encode(TOKENIZER))}
    loaded = datasets.Dataset.from_parquet(str(table), cache_dir=str(tmp_path / "cache"))
    assert loaded[3] == {"image_id": "train/3.jpg", "image_units": lists()[3]}


@pytest.mark.parametrize("count", [0, 95])
def test_rows_are_written_as_they_come(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_table, "ROW_GROUP_ROWS", 10)
    path = tmp_path / "units.parquet"
    assert write_unit_table(path, TOKENIZER, iter(rows(count))) == count
    metadata = pq.read_metadata(path)
    sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert sizes == ([10] * 9 + [5] if count else [])
    UnitTable.open(path).check()
    assert [image_id for image_id, _ in UnitTable.open(path)] == [name for name, _ in rows(count)]


# ---- what is wrong with a table ----


def changed(row: int, place: int, unit: int | None) -> list[Any]:
    found = lists()
    found[row][place] = unit
    return found


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image_units": pa.array(changed(3, 7, 16), UINT16_LISTS)}, "row 4 ('train/3.jpg') has image units out"),
        ({"image_units": pa.array(changed(0, 0, -1), pa.list_(pa.int32()))}, "('train/0.jpg') has image units outside"),
        ({"image_units": pa.array(changed(4, 0, None), UINT16_LISTS)}, "has not the 18 image units of a grid"),
        ({"image_units": pa.array([*lists()[:4], None], UINT16_LISTS)}, "row 5 ('train/4.jpg') or one behind"),
        ({"image_units": None}, "has no single column image_units"),
        ({"image_id": pa.array(range(5))}, "its column image_id is int64, not string"),
        ({"image_units": pa.array(["x"] * 5)}, "its column image_units is string, not list<uint16>"),
        ({"image_id": pa.array(["a", "b", "c", "b", "a"])}, "has two rows of the photo 'b'"),
        ({"image_id": pa.array(["a", "b", None, "d", "e"])}, "has no image_id"),
        ({"image_id": pa.array(["a", "", "c", "d", "e"])}, "is empty or longer than 4096 bytes"),
        ({"image_id": pa.array(["a", "b", "c", "d", "e" * 4_097])}, "is empty or longer than 4096 bytes"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be(table: Path, columns: dict[str, pa.Array | None], reason: str) -> None:
    assert reason in refusal(rewrite(table, **columns))


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ([18, 18, 17, 18, 18], "row 3 ('train/2.jpg')"),
        ([18, 18, 18, 18, 19], "row 5 ('train/4.jpg')"),
    ],
)
def test_the_wrong_number_of_units(table: Path, lengths: list[int], reason: str) -> None:
    rewrite(table, image_units=pa.array([[1] * length for length in lengths], UINT16_LISTS))
    words = refusal(table)
    assert reason in words
    assert "3 x 3 cells with 2 each" in words


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "has format version 2 but this im2sp reads 1: upgrade im2sp"),
        ({"checksum": "x"}, "checksum"),
        ({"grid": [60_000, 60_000]}, "65536 are the most"),
        ({"codebook_size": 10**9}, "codebook_size"),
        ({"grid": [2, 3]}, "has not the 12 image units"),
        ({"grid": [3, 4]}, "row 1 ('train/0.jpg') or one behind it has not the 24"),
        ({"codebook_size": 8}, "outside of their codebooks"),
    ],
)
def test_a_description_that_does_not_fit(table: Path, changes: dict[str, object], reason: str) -> None:
    assert reason in refusal(rewrite(table, changes))


@pytest.mark.parametrize("text", [None, b"[]", b"[" * 100_000, b"\xff"])
def test_a_description_that_is_none(table: Path, text: bytes | None) -> None:
    metadata = None if text is None else {METADATA_KEY: text}
    pq.write_table(pq.read_table(table).replace_schema_metadata(metadata), table)
    reason = "does not say which tokenizer made its units" if text is None else "about its tokenizer is not valid"
    assert reason in refusal(table)


def test_a_table_that_is_damaged(table: Path) -> None:
    whole = table.read_bytes()
    for size in range(0, len(whole), 37):
        table.write_bytes(whole[:size])
        assert re.search("is cut short|is not a Parquet file", refusal(table))
    for place in np.random.default_rng(0).integers(4, len(whole) - 8, 60).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        table.write_bytes(damaged)
        with suppress(TableError):  # or it was a byte of an id, say
            for ids, units in UnitTable.open(table).batches():
                assert units.shape == (len(ids), UNITS)


def test_what_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for data in (b"", b"PAR1", b"PAR1PAR1", b"not a table", b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"):
        path.write_bytes(data)
        refusal(path)
    assert "there is no such file" in refusal(tmp_path / "none.parquet")
    assert "is no ordinary file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no ordinary file" in refusal(tmp_path / "pipe")


def test_a_row_group_that_would_take_too_much_memory(table: Path) -> None:
    count = 2**20 + 1
    units = pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.uint16()))
    many = pa.table({"image_id": pa.array(["x"]).take(pa.array(np.zeros(count, np.int32))), "image_units": units})
    metadata = pq.read_table(table).schema.metadata
    pq.write_table(many.replace_schema_metadata(metadata), table, row_group_size=count)
    assert "has row groups of over 932067 rows" in refusal(table)


# ---- what cannot be written ----


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("x", np.full(UNITS, 16)), "the image unit 16 is not one of 0..15"),
        (("x", np.zeros(UNITS + 1, np.int64)), "are 18 integers"),
        (("", np.zeros(UNITS, np.int64)), "is empty or longer than 4096 bytes"),
        (("é" * 2_049, np.zeros(UNITS, np.int64)), "is empty or longer than 4096 bytes"),
        (rows()[2], "has two rows of the photo 'train/2.jpg'"),
    ],
)
def test_rows_that_cannot_be_written(tmp_path: Path, row: tuple[str, np.ndarray], reason: str) -> None:
    words = sentence(lambda: write_unit_table(tmp_path / "x.parquet", TOKENIZER, [*rows(), row]))
    assert reason in words
    assert str(tmp_path / "x.parquet") in words
    assert os.listdir(tmp_path) == []


# ---- the photos of several tables ----


def write_ids(path: Path, ids: list[str], **changes: object) -> Path:
    tokenizer = replace(tiny_image_units(), **changes)
    write_unit_table(path, tokenizer, [(image_id, np.full(18, len(image_id) % 16)) for image_id in ids])
    return path


def test_photos_of_several_tables(tmp_path: Path) -> None:
    first, second = write_ids(tmp_path / "a.parquet", ["x.jpg", "y.jpg"]), write_ids(tmp_path / "b.parquet", ["x.jpg"])
    photos = UnitTables([first, second, first], tiny_image_units())
    assert (photos.survey().count, photos.survey().problems) == (3, ())
    assert [photo.key for photo in photos] == [first / "x.jpg", first / "y.jpg", second / "x.jpg"]
    assert next(iter(photos)).units.units.tolist() == [5] * 18
    empty = write_ids(tmp_path / "c.parquet", [])
    assert UnitTables([empty], tiny_image_units()).survey().problems == (f"{empty}: holds no photos",)
    other = write_ids(tmp_path / "d.parquet", ["x"], checksum="1" * 64)
    with pytest.raises(TableError, match=r"d.parquet: its image units were made by .* .1111"):
        UnitTables([first, other], tiny_image_units()).survey()


@given(st.lists(st.text(alphabet="ab./\\%:\0é", min_size=1), unique=True))
def test_every_id_has_a_key_of_its_own(ids: list[str]) -> None:
    keys = {os.path.abspath(photo_key(Path("/t.parquet"), image_id)) for image_id in ids}
    assert len(keys) == len(ids)
    assert photo_key(Path("units.parquet"), "train/Käse 1.jpg") == Path("units.parquet/train/Käse 1.jpg")
