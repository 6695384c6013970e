"""The same sources give the same shards, and each photo is in one of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from im2sp.collections.planning import Reading, plan_shards
from im2sp.collections.slices import PhotoFiles, Slice, TableRows, UnitRows, WholeTar, from_json, read_whole, to_json
from im2sp.errors import Im2SpError, TableError
from im2sp.image.unit_table import write_unit_table
from tests.collections.sources import picture, write_photos, write_table, write_tar
from tests.tiny_bundle import tiny_image_units

TOKENIZER = tiny_image_units()


def ids(piece: Slice) -> list[str]:
    return [photo.image_id for photo in read_whole(piece)]


def test_a_folder_of_photos(tmp_path: Path) -> None:
    plan = plan_shards([write_photos(tmp_path / "in", 5)], Reading(shard=2))
    assert plan.photos == 5
    assert [ids(piece) for piece in plan.slices] == [["00.png", "01.png"], ["02.png", "03.png"], ["04.png"]]
    assert plan.problems == ()


def test_names_that_are_no_text_travel_as_they_are(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(picture(0))
    (piece,) = plan_shards([tmp_path], Reading()).slices
    assert from_json(to_json(piece)) == piece
    assert ids(from_json(to_json(piece))) == ["caf\\xe9.png"]


def test_tables_and_tars_by_name_or_in_a_folder(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "b.tar", {"1.png": picture(0), "2.png": picture(1)})
    table = write_table(tmp_path / "a.parquet", {"key": ["x", "y", "z"], "bytes": [b"1"] * 3})
    (tmp_path / ".hidden.tar").touch()
    expected = [TableRows(str(table), 0, 2), TableRows(str(table), 2, 1), WholeTar(str(tar))]
    for sources in ([tmp_path], [table, tar], [tmp_path, tar]):
        plan = plan_shards(sources, Reading(shard=2))
        assert list(plan.slices) == expected
        assert plan.photos is None
    assert [ids(piece) for piece in expected] == [["x", "y"], ["z"], ["1.png", "2.png"]]
    assert [from_json(to_json(piece)) for piece in expected] == expected


def test_the_digest_tells_which_photos_are_where(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "in", 4)
    digest = plan_shards([folder], Reading(shard=2)).digest
    assert plan_shards([folder], Reading(shard=2)).digest == digest
    assert plan_shards([folder], Reading(shard=3)).digest != digest
    (folder / "new.png").write_bytes(picture(9))
    assert plan_shards([folder], Reading(shard=2)).digest != digest


def test_image_units(tmp_path: Path) -> None:
    table = tmp_path / "units.parquet"
    units = np.zeros(TOKENIZER.units, np.int64)
    write_unit_table(table, TOKENIZER, ((name, units) for name in "abcde"))
    plan = plan_shards([table], Reading(shard=2, tokenizer=TOKENIZER))
    assert [type(piece) for piece in plan.slices] == [UnitRows] * 3
    assert [ids(piece) for piece in plan.slices] == [["a", "b"], ["c", "d"], ["e"]]
    with pytest.raises(TableError, match="holds image units; what is asked for here is photos"):
        plan_shards([table], Reading())
    with pytest.raises(TableError, match="were made by the tokenizer"):
        plan_shards([table], Reading(tokenizer=tiny_image_units("1" * 64)))


def test_urls_only_when_asked_for(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.parquet", {"url": ["https://example.com/a.jpg"]})
    with pytest.raises(TableError, match=r"names photos by URL \(column url\); give --fetch-urls"):
        plan_shards([table], Reading())
    assert plan_shards([table], Reading(fetch=True)).slices == (TableRows(str(table), 0, 1),)


def test_sources_that_cannot_be_meant(tmp_path: Path) -> None:
    mixed = write_photos(tmp_path / "mixed", 1)
    write_tar(mixed / "a.tar", {})
    with pytest.raises(Im2SpError, match=r"holds photos and also a\.tar; name the files that are meant"):
        plan_shards([mixed], Reading())
    with pytest.raises(Im2SpError, match="there is no such file"):
        plan_shards([tmp_path / "none.tar"], Reading())
    one, two = write_photos(tmp_path / "one", 1), write_photos(tmp_path / "two", 1)
    with pytest.raises(Im2SpError, match=r"would both be 00\.png: give the folder that holds both"):
        plan_shards([one, two], Reading())


def test_sources_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    table = write_table(tmp_path / "a.parquet", {"bytes": pa.array([], pa.binary())})
    plan = plan_shards([tmp_path / "empty", table], Reading())
    assert plan.slices == ()
    assert [problem.split(": ")[1].split(" (")[0] for problem in plan.problems] == ["holds no photos"] * 2


def test_what_cannot_be_read_any_further_is_an_error_for_each_photo(tmp_path: Path) -> None:
    files = PhotoFiles(tuple((str(tmp_path / name), name) for name in ("a.png", "b.png")))
    assert [photo.error for photo in read_whole(files)] == [None, None]  # the pictures are opened later
    table = write_table(tmp_path / "a.parquet", {"bytes": [b"1", b"2"]})
    rows = TableRows(str(table), 0, 4)
    assert ids(rows) == [f"a.parquet/{row}" for row in range(4)]
    assert [photo.error for photo in read_whole(rows)][2:] == [f"{table}: has fewer photos than it promises"] * 2
    table.unlink()
    assert [photo.error for photo in read_whole(rows)] == [f"{table}: there is no such file"] * 4
    tar = write_tar(tmp_path / "a.tar", {f"{seed}.png": picture(seed) for seed in range(3)})
    tar.write_bytes(tar.read_bytes()[:9_000])
    photos = list(read_whole(WholeTar(str(tar))))
    assert [photo.image_id for photo in photos[:1]] == ["0.png"]
    assert [photo.error is None for photo in photos] == [True] * (len(photos) - 1) + [False]
