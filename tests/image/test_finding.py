"""Photos are found in folders: in one order, each once, and what holds none is said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from im2sp.image.finding import Photos, left_out_line
from tests.image.test_formats import HEADS


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    tree(
        tmp_path, "b.JPG", "a.png", "z/1.webp", "m/n/2.tiff", "m/1.gif", "notes.txt", ".hidden.jpg", ".cache/x.jpg", "x"
    )
    found = [photo.relative_to(tmp_path).as_posix() for photo in Photos([tmp_path])]
    assert found == ["a.png", "b.JPG", "m/1.gif", "m/n/2.tiff", "z/1.webp"]
    assert Photos([tmp_path]).survey().count == 5


def test_photos_are_named_by_their_place(tmp_path: Path) -> None:
    tree(tmp_path, "in/a.jpg", "in/deep/a.jpg", "b.jpg", os.fsdecode(b"in/\xff.jpg"))
    named = Photos([tmp_path / "in", tmp_path / "b.jpg"]).named()
    assert [(photo.name, name) for photo, name in named] == [
        ("a.jpg", "a.jpg"),
        (os.fsdecode(b"\xff.jpg"), "\\xff.jpg"),
        ("a.jpg", "deep/a.jpg"),
        ("b.jpg", "b.jpg"),
    ]


def test_each_photo_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path, "a/1.jpg", "a/2.jpg"))
    sources = [Path("a/2.jpg"), Path("a"), tmp_path / "a" / "1.jpg", Path("a/../a/1.jpg")]
    assert list(Photos(sources)) == [Path("a/2.jpg"), Path("a/1.jpg")]


def test_folders_without_photos_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "full/1.jpg", "empty/notes.txt")
    survey = Photos([tmp_path / "full", tmp_path / "empty"]).survey()
    assert survey.count == 1
    assert len(survey.problems) == 1
    assert survey.problems[0].startswith(f"{tmp_path / 'empty'}: holds no photos (")


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def guarded(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    survey = Photos([tmp_path]).survey()
    assert survey.count == 1
    assert survey.problems == (f"{tmp_path / 'locked'}: cannot be looked into (permission denied)",)
    assert Photos([tmp_path / "locked"]).survey().count == 0
    assert len(Photos([tmp_path / "locked"]).survey().problems) == 1


def test_content_tells_photos_and_what_is_left_out(tmp_path: Path) -> None:
    contents = {
        "IMG_1": b"\xff\xd8\xff\xe0", "photo.dat": b"\x89PNG\r\n\x1a\n", "broken.jpg": b"nothing", "notes.txt": b"BM",
        "a.heic": HEADS["JPEG XL"], "b.jpg": HEADS["JPEG XL"], "c.bin": HEADS["camera RAW"], "report": HEADS["PDF"],
        "page.png": HEADS["PDF"], "d/e.svg": HEADS["SVG"],
    }  # fmt: skip
    for name, data in contents.items():
        (tree(tmp_path, name) / name).write_bytes(data)
    assert [photo.name for photo in Photos([tmp_path])] == ["IMG_1", "broken.jpg", "photo.dat"]
    survey = Photos([tmp_path]).survey()
    assert survey.count == 3
    assert left_out_line(survey.left_out) == "5 left out: JPEG XL (2), PDF (1), SVG (1), camera RAW (1)"
    named = [tmp_path / "a.heic"]
    assert (list(Photos(named)), Photos(named).survey().left_out.total()) == (named, 0)  # the refusal says what it is
