"""Photos and folders in, paths of photos out: streamed, in a fixed order, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import reason

# What counts as a photo inside a folder; a file that is named on its own is always tried.
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
IMAGE_SUFFIXES = frozenset((*_JPEG, ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"))


@dataclass(frozen=True)
class Survey:
    """What a first look at the sources found."""

    count: int  # photos
    problems: tuple[str, ...]  # sentences: folders that cannot be read or hold no photos


@dataclass(frozen=True)
class Photos:
    """The photos of some files and folders. Iterating walks the folders anew, so nothing but paths is held."""

    sources: Sequence[Path]

    def __iter__(self) -> Iterator[Path]:
        """Paths in the order of the sources, each folder sorted with its own photos before those of its subfolders."""
        return (photo for photo, _ in self._walk(lambda problem: None))

    def named(self) -> Iterator[tuple[Path, str]]:
        """Paths in the same order, each with a name: where it lies below its source folder, "train/a.jpg", or the name
        of the file. Names of different photos may be the same.
        """
        return ((photo, _name(photo, source)) for photo, source in self._walk(lambda problem: None))

    def survey(self) -> Survey:
        """Count the photos and collect what is wrong with the folders."""
        problems: list[str] = []
        return Survey(sum(1 for _ in self._walk(problems.append)), tuple(problems))

    def _walk(self, complain: Callable[[str], None]) -> Iterator[tuple[Path, Path]]:
        """Photos, each with the source that it comes from."""
        seen: set[str] | None = set() if len(self.sources) > 1 else None
        for source in self.sources:
            for photo in _in_folder(source, complain) if source.is_dir() else (source,):
                if seen is not None:
                    absolute = os.path.abspath(photo)
                    if absolute in seen:
                        continue
                    seen.add(absolute)
                yield photo, source


def _in_folder(folder: Path, complain: Callable[[str], None]) -> Iterator[Path]:
    """Photos below `folder`; hidden files and folders (thumbnails, resource forks) are passed over."""
    empty = True

    def unreadable(error: OSError) -> None:
        nonlocal empty
        empty = False  # one complaint about a folder is enough
        complain(f"{error.filename}: cannot be looked into ({reason(error)})")

    for where, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                empty = False
                yield Path(where, name)
    if empty:
        complain(f"{folder}: holds no photos (files ending in {', '.join(sorted(IMAGE_SUFFIXES))})")


def _name(photo: Path, source: Path) -> str:
    """In UTF-8, which the names of files need not be."""
    name = photo.name if photo == source else photo.relative_to(source).as_posix()
    return os.fsencode(name).decode("utf-8", "backslashreplace")
