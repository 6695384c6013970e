"""Photos of folders, tars and tables are listed with ids of their own; what cannot be trusted is refused unread."""

from __future__ import annotations

import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.bundle import ImageTokenizer
from im2sp.errors import Im2SpError, ImageError, OutputError, TableError
from im2sp.image import listing
from im2sp.image.finding import Survey
from im2sp.image.listing import list_photos
from im2sp.image.unit_table import write_unit_table
from tests.image.collections import picture, write_photos, write_table, write_tar
from tests.tiny_bundle import tiny_image_units

TOKENIZER = ImageTokenizer(**tiny_image_units().described())


def names(*sources: Path) -> list[str]:
    return [place.image_id for place in list_photos(sources).places]


def test_pictures_of_a_tar(tmp_path: Path) -> None:
    members = {
        "train/7.jpg": picture(0),
        "train/7.json": b"{}",
        "train/._3.jpg": b"resource fork",
        "train/3.PNG": picture(1),
        "caf\udce9.png": b"not a picture",
    }
    tar = write_tar(tmp_path / "a.tar", members, errors="surrogateescape")
    for source in (tar, tmp_path):
        assert names(source) == ["train/7.jpg", "train/3.PNG", "caf\\xe9.png"]
    _, place, _ = list_photos([tar]).places
    assert tar.read_bytes()[place.offset :][: place.size] == picture(1)


def test_links_and_folders_in_a_tar_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE)
        for number, kind in enumerate(kinds):
            member = tarfile.TarInfo(f"{number}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    collection = list_photos([tmp_path / "a.tar"])
    assert collection.survey == Survey(0, (f"{tmp_path / 'a.tar'}: holds no photos",))


@pytest.mark.parametrize(("kind", "size"), [(tarfile.XHDTYPE, 2**40), (tarfile.REGTYPE, -1_024)])
def test_hostile_headers(tmp_path: Path, kind: bytes, size: int) -> None:
    header = tarfile.TarInfo("a.txt")
    header.type, header.size = kind, size
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) * 4 + bytes(2_048))
    with pytest.raises(ImageError, match=r"a\.tar: is no tar file, or is damaged"):
        list_photos([tmp_path / "a.tar"])


@given(place=st.integers(0, 6_000), value=st.binary(min_size=1, max_size=16))
def test_damage_anywhere_in_a_tar(tmp_path_factory: pytest.TempPathFactory, place: int, value: bytes) -> None:
    tar = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    data = bytearray(write_tar(tar, {f"{seed}.png": picture(seed, 16) for seed in range(4)}).read_bytes())
    data[place : place + len(value)] = value
    tar.write_bytes(data)
    with suppress(Im2SpError):
        assert all(listed.size >= 0 for listed in list_photos([tar]).places)


@pytest.mark.parametrize(
    ("column", "kind"),
    [("bytes", pa.binary()), ("jpg", pa.large_binary()), ("image", pa.struct({"bytes": pa.binary()}))],
)
def test_tables_of_photos(tmp_path: Path, column: str, kind: Any) -> None:
    photos = [b"1", None] if column != "image" else [{"bytes": b"1"}, None]
    for name, ids in (("a", [1, 2]), ("b", [3, 4])):
        write_table(tmp_path / f"{name}.parquet", {"key": ids, column: pa.array(photos, kind), "url": ["x", "y"]})
    collection = list_photos([tmp_path])
    assert (collection.ids, collection.columns) == ({"1", "2", "3", "4"}, ("key", column))
    assert collection.tables == (tmp_path / "a.parquet", tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"key": ["a"], "url": ["https://example.com/a.jpg"]}, "has no column of photos, which would be one of bytes,"),
        ({"bytes": [b"1"]}, "has no column of ids, which would be one of image_id, key, __key__"),
        ({"key": ["a", "a"], "bytes": [b"1", b"2"]}, "has two photos that are called a"),
        ({"key": ["a", None], "bytes": [b"1", b"2"]}, "has no image_id"),
        ({"key": ["a" * 5_000], "bytes": [b"1"]}, "is empty or longer than 4096 bytes"),
        ({"key": ["a"] * 4, "bytes": [bytes(2**20)] * 4}, "row group 1 has over 1 MB in bytes; write smaller"),
        ({"key": pa.array([], pa.string()), "bytes": pa.array([], pa.binary())}, ""),
    ],
)
def test_tables_that_are_refused(
    tmp_path: Path, columns: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MOST_BYTES", 2**20)
    table = write_table(tmp_path / "a.parquet", columns)
    if not reason:
        assert list_photos([table]).survey.problems == (f"{table}: holds no photos",)
        return
    with pytest.raises(Im2SpError, match=reason):
        list_photos([table])


def test_tables_of_image_units(tmp_path: Path) -> None:
    table = tmp_path / "units.parquet"
    write_unit_table(table, TOKENIZER, ((name, np.zeros(TOKENIZER.units, np.int64)) for name in "abc"))
    collection = list_photos([table], TOKENIZER)
    assert (sorted(collection.ids), collection.tokenizer) == (["a", "b", "c"], TOKENIZER)
    with pytest.raises(TableError, match="holds image units; what is asked for here is photos"):
        list_photos([table])
    with pytest.raises(TableError, match="were made by the tokenizer"):
        list_photos([table], tiny_image_units("1" * 64))


def test_sources_that_cannot_be_meant(tmp_path: Path) -> None:
    one, two, tar = write_photos(tmp_path / "one", 1), write_photos(tmp_path / "two", 1), tmp_path / "a.tar"
    write_tar(tar, {"00.png": picture(0)})
    with pytest.raises(OutputError, match=r"would both be 00\.png in the output: give the folder that holds both"):
        list_photos([one, two])
    with pytest.raises(Im2SpError, match="one kind at a time"):
        list_photos([one, tar])
    (one / "b.tar").write_bytes(tar.read_bytes())
    with pytest.raises(Im2SpError, match=r"holds photos and also b\.tar; name the files that are meant"):
        list_photos([one])
    with pytest.raises(OutputError, match=r"a\.tar and .*b\.tar would both be 00\.png"):
        list_photos([tar, one / "b.tar"])
    other = write_table(tmp_path / "b.parquet", {"key": ["c"], "jpg": [b"1"]})
    with pytest.raises(TableError, match="have different columns of photos"):
        list_photos([write_table(tmp_path / "a.parquet", {"key": ["a"], "bytes": [b"1"]}), other])
