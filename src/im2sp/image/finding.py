"""Photos and folders in, paths of photos out: streamed, in a fixed order, each once."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from im2sp.errors import reason
from im2sp.files import open_regular
from im2sp.image.formats import DOCUMENTS, HEAD_BYTES, can_read, kind_of, readable_kinds

UNKNOWN = "unknown"
# Names that promise a photo: such a file is tried whatever it holds. Others in a folder are told by their content.
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
IMAGE_SUFFIXES = frozenset(
    (*_JPEG, ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".heic")
)


@dataclass(frozen=True)
class Survey:
    """What a first look at the sources found."""

    count: int  # photos
    problems: tuple[str, ...]  # sentences: folders that cannot be read or hold no photos
    left_out: Counter[str] = field(default_factory=Counter)  # pictures that cannot be read, by kind


def left_out_line(kinds: Counter[str]) -> str:
    """Return the sentence about pictures that were left out, such as "3 left out: HEIC (2), JPEG XL (1)"."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return f"{kinds.total()} left out: {', '.join(f'{kind} ({count})' for kind, count in ordered)}"


@dataclass(frozen=True)
class Photos:
    """The photos of some files and folders. Iterating walks the folders anew, so nothing but paths is held."""

    sources: Sequence[Path]

    def __iter__(self) -> Iterator[Path]:
        """Paths in the order of the sources, each folder sorted with its own photos before those of its subfolders."""
        return (photo for photo, _ in self._walk(lambda problem: None, Counter()))

    def named(self) -> Iterator[tuple[Path, str]]:
        """Paths in the same order, each with its place below its source folder, "train/a.jpg", or the file's name."""
        return ((photo, _name(photo, source)) for photo, source in self._walk(lambda problem: None, Counter()))

    def survey(self) -> Survey:
        """Count the photos and collect what is wrong with the folders."""
        problems: list[str] = []
        left_out: Counter[str] = Counter()
        count = sum(1 for _ in self._walk(problems.append, left_out))
        return Survey(count, tuple(problems), left_out)

    def _walk(self, complain: Callable[[str], None], left_out: Counter[str]) -> Iterator[tuple[Path, Path]]:
        """Photos, each with the source that it comes from."""
        seen: set[str] | None = set() if len(self.sources) > 1 else None
        for source in self.sources:
            for photo in _in_folder(source, complain, left_out) if source.is_dir() else (source,):
                if seen is not None:
                    absolute = os.path.abspath(photo)
                    if absolute in seen:
                        continue
                    seen.add(absolute)
                yield photo, source


def _in_folder(folder: Path, complain: Callable[[str], None], left_out: Counter[str]) -> Iterator[Path]:
    """Photos below `folder`. A folder that holds none, or cannot be read, is complained about, and only once."""
    empty = True

    def unreadable(error: OSError) -> None:
        nonlocal empty
        empty = False
        complain(f"{error.filename}: cannot be looked into ({reason(error)})")

    for path in files_below(folder, unreadable):
        kind = kind_in_folder(path)
        if kind is None:
            continue
        empty = False
        if kind == UNKNOWN or can_read(kind):
            yield Path(path)
        else:
            left_out[kind] += 1
    if empty:
        complain(f"{folder}: holds no photos ({readable_kinds()})")


def files_below(folder: Path, unreadable: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """Paths of files in order; hidden files and folders (thumbnails, resource forks) are passed over."""
    for where, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(where, name) for name in sorted(files) if not name.startswith("."))


def kind_in_folder(path: str) -> str | None:
    """Return the kind of a picture in a folder; UNKNOWN where only its name promises one, None for other files."""
    suffix = os.path.splitext(path)[1]
    promised = suffix.lower() in IMAGE_SUFFIXES
    try:
        with open_regular(Path(path), sys.maxsize) as file:
            kind = kind_of(file.read(HEAD_BYTES), suffix)
    except (OSError, ValueError):
        kind = None
    if kind is None or (kind in DOCUMENTS and not promised):
        return UNKNOWN if promised else None
    return kind


def _name(photo: Path, source: Path) -> str:
    """In UTF-8, which the names of files need not be."""
    name = photo.name if photo == source else photo.relative_to(source).as_posix()
    return os.fsencode(name).decode("utf-8", "backslashreplace")
