"""Books: chapters in reading order, and hostile zip files and packages refused before they cost anything."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

import pytest

from im2sp.describing import books
from im2sp.describing.books import open_book
from im2sp.describing.documents import DocumentImage, open_document
from im2sp.describing.limits import DocumentError
from tests.describing.documents import page, picture, write_book

TWO = "OPS/text/two .xhtml"


def images(path: Path) -> list[DocumentImage]:
    with open_document(path) as document:
        assert document.kind == "book"
        return list(document.images)


def refused(path: Path) -> str:
    with pytest.raises(DocumentError) as caught:
        images(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_images_in_reading_order(tmp_path: Path) -> None:
    files = {
        "OPS/one.xhtml": page('<img src="a.png"/>', '<img src="a.png" alt=""/>', '<img src="http://x/a.png"/>'),
        TWO: page('<img src="../a.png" alt=" "/>', '<img src="../../b.png"/>', '<img src="../../../b.png"/>'),
        "OPS/a.png": picture(),
        "b.png": picture(1),
    }
    path = write_book(tmp_path / "book.epub", files)
    with open_document(path) as document:
        found = list(document.images)
        assert [(image.page, image.state) for image in found] == [
            (TWO, "to speak"),
            (TWO, "to speak"),
            (TWO, "failed"),
            ("OPS/one.xhtml", "to speak"),
            ("OPS/one.xhtml", "decorative"),
            ("OPS/one.xhtml", "remote"),
        ]
        assert found[0].key == found[3].key == path / "OPS" / "a.png"
        assert found[1].read is not None
        assert found[1].read().read() == picture(1)  # type: ignore[union-attr]
    assert found[2].error == "leads out of the book, which is not followed"


def test_a_chapter_that_is_missing_costs_only_itself(tmp_path: Path) -> None:
    found = images(write_book(tmp_path / "a.epub", {"OPS/one.xhtml": page("<img/>")}))
    assert [image.error for image in found] == [
        f"the chapter cannot be read: {TWO}: there is no such file in the book",
        "the image has no source",
    ]


def test_entities_never_expand(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'
    text = bomb + page('<img src="&c;"/>', '<img src="&b;"/>')
    found = images(write_book(tmp_path / "a.epub", {"OPS/one.xhtml": text, TWO: page()}))
    assert [image.source for image in found] == ["&c;", "&b;"]


def test_files_that_are_no_books(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    path.touch()
    assert "does not end as a zip file does" in refused(path)
    whole = write_book(path, {}).read_bytes()
    path.write_bytes(whole[:-30])
    assert "does not end as a zip file does" in refused(path)
    path.write_bytes(b"x" * len(whole[:-22]) + whole[-22:])
    assert "is damaged" in refused(path)
    assert "names no package" in refused(write_book(path, {"META-INF/container.xml": "<x/>"}))
    assert "there is no such file" in refused(write_book(path, {"META-INF/container.xml": '<rootfile full-path="x"/>'}))
    assert "lists no pages" in refused(write_book(path, {"OPS/book.opf": "<package/>"}))
    package = '<item id="a" href="../../a.html" media-type="text/html"/><itemref idref="a"/>'
    assert "leads out of the book" in refused(write_book(path, {"OPS/book.opf": package}))


def test_encrypted_books(tmp_path: Path) -> None:
    lock = '<encryption><enc:CipherReference URI="{}"/></encryption>'
    files: dict[str, str | bytes] = {"OPS/one.xhtml": page('<img src="a.png"/>'), TWO: page(), "OPS/a.png": picture()}
    path = tmp_path / "a.epub"
    protected = write_book(path, {**files, "META-INF/encryption.xml": lock.format("OPS/one.xhtml")})
    assert "is encrypted (copy protection), which im2sp cannot read; use a copy without it" in refused(protected)
    with open_book(write_book(path, {**files, "META-INF/encryption.xml": lock.format("OPS/a.png")})) as book:
        with pytest.raises(books.ImageError, match=r"^OPS/a.png: is encrypted"):
            book.read("OPS/a.png")
        assert [chapter.name for chapter in book.chapters()] == [TWO, "OPS/one.xhtml"]
    whole = bytearray(write_book(path, files).read_bytes())
    for entry in re.finditer(rb"PK\x01\x02", bytes(whole)):  # the flag of a password, on every file
        whole[entry.start() + 8] |= 1
    path.write_bytes(whole)
    assert "is encrypted" in refused(path)


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_book(tmp_path / "a.epub", {"bomb.png": bytes(8 * 2**20), "small.png": b"x" * 1000})
    with open_book(path) as book:
        with pytest.raises(books.ImageError, match="packed more than 200 times"):
            book.read("bomb.png")
        with pytest.raises(books.ImageError, match="larger than 4 MiB"):
            book.read("bomb.png", 4 * 2**20)
        assert len(book.read("small.png")) == 1000
        with pytest.raises(books.ImageError, match="no such file"):
            book.read("none.png")
    with (
        open_book(write_book(tmp_path / "b.epub", {}, zipfile.ZIP_LZMA)) as book,
        pytest.raises(books.ImageError, match="no EPUB may use"),
    ):
        book.read("mimetype")
    monkeypatch.setattr(books, "MAX_BOOK_FILES", 4)
    assert "is too large" in refused(path)


def test_a_long_list_of_files_is_not_read(tmp_path: Path) -> None:
    path = write_book(tmp_path / "a.epub", {})
    whole = path.read_bytes()
    end = whole.rfind(b"PK\x05\x06")
    path.write_bytes(whole[: end + 12] + struct.pack("<I", 2**31) + whole[end + 16 :])
    assert "lists too many files" in refused(path)
    path.write_bytes(whole[:end] + b"PK\x06\x07" + bytes(16) + whole[end:])
    assert "lists too many files" in refused(path)


def test_a_damaged_file_in_a_book(tmp_path: Path) -> None:
    path = write_book(tmp_path / "a.epub", {"a.png": picture()}, zipfile.ZIP_STORED)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(picture()[-40:-20], bytes(20)))
    with open_book(path) as book, pytest.raises(books.ImageError, match=r"^a.png: is damaged"):
        book.read("a.png")
