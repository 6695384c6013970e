"""Watching: each new photo once, when it is complete; what was there, and what goes away, is no news."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from im2sp.errors import ImageError
from im2sp.watch import STABLE_SCANS, FolderWatcher


class Ended(Exception):
    """The last look is done."""


def watched(folder: Path, *between: Callable[[], object]) -> list[tuple[str, int]]:
    """Photos that a watch gives, each with the look that gave it, when this is done between looks."""
    looks = 0
    todo = list(between)

    def pause() -> None:
        nonlocal looks
        looks += 1
        if todo:
            todo.pop(0)()
        elif looks > len(between) + STABLE_SCANS + 1:
            raise Ended

    found = []
    with suppress(Ended):
        for photo in FolderWatcher(folder, pause):
            found.append((str(photo.relative_to(folder)), looks))
    return found


def write(path: Path, data: bytes, changed: int = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (changed, changed))


def nothing() -> None:
    pass


def test_new_photos_come_once_those_that_were_there_do_not(tmp_path: Path) -> None:
    write(tmp_path / "old.jpg", b"old")
    news = watched(
        tmp_path,
        lambda: write(tmp_path / "new.jpg", b"new"),
        lambda: write(tmp_path / "deep" / "new.PNG", b"new"),
        lambda: write(tmp_path / "new.txt", b"no photo"),
        lambda: write(tmp_path / ".hidden.jpg", b"hidden"),
    )
    assert news == [("new.jpg", 1 + STABLE_SCANS), ("deep/new.PNG", 2 + STABLE_SCANS)]


def test_a_photo_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "slow.jpg"
    news = watched(
        tmp_path,
        lambda: write(path, b"", 1),
        nothing,
        nothing,
        nothing,
        lambda: write(path, b"a", 1),
        lambda: write(path, b"ab", 1),
        lambda: write(path, b"AB", 2),
    )
    assert news == [("slow.jpg", 7 + STABLE_SCANS)]


def test_a_photo_that_changes_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "camera.jpg"
    write(path, b"was there", 1)
    calm = [nothing] * (STABLE_SCANS + 1)
    news = watched(tmp_path, lambda: write(path, b"now", 2), *calm, lambda: write(path, b"and now", 3))
    assert [name for name, _ in news] == ["camera.jpg"] * 2


def test_a_folder_that_is_none_or_goes_away(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(ImageError, match="is not a folder that can be watched"):
            FolderWatcher(place)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ImageError, match="folder: is not a folder"):
        next(iter(FolderWatcher(folder, folder.rmdir)))


def test_content_tells_what_is_new(tmp_path: Path) -> None:
    """Also pictures that cannot be read come: their refusal says what they are, and they are counted."""
    jpeg_xl = b"\xff\x0a\0\0"
    news = watched(
        tmp_path,
        lambda: write(tmp_path / "photo.download", b"\xff\xd8\xff\xe0"),
        lambda: write(tmp_path / "new.heic", jpeg_xl),
        lambda: write(tmp_path / "notes.txt", b"BMW"),
    )
    assert [name for name, _ in news] == ["photo.download", "new.heic"]
