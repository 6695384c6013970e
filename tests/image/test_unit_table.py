"""Tables of image units: there and back, in row groups; everything wrong with one is one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import datasets
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from im2sp.bundle import ImageTokenizer
from im2sp.errors import Im2SpError, TableError
from im2sp.image import unit_table
from im2sp.image.unit_table import METADATA_KEY, ROW_GROUP_ROWS, UnitTable, write_unit_table
from tests.tiny_bundle import tiny_image_units

TOKENIZER = ImageTokenizer(**tiny_image_units().described())
UNITS = 18


def rows(count: int = 5) -> list[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [(f"train/{number}.jpg", random.integers(0, 16, UNITS)) for number in range(count)]


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
    """The sentence about a table that is opened and read."""
    words = sentence(lambda: UnitTable.open(path).check())
    assert str(path) in words
    return words


def rewrite(path: Path, description: dict[str, object] | None = None, **columns: pa.Array) -> Path:
    """The table with other columns (None: without it) or another description."""
    old = pq.read_table(path)
    arrays = {name: old[name] for name in old.column_names} | columns
    new = pa.table({name: values for name, values in arrays.items() if values is not None})
    known = json.loads(old.schema.metadata[METADATA_KEY])
    text = json.dumps(known | (description or {}))
    pq.write_table(new.replace_schema_metadata({METADATA_KEY: text}), path)
    return path


# ---- there and back ----


def test_a_table_comes_back(table: Path) -> None:
    found = UnitTable.open(table)
    assert (found.tokenizer, found.rows) == (TOKENIZER, 5)
    found.check()
    read = list(found)
    assert [image_id for image_id, _ in read] == [image_id for image_id, _ in rows()]
    for (_, units), (_, expected) in zip(read, rows(), strict=True):
        assert units.units.dtype == np.int64
        assert units.units.tolist() == expected.tolist()
        assert units.tokenizer == TOKENIZER
    ids, units = next(found.batches())
    assert (len(ids), units.shape) == (5, (5, UNITS))


def test_other_libraries_read_it(table: Path, tmp_path: Path) -> None:
    plain = pq.read_table(table)
    assert plain.schema.field("image_id").type == pa.string()
    assert plain.schema.field("image_units").type.value_type == pa.uint16()
    assert plain["image_units"].to_pylist() == [units.tolist() for _, units in rows()]
    described = json.loads(plain.schema.metadata[METADATA_KEY])
    assert described == {"format_version": 1, **json.loads(msgspec.json.encode(TOKENIZER))}
    loaded = datasets.Dataset.from_parquet(str(table), cache_dir=str(tmp_path / "cache"))
    assert loaded[3] == {"image_id": "train/3.jpg", "image_units": rows()[3][1].tolist()}


def test_no_rows(tmp_path: Path) -> None:
    assert write_unit_table(tmp_path / "none.parquet", TOKENIZER, []) == 0
    table = UnitTable.open(tmp_path / "none.parquet")
    table.check()
    assert (table.rows, list(table)) == (0, [])


def test_rows_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_table, "ROW_GROUP_ROWS", 10)
    write_unit_table(tmp_path / "units.parquet", TOKENIZER, iter(rows(95)))
    metadata = pq.read_metadata(tmp_path / "units.parquet")
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [10] * 9 + [5]
    assert [image_id for image_id, _ in UnitTable.open(tmp_path / "units.parquet")] == [name for name, _ in rows(95)]


def test_a_unit_costs_little_more_than_its_bits(tmp_path: Path) -> None:
    tokenizer = replace(TOKENIZER, codebook_size=256, grid=(8, 8), codes=1)
    random = np.random.default_rng(0)
    photos = ((f"{number}", random.integers(0, 256, 64)) for number in range(ROW_GROUP_ROWS))
    write_unit_table(tmp_path / "units.parquet", tokenizer, photos)
    group = pq.read_metadata(tmp_path / "units.parquet").row_group(0)
    assert group.column(1).total_compressed_size < 1.01 * 64 * group.num_rows


# ---- what is wrong with a table ----


@pytest.mark.parametrize("kind", [pa.large_list(pa.int64()), pa.list_(pa.uint16(), UNITS), pa.list_(pa.uint8())])
def test_other_types_of_lists_are_read(table: Path, kind: pa.DataType) -> None:
    rewrite(table, image_units=pq.read_table(table)["image_units"].cast(kind))
    UnitTable.open(table).check()
    assert [units.units.tolist() for _, units in UnitTable.open(table)] == [units.tolist() for _, units in rows()]


@pytest.mark.parametrize("unit", [16, 65_535])
def test_a_unit_out_of_range(table: Path, unit: int) -> None:
    lists = [units.tolist() for _, units in rows()]
    lists[3][7] = unit
    rewrite(table, image_units=pa.array(lists, pa.list_(pa.uint16())))
    assert f"row 4 ('train/3.jpg') has the image unit {unit}, which is not one of 0..15" in refusal(table)


def test_a_negative_unit(table: Path) -> None:
    rewrite(table, image_units=pa.array([[-1] * UNITS] * 5, pa.list_(pa.int32())))
    assert "row 1 ('train/0.jpg') has the image unit -1" in refusal(table)


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ([18, 18, 17, 18, 18], "row 3 ('train/2.jpg') has 17 image units"),
        ([18, 0, 18, 18, 18], "row 2 ('train/1.jpg') has 0 image units"),
        ([18, 18, 18, 17, 19], "row 4 ('train/3.jpg') has 17 image units"),
        ([18, 18, 18, 18, 19], "row group 1 has 91 image units for 5 photos"),
        ([10_000] * 5, "row group 1 has 50000 image units for 5 photos"),
    ],
)
def test_the_wrong_number_of_units(table: Path, lengths: list[int], reason: str) -> None:
    rewrite(table, image_units=pa.array([[1] * length for length in lengths], pa.list_(pa.uint16())))
    words = refusal(table)
    assert reason in words
    assert "3 x 3 cells with 2 each" in words


def test_units_that_are_missing(table: Path) -> None:
    lists = [units.tolist() for _, units in rows()]
    rewrite(table, image_units=pa.array([*lists[:4], None], pa.list_(pa.uint16())))
    assert "row 5 ('train/4.jpg') has 0 image units" in refusal(table)
    rewrite(table, image_units=pa.array([*lists[:4], [None, *lists[4][1:]]], pa.list_(pa.uint16())))
    assert "an image unit of the rows from 1 on is missing" in refusal(table)


@pytest.mark.parametrize("column", ["image_id", "image_units"])
def test_a_column_that_is_missing(table: Path, column: str) -> None:
    rewrite(table, **{column: None})
    assert f"has no single column {column}" in refusal(table)


def test_columns_of_other_types(table: Path) -> None:
    rewrite(table, image_id=pa.array(range(5)))
    assert "its column image_id is int64, not string" in refusal(table)
    rewrite(table, image_id=pa.array("abcde"), image_units=pa.array(["x"] * 5))
    assert "its column image_units is string, not list<uint16>" in refusal(table)


def test_more_columns_are_passed_over(table: Path) -> None:
    rewrite(table, notes=pa.array(["x"] * 5))
    UnitTable.open(table).check()


def test_a_photo_that_is_there_twice(table: Path, tmp_path: Path) -> None:
    rewrite(table, image_id=pa.array(["a", "b", "c", "b", "a"]))
    assert "has two rows of the photo 'b'" in refusal(table)
    words = sentence(lambda: write_unit_table(tmp_path / "new.parquet", TOKENIZER, [*rows(), rows()[2]]))
    assert words == f"{tmp_path / 'new.parquet'}: has two rows of the photo 'train/2.jpg'"
    assert os.listdir(tmp_path) == ["units.parquet"]


@pytest.mark.parametrize(
    "ids", [["a", "b", None, "d", "e"], ["a", "", "c", "d", "e"], ["a", "b", "c", "d", "e" * 4_097]]
)
def test_ids_that_cannot_be(table: Path, ids: list[str | None]) -> None:
    rewrite(table, image_id=pa.array(ids))
    assert re.search("has no image_id|is empty or longer than 4096 bytes", refusal(table))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "has format version 2 but this im2sp reads 1: upgrade im2sp"),
        ({"checksum": "x"}, "checksum"),
        ({"grid": [3]}, "grid"),
        ({"grid": [60_000, 60_000]}, "65536 are the most"),
        ({"codebook_size": 10**9}, "codebook_size"),
        ({"more": 1}, "more"),
        ({"grid": [2, 3]}, "row group 1 has 90 image units for 5 photos"),
        ({"grid": [3, 4]}, "row 1 ('train/0.jpg') has 18 image units"),
        ({"codebook_size": 8}, "which is not one of 0..7"),
    ],
)
def test_a_description_that_does_not_fit(table: Path, changes: dict[str, object], reason: str) -> None:
    assert reason in refusal(rewrite(table, changes))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"[" * 100_000, b"\xff"])
def test_a_description_that_is_none(table: Path, text: bytes) -> None:
    pq.write_table(pq.read_table(table).replace_schema_metadata({METADATA_KEY: text}), table)
    assert "what it says about its tokenizer is not valid" in refusal(table)
    pq.write_table(pq.read_table(table).replace_schema_metadata(None), table)
    assert "does not say which tokenizer made its units" in refusal(table)


def test_a_table_that_is_cut_short(table: Path) -> None:
    whole = table.read_bytes()
    for size in range(0, len(whole), 37):
        table.write_bytes(whole[:size])
        assert re.search("is cut short|is not a Parquet file", refusal(table))


def test_a_table_that_is_damaged(table: Path) -> None:
    whole = bytearray(table.read_bytes())
    random = np.random.default_rng(0)
    for place in random.integers(4, len(whole) - 8, 60).tolist():
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        table.write_bytes(damaged)
        with suppress(TableError):  # or it was a byte of an id, say
            for ids, units in UnitTable.open(table).batches():
                assert units.shape == (len(ids), UNITS)


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1PAR1", b"not a table", b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"]
)
def test_what_is_no_table(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(data)
    refusal(path)


def test_what_is_no_file(tmp_path: Path) -> None:
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
    assert "row group 1 has 1048577 rows where 932067 are the most" in refusal(table)


def test_a_long_id_that_is_repeated_takes_no_memory(table: Path) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5_000, np.int32)), pa.array(["x" * 10**6]))
    units = pa.array([[1] * UNITS] * 5_000, pa.list_(pa.uint16()))
    metadata = {METADATA_KEY: pq.read_table(table).schema.metadata[METADATA_KEY]}
    pq.write_table(pa.table({"image_id": ids, "image_units": units}).replace_schema_metadata(metadata), table)
    assert "is empty or longer than 4096 bytes" in refusal(table)


# ---- what cannot be written ----


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("x", np.full(UNITS, 16)), "the image unit 16 is not one of 0..15"),
        (("x", np.zeros(UNITS + 1, np.int64)), "are 18 integers"),
        (("", np.zeros(UNITS, np.int64)), "is empty or longer than 4096 bytes"),
        (("é" * 2_049, np.zeros(UNITS, np.int64)), "is empty or longer than 4096 bytes"),
    ],
)
def test_rows_that_cannot_be_written(tmp_path: Path, row: tuple[str, np.ndarray], reason: str) -> None:
    words = sentence(lambda: write_unit_table(tmp_path / "x.parquet", TOKENIZER, [*rows(), row]))
    assert reason in words
    assert str(tmp_path / "x.parquet") in words
    assert os.listdir(tmp_path) == []


def test_a_stop_leaves_nothing(table: Path) -> None:
    before = table.read_bytes()

    def stopped() -> Iterator[tuple[str, np.ndarray]]:
        yield from rows(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_unit_table(table, TOKENIZER, stopped())
    assert table.read_bytes() == before
    assert os.listdir(table.parent) == ["units.parquet"]


def test_without_pyarrow(table: Path) -> None:
    code = f"""
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from im2sp.errors import Im2SpError
from im2sp.image.unit_table import UnitTable
try:
    UnitTable.open(Path({str(table)!r}))
except Im2SpError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "tables of image units need pyarrow: pip install 'im2sp[units]'\n"
