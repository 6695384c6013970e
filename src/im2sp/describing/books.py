"""An EPUB in, its chapters in reading order and the bytes of its files out (EPUB 3.3, Open Container Format).

Nothing is written to the disk. A book comes from outside: the size of its list of files, their number, each size and
how tightly each is packed are checked before memory is taken. Its XML is read tag by tag, so no entity expands.
"""

from __future__ import annotations

import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from im2sp.describing.images import local_path
from im2sp.describing.limits import (
    MAX_BOOK_BYTES,
    MAX_BOOK_DIRECTORY,
    MAX_BOOK_FILES,
    MAX_BOOK_UNPACKED,
    MAX_PAGE_BYTES,
    MAX_RATIO,
    RATIO_FROM,
    DocumentError,
)
from im2sp.describing.markup import Tag, read_text, start_tags
from im2sp.errors import ImageError
from im2sp.images.loading import MAX_FILE_BYTES
from im2sp.sentences import reason

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_XHTML, _HTML = "application/xhtml+xml", "text/html"
_END, _END64 = (
    b"PK\x05\x06",
    b"PK\x06\x07",
)  # what the end of a zip file, and the pointer before a large one's, begin with
_END_BYTES, _END64_BYTES, _COMMENT = 22, 20, 2**16
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the only ones an EPUB may use
_IS_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Chapter:
    """A page of a book."""

    name: str  # of the file inside the book
    is_xml: bool


class Book:
    """An open EPUB. Made by `open_book`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._names = set(archive.namelist())
        self._protected: frozenset[str] = frozenset()
        self._protected = self._protected_names()

    def chapters(self) -> Iterator[Chapter]:
        """Its pages in reading order, each once. Raises DocumentError for a book without, or with encrypted pages."""
        package = self._package_name()
        tags = self._tags(package)
        items = {tag.attributes.get("id", ""): tag.attributes for tag in tags if tag.name == "item"}
        order = dict.fromkeys(tag.attributes.get("idref", "") for tag in tags if tag.name == "itemref")
        pages = [items[place] for place in order if items.get(place, {}).get("media-type") in (_XHTML, _HTML)]
        if not pages:
            raise DocumentError(f"{self._path}: is not an EPUB that im2sp can read (it lists no pages)")
        for page in pages:
            try:
                name = self.name_of(package, local_path(page.get("href", "")))
            except ImageError as error:
                raise DocumentError(f"{self._path}: lists a page that cannot be read: {error}") from error
            if self._is_encrypted(name):
                raise DocumentError(
                    f"{self._path}: is encrypted (copy protection), which im2sp cannot read; use a copy without it"
                )
            yield Chapter(name, page["media-type"] == _XHTML)

    def name_of(self, page: str, relative: str) -> str:
        """The file that a relative path means inside the page of that name. Raises ImageError: outside the book."""
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page), relative))
        if name.startswith(("../", "/")) or name in ("..", "."):
            raise ImageError("leads out of the book, which is not followed")
        return name

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """The bytes of one of its files, at most `most`. Raises ImageError: missing, encrypted, damaged, too large."""
        if name not in self._names:
            raise ImageError(f"{name}: there is no such file in the book")
        if self._is_encrypted(name):
            raise ImageError(f"{name}: is encrypted (copy protection)")
        entry = self._archive.getinfo(name)
        if entry.compress_type not in _PACKINGS:
            raise ImageError(f"{name}: is packed in a way that no EPUB may use")
        if entry.file_size > most:
            raise ImageError(f"{name}: is larger than {most // 2**20} MiB, the limit")
        if entry.file_size > max(RATIO_FROM, MAX_RATIO * entry.compress_size):
            raise ImageError(f"{name}: is packed more than {MAX_RATIO} times smaller than it is, which is refused")
        try:
            with self._archive.open(entry) as file:
                return file.read(most)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
            raise ImageError(f"{name}: is damaged ({reason(error)})") from error

    def _is_encrypted(self, name: str) -> bool:
        if name in self._protected:
            return True
        return name in self._names and bool(self._archive.getinfo(name).flag_bits & _IS_ENCRYPTED)

    def _package_name(self) -> str:
        for tag in self._tags(_CONTAINER):
            if tag.name == "rootfile" and tag.attributes.get("full-path"):
                return tag.attributes["full-path"]
        raise DocumentError(f"{self._path}: is not an EPUB that im2sp can read ({_CONTAINER} names no package)")

    def _protected_names(self) -> frozenset[str]:
        """The files that META-INF/encryption.xml lists; fonts often are in books without copy protection."""
        if _ENCRYPTION not in self._names:
            return frozenset()
        references = [tag.attributes.get("uri", "") for tag in self._tags(_ENCRYPTION) if tag.name == "cipherreference"]
        return frozenset(map(_unquoted, references))

    def _tags(self, name: str) -> list[Tag]:
        try:
            return list(start_tags(read_text(self.read(name, MAX_PAGE_BYTES)), xml=True))
        except ImageError as error:
            raise DocumentError(f"{self._path}: is not an EPUB that im2sp can read ({error})") from error


@contextmanager
def open_book(path: Path) -> Iterator[Book]:
    """Open an EPUB. Raises DocumentError: not a zip file, damaged, too large, with too many files."""
    with path.open("rb") as file:
        _check_end(path, file)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
            raise DocumentError(f"{path}: is damaged ({reason(error)})") from error
        with archive:
            entries = archive.infolist()
            if len(entries) > MAX_BOOK_FILES or sum(entry.file_size for entry in entries) > MAX_BOOK_UNPACKED:
                limits = f"{MAX_BOOK_FILES:,} files and {MAX_BOOK_UNPACKED // 2**30} GiB unpacked"
                raise DocumentError(f"{path}: is too large; the limits for a book are {limits}")
            yield Book(path, archive)


def _check_end(path: Path, file: BinaryIO) -> None:
    """Refuse what zipfile would need much memory for: it reads the whole list of files when it opens one."""
    size = file.seek(0, 2)
    if size > MAX_BOOK_BYTES:
        raise DocumentError(f"{path}: is larger than {MAX_BOOK_BYTES // 2**30} GiB, the limit for a book")
    file.seek(max(0, size - _END_BYTES - _COMMENT - _END64_BYTES))
    tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_BYTES:
        raise DocumentError(f"{path}: is not an EPUB, or is cut short (it does not end as a zip file does)")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")  # bytes of the list
    large = tail[max(0, end - _END64_BYTES) : end].startswith(_END64)
    if large or directory > MAX_BOOK_DIRECTORY:
        raise DocumentError(f"{path}: lists too many files; the limit for a book is {MAX_BOOK_FILES:,}")


def _unquoted(reference: str) -> str:
    try:
        return posixpath.normpath(local_path(reference))
    except ImageError:
        return ""
