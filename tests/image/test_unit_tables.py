"""Stored photos: the rows of tables, checked before the first is used; ids never become paths that lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from im2sp.errors import TableError
from im2sp.image.unit_table import UnitTables, is_table, photo_key, write_unit_table
from im2sp.manifest import FileNames
from tests.tiny_bundle import tiny_image_units

HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/../../b",
    "a//b",
    "C:\\x",
    "..\\x",
    "a\0b",
    "a\nb",
    "%2E%2E",
    "a/.",
]


def table(path: Path, ids: list[str], **changes: object) -> Path:
    tokenizer = replace(tiny_image_units(), **changes)
    write_unit_table(path, tokenizer, [(image_id, np.full(18, len(image_id) % 16)) for image_id in ids])
    return path


@pytest.mark.parametrize("image_id", HOSTILE)
def test_ids_stay_below_the_table(image_id: str) -> None:
    key = os.path.abspath(photo_key(Path("/data/units.parquet"), image_id))
    assert key.startswith("/data/units.parquet/")
    names = FileNames()
    for name in [names.name(key, ".wav") for _ in range(2)]:
        assert name.isprintable()
        assert not set(name) & set("/\\:")
        assert name.strip(".") != ""


@given(st.lists(st.text(alphabet="ab./\\%:\0é", min_size=1), unique=True))
def test_every_id_has_a_key_of_its_own(ids: list[str]) -> None:
    keys = {os.path.abspath(photo_key(Path("/t.parquet"), image_id)) for image_id in ids}
    assert len(keys) == len(ids)


def test_usual_ids_stay_readable() -> None:
    assert photo_key(Path("units.parquet"), "train/Käse 1.jpg") == Path("units.parquet/train/Käse 1.jpg")


def test_photos_of_several_tables(tmp_path: Path) -> None:
    first, second = table(tmp_path / "a.parquet", ["x.jpg", "y.jpg"]), table(tmp_path / "b.parquet", ["x.jpg"])
    photos = UnitTables([first, second, first], tiny_image_units())
    assert (photos.survey().count, photos.survey().problems) == (3, ())
    assert [photo.key for photo in photos] == [first / "x.jpg", first / "y.jpg", second / "x.jpg"]
    assert next(iter(photos)).units.units.tolist() == [5] * 18


def test_an_empty_table(tmp_path: Path) -> None:
    survey = UnitTables([table(tmp_path / "a.parquet", [])], tiny_image_units()).survey()
    assert (survey.count, survey.problems) == (0, (f"{tmp_path / 'a.parquet'}: holds no photos",))


def test_other_tokenizers(tmp_path: Path) -> None:
    mine, other = table(tmp_path / "a.parquet", ["x"]), table(tmp_path / "b.parquet", ["x"], checksum="1" * 64)
    with pytest.raises(TableError, match=r"a.parquet and .*b.parquet hold units of different tokenizers"):
        UnitTables([mine, other], tiny_image_units()).survey()
    with pytest.raises(
        TableError, match=r"b.parquet: its image units were made by the tokenizer 'tiny-semantic' .1111"
    ):
        UnitTables([other], tiny_image_units()).survey()


def test_what_is_taken_for_a_table(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    assert is_table(tmp_path / "none.PARQUET")
    assert not is_table(tmp_path / "folder.parquet")
    assert not is_table(tmp_path / "x.jpg")
