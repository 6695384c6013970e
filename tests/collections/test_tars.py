"""A tar gives its pictures, in order, and whatever is wrong with it ends in one sentence."""

from __future__ import annotations

import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.collections import tars
from im2sp.collections.tars import tar_photos
from im2sp.errors import ImageError
from im2sp.image.loading import load_image
from tests.collections.sources import picture, write_tar


def test_pictures_come_in_order_and_nothing_else(tmp_path: Path) -> None:
    members = {
        "train/7.jpg": picture(0),
        "train/7.json": b"{}",
        "train/7.txt": b"a dog",
        "train/._3.jpg": b"resource fork",
        "train/3.PNG": picture(1),
        "broken.png": b"not a picture",
    }
    photos = list(tar_photos(write_tar(tmp_path / "a.tar", members)))
    assert [photo.image_id for photo in photos] == ["train/7.jpg", "train/3.PNG", "broken.png"]
    assert load_image(photos[0].image).size == (40, 40)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"^broken\.png: is not a picture"):
        load_image(photos[2].image)  # type: ignore[arg-type]


def test_names_that_are_long_or_no_text(tmp_path: Path) -> None:
    long = "d/" * 3_000 + "a.png"
    members = {long: picture(0), "caf\udce9.png": picture(1)}
    first, second = tar_photos(write_tar(tmp_path / "a.tar", members, errors="surrogateescape"))
    assert first.image_id.startswith("a.tar/")
    assert first.error
    assert "its id is empty, longer than 4096 bytes or no text" in first.error
    assert (second.image_id, second.error) == ("caf\\xe9.png", None)


def test_links_and_folders_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert list(tar_photos(tmp_path / "a.tar")) == []


def test_a_picture_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_FILE_BYTES", 2**20)
    tar = write_tar(tmp_path / "a.tar", {"large.png": bytes(2**20 + 1), "a.png": picture(0)})
    large, small = tar_photos(tar)
    assert large.error == "large.png: is larger than 1 MiB, the limit for a picture file"
    assert small.error is None


def test_a_header_that_would_take_much_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2_048))
    with pytest.raises(ImageError, match="which is refused"):
        list(tar_photos(tmp_path / "a.tar"))


def test_headers_that_lead_backwards(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.txt")
    header.size = -1_024
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) * 4 + bytes(2_048))
    with pytest.raises(ImageError, match=r"^.*a\.tar: "):
        list(tar_photos(tmp_path / "a.tar"))


def test_what_is_before_the_damage_is_read(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {f"{seed}.png": picture(seed) for seed in range(3)})
    tar.write_bytes(tar.read_bytes()[:9_000])
    photos = tar_photos(tar)
    assert next(photos).image_id == "0.png"
    with pytest.raises(ImageError, match="cut short"):
        list(photos)


@pytest.mark.parametrize(("content", "part"), [(None, "there is no such file"), (b"no tar" * 200, "is no tar file")])
def test_what_is_no_tar(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "a.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=part):
        list(tar_photos(path))


@given(place=st.integers(0, 6_000), value=st.binary(min_size=1, max_size=16))
def test_damage_anywhere_ends_in_pictures_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: bytes
) -> None:
    tar = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    data = bytearray(write_tar(tar, {f"{seed}.png": picture(seed, 16) for seed in range(4)}).read_bytes())
    data[place : place + len(value)] = value
    tar.write_bytes(data)
    with suppress(ImageError):
        assert all(photo.image_id for photo in tar_photos(tar))
